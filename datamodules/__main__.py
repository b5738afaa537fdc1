"""Getting data sets and checking them: `python -m datamodules list | prepare NAME | verify NAME`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.prepare.listing import show_all
from datamodules.whole_files.command_line import answer, parse

USAGE = """
usage: python -m datamodules list [root=DIR]
       python -m datamodules prepare NAME [root=DIR] [from=ARCHIVE_OR_DIR] [keep=true] [yes=true]
       python -m datamodules verify NAME [root=DIR]

  list      every data set: task, size, licence, where it is published, and what of it is there
  prepare   download (or take from a local copy), check, unpack, and write which rows belong to which split. Runs again
            where it was stopped; what is there already is checked, never fetched again
  verify    is everything as published and as recorded? One line per item; exit code 0 when all is well, else 1

  root=data     where all data sets are kept
  from=PATH     an archive, a folder of archives, or the unpacked files; no network is used and PATH is only read
  keep=true     keep downloaded archives in <root>/.prepared/downloads
  yes=true      agree to a download of more than 5 GB (clevr)
"""
KEYS = {"list": ("root",), "prepare": ("root", "from", "keep", "yes"), "verify": ("root",)}


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 well, 1 something is wrong, 2 cannot be done, 130 Ctrl-C."""
    return answer(argv, USAGE, _dispatch)


def _dispatch(argv: list[str]) -> int:
    command, names, options = parse(argv, KEYS)
    if len(names) != (command != "list"):
        expected = "no NAME" if command == "list" else "one NAME"
        raise ValueError(f"Expected {expected} after '{command}', got {' '.join(names) or 'none'}. See --help.")
    root = Path(options.get("root", "data")).expanduser()
    if command == "list":
        return _list(root)
    return _prepare(names[0], root, options) if command == "prepare" else _verify(names[0], root)


def _switch(options: dict[str, str], key: str) -> bool:
    value = options.get(key, "false").lower()
    if value not in ("true", "false"):
        raise ValueError(f"Expected true or false for {key}, got '{options[key]}'.")
    return value == "true"


def _list(root: Path) -> int:
    print(show_all(root))
    return 0


def _prepare(name: str, root: Path, options: dict[str, str]) -> int:
    from datamodules.prepare.steps import prepare

    source = Path(options["from"]).expanduser() if "from" in options else None
    keep, yes = _switch(options, "keep"), _switch(options, "yes")
    prepare(name, root, source=source, keep=keep, yes=yes, show=lambda line: print(line, flush=True))
    print(f"\n{name}: ready below '{root}'.")
    return 0


def _verify(name: str, root: Path) -> int:
    from datamodules.prepare.verify import verify

    findings = []
    for finding in verify(name, root):
        findings.append(finding)
        print(f"{finding.state:8} {finding.item}: " + finding.text.replace("\n", "\n" + " " * 11), flush=True)
    bad = sum(finding.bad for finding in findings)
    if bad:
        print(f"\n{name}: {bad} of {len(findings)} items need attention.")
        return 1
    print(f"\n{name}: complete, as published and as recorded.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
