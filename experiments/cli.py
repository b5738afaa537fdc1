"""What all commands share: options typed once in a dataclass, `key=value` words, --help, errors as one message."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import groupby, zip_longest
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from datamodules.whole_files.command_line import suggest

# What a user can cause: shown as one message. Everything else is our fault and keeps its traceback.
USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, OSError)
HELP = ("--help", "-h")
MISSING: Any = "???"  # default of a key that must be given, as OmegaConf marks it
TYPES = {str: "text", Path: "path"}  # every other type is called by its own name
Options = TypeVar("Options")


# ---- words -----------------------------------------------------------------------------------------------------------
class Words(NamedTuple):
    """A parsed command line: `--flags`, and `key=value` pairs in order."""

    flags: set[str]
    pairs: list[tuple[str, str]]


def unknown(what: str, word: str, known: Sequence[str]) -> ValueError:
    """`Unknown recipe 'x'. Did you mean 'y'? Available: y, z.`, to be raised."""
    return ValueError(f"Unknown {what} '{word}'.{suggest(word, known)} Available: {', '.join(known)}.")


def parse_words(argv: Sequence[str], *, flags: Sequence[str] = (), bare: str = "") -> Words:
    """Split `argv` into flags and pairs; one word may stand alone and is the value of the key `bare`.

    Raises:
        ValueError: a word that is neither `key=value` nor one of `flags`.
    """
    seen, pairs = set(), []
    for word in argv:
        if word.startswith("-"):
            if word not in flags:
                raise unknown("option", word, flags)
            seen.add(word)
        elif "=" in word:
            key, value = word.split("=", 1)
            pairs.append((key, value))
        elif bare and bare not in dict(pairs):
            pairs.append((bare, word))
        elif bare:
            raise ValueError(f"Expected one {bare}, got '{word}' beside '{dict(pairs)[bare]}'. See --help.")
        else:
            raise ValueError(f"Expected key=value, got '{word}'. For example: seed=3. See --help.")
    return Words(seen, pairs)


# ---- options: a dataclass with a docstring under each field ----------------------------------------------------------
class Option(NamedTuple):
    """A key a user can give. key: as it is typed, `train.epochs`. group: the dataclass in which `field` stands."""

    key: str
    group: Any
    field: str
    hint: Any
    default: Any
    meaning: str

    @property
    def is_text(self) -> bool:
        return all(part is str or get_origin(part) is Literal for part in alternatives(self.hint))

    @property
    def columns(self) -> tuple[str, str, str, str]:
        """Key, type, default and meaning as --help shows them."""
        default = "required" if self.default == MISSING else as_word(self.default)
        return self.key, type_name(self.hint), default or "-", self.meaning


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types a value may have, None apart."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(part for part in parts if part is not NoneType)


def list_options(kind: Any, prefix: str = "") -> tuple[Option, ...]:
    """Every key of a dataclass: its own first, then those of the dataclasses in it as `group.key`.

    The text under a field is its meaning. A field `from_` is typed as `from`, which Python keeps for itself.
    """
    hints, meanings = get_type_hints(kind), _texts_under_fields(kind)
    own: list[Option] = []
    nested: list[Option] = []
    for field in dataclasses.fields(kind):
        key, hint = prefix + field.name.rstrip("_"), hints[field.name]
        if dataclasses.is_dataclass(hint):
            nested += list_options(hint, f"{key}.")
            continue
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        default = MISSING if made is dataclasses.MISSING else made
        own.append(Option(key, kind, field.name, hint, default, meanings[field.name]))
    return (*own, *nested)


@cache
def _texts_under_fields(kind: Any) -> dict[str, str]:
    """Field -> the string below it in the class body, on one line; empty where there is none."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    statements, texts = getattr(body, "body", []), {}
    for field, below in zip(statements, [*statements[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            said = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            texts[field.target.id] = " ".join(str(below.value.value).split()) if said else ""
    return texts


def parse_options(
    kind: type[Options],
    argv: Sequence[str],
    *,
    flags: Sequence[str] = (),
    bare: str = "",
    others: list[tuple[str, str]] | None = None,
) -> Options | None:
    """A command's options, e.g. from `prompt=DIR n=100`; None when --help was asked (printed).

    flags: further flags, which the command itself looks for. bare: the key of the one word that may stand alone.
    others: takes the pairs whose keys are not the command's; without it they are refused.

    Raises:
        ValueError: unknown, missing or mistyped key.
    """
    words = parse_words(argv, flags=(*HELP, *flags), bare=bare)
    if words.flags & set(HELP):
        print(help_text(kind))
        return None
    known = {option.key: option for option in list_options(kind)}
    values = {option.field: option.default for option in known.values()}
    for key, word in words.pairs:
        if key in known:
            values[known[key].field] = convert(key, word, known[key].hint)
        elif others is None:
            raise unknown("key", key, list(known))
        else:
            others.append((key, word))
    missing = [f"{key}=..." for key, option in known.items() if values[option.field] is MISSING]
    if missing:
        raise ValueError(f"Missing {', '.join(missing)}. See --help.")
    return kind(**values)


def convert(key: str, word: str, hint: Any) -> Any:
    """A word as its option's type: text as it stands, a path with `~` expanded, nothing as None where that is allowed.

    Raises:
        ValueError: it does not fit.
    """
    kind, *more = alternatives(hint)
    if not word and NoneType in get_args(hint):
        return None
    if get_origin(kind) is tuple:
        return tuple(convert(key, part, get_args(kind)[0]) for part in word.split(",") if part)
    if get_origin(kind) is Literal:
        if word not in get_args(kind):
            raise unknown(key, word, [*filter(None, get_args(kind))])
    elif kind is bool:
        if word.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"Expected {key}=true or {key}=false, got '{word}'.")
        return word.lower() in ("true", "1")
    elif kind is Path:
        return Path(word).expanduser()
    elif kind in (int, float):
        return _number(key, word, float if more else kind, whole_is_int=bool(more))
    return word


def _number(key: str, word: str, kind: Any, *, whole_is_int: bool) -> int | float:
    try:
        value = kind(word)
    except ValueError:
        if kind is int:
            raise ValueError(f"Expected {key}=N, a whole number, got {key}={word}.") from None
        raise ValueError(f"Expected a number for {key}, got '{word}'.") from None
    return int(value) if whole_is_int and value.is_integer() else value


# ---- help ------------------------------------------------------------------------------------------------------------
def help_text(kind: Any, usage: str = "") -> str:
    """The docstring of a command's dataclass (or `usage`), and a line for each key: name, type, default, meaning."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    options = list_options(kind)
    rows = [("key", "type", "default", "meaning"), *(option.columns for option in options)]
    widths = [min(max(len(row[i]) for row in rows), most) for i, most in enumerate((width, 14, 12))]
    widths.append(max(width - sum(widths) - 8, 20))
    lines = [*_filled(usage or kind.__doc__, width), "", *_table_row(rows[0], widths)]
    for group, members in groupby(options, key=lambda option: option.group):
        lines += ["", *_filled(group.__doc__, width)] if group is not kind else []
        lines += [line for option in members for line in _table_row(option.columns, widths)]
    return "\n".join(lines)


def require_each_once(options: Any, keys: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raises ValueError for an option that lists nothing (unless it is `optional`), or something twice."""
    for key in keys:
        given = getattr(options, key)
        if len(set(given)) != len(given) or (not given and key not in optional):
            raise ValueError(f"Expected {key} to name at least one, each once, got {key}={','.join(map(str, given))}.")


def _table_row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    columns = [textwrap.wrap(cell, room, break_on_hyphens=False) for cell, room in zip(cells, widths, strict=True)]
    parts = zip_longest(*columns, fillvalue="")
    return ["".join(f"  {part:{room}}" for part, room in zip(row, widths, strict=True)).rstrip() for row in parts]


def _filled(text: str, width: int) -> list[str]:
    """Paragraphs filled anew; those that begin with a command or a space stay as they are written."""
    lines = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        plain = not paragraph.startswith((" ", "python", "usage:"))
        lines += ["", *(textwrap.wrap(paragraph, width) if plain else paragraph.splitlines())]
    return lines[1:]


def type_name(hint: Any) -> str:
    """`text`, `crop or letterbox`, `list of text`."""
    names: list[str] = []
    for part in alternatives(hint):
        if get_origin(part) is Literal:
            names += filter(None, get_args(part))
        elif get_origin(part) in (tuple, list):
            names.append(f"list of {type_name(get_args(part)[0])}")
        else:
            names.append(TYPES.get(part, part.__name__.lower()))
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, all columns to the left."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(header)} |", "|" + "---|" * len(header), *lines]) + "\n"


def as_word(value: Any) -> str:
    """A value as a user types it, with a space after each comma; empty for what is not set."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(as_word, value))
    return "" if value is None else str(value)


def run_command(main: Callable[[Sequence[str]], int | None]) -> None:
    """Run `main(argv)` as a program: user errors become one message on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        sys.exit(main(sys.argv[1:]) or 0)
    except USER_ERRORS as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
