"""What every command shares: `key=value` words, `--flags`, and errors printed as one message with exit code 2."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

# What a user can cause: shown as one message. Everything else is our fault and keeps its traceback.
USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, OSError)


class Words(NamedTuple):
    """A parsed command line: `--flags`, and `key=value` pairs in order."""

    flags: set[str]
    pairs: list[tuple[str, str]]

    def dotlist(self) -> list[str]:
        return [f"{key}={value}" for key, value in self.pairs]


def suggest(word: str, known: Sequence[str]) -> str:
    """` Did you mean 'x'?` or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def parse_words(argv: Sequence[str], *, flags: Sequence[str] = ()) -> Words:
    """Split `argv` into flags and pairs.

    Raises:
        ValueError: a word that is neither `key=value` nor one of `flags`.
    """
    seen, pairs = set(), []
    for word in argv:
        if word.startswith("-"):
            if word not in flags:
                known = ", ".join(flags)
                raise ValueError(f"Unknown option '{word}'.{suggest(word, flags)} Available: {known}.")
            seen.add(word)
        elif "=" in word:
            key, value = word.split("=", 1)
            pairs.append((key, value))
        else:
            raise ValueError(f"Expected key=value, got '{word}'. For example: seed=3. See --help.")
    return Words(seen, pairs)


def flat_options(argv: Sequence[str], defaults: dict[str, object], *, usage: str) -> dict[str, object] | None:
    """Options of a command whose keys are flat, e.g. `prompt=DIR image=FILE`; None when --help was asked (printed).

    Values take the type of their default; a default of `...` marks a required key and stays a string.

    Raises:
        ValueError: unknown, missing or mistyped key.
    """
    words = parse_words(argv, flags=("--help", "-h"))
    if words.flags:
        print(usage.strip())
        return None
    options = dict(defaults)
    for key, value in words.pairs:
        if key not in defaults:
            raise ValueError(f"Unknown key '{key}'.{suggest(key, list(defaults))} Available: {', '.join(defaults)}.")
        options[key] = _convert(key, value, defaults[key])
    missing = [key for key, value in options.items() if value is ...]
    if missing:
        raise ValueError(f"Missing {', '.join(f'{key}=...' for key in missing)}. See --help.")
    return options


def _convert(key: str, value: str, default: object) -> object:
    if isinstance(default, bool):
        if value.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"Expected {key}=true or {key}=false, got '{value}'.")
        return value.lower() in ("true", "1")
    if isinstance(default, int | float):
        try:
            return type(default)(value)
        except ValueError:
            raise ValueError(f"Expected a number for {key}, got '{value}'.") from None
    return value


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
