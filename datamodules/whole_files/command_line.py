"""A small command line, `COMMAND [NAME ...] [key=value ...]`: those of `datamodules` and `model_zoo`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches


def answer(argv: Sequence[str], usage: str, dispatch: Callable[[list[str]], int]) -> int:
    """Run one command and return its exit code: 0 well, 1 something is wrong, 2 cannot be done, 130 Ctrl-C.

    usage: printed without words, or with --help. dispatch: gets the words and returns 0 or 1.
    """
    if not argv or {"--help", "-h"} & set(argv):
        print(usage.strip())
        return 0
    try:
        return dispatch(list(argv))
    except KeyboardInterrupt as stop:
        print(str(stop) or "Interrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {_text(error)}", file=sys.stderr)
        return 2


def _text(error: ValueError | OSError) -> str:
    """Without the "[Errno 28]" in front."""
    return str(error.strerror) if isinstance(error, OSError) and error.strerror and not error.filename else str(error)


def parse(argv: Sequence[str], keys: Mapping[str, Sequence[str]]) -> tuple[str, list[str], dict[str, str]]:
    """The command, its names and its `key=value` options. keys: command -> the keys it has.

    Raises: ValueError for an unknown command, key or option, or a key with nothing after it.
    """
    command, *words = argv
    if command not in keys:
        raise ValueError(f"Unknown command '{command}'.{suggest(command, keys)} Available: {', '.join(keys)}.")
    known, names, options = keys[command], [], {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals and not word.startswith("-"):
            names.append(word)
        elif key not in known:
            raise ValueError(f"Unknown key '{key}'.{suggest(key, known)} Available: {', '.join(known)}. See --help.")
        elif not value:
            raise ValueError(f"Nothing after '{key}='. Expected a value; leave the key out for its default.")
        else:
            options[key] = value
    return command, names, options


def suggest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'cifar10'?", or nothing where no known word is near."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
