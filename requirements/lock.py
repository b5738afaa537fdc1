"""Writes train.txt and test.txt, the exact versions that `make` installs, from the ranges in pyproject.toml.

`make upgrade` calls it: `python requirements/lock.py [uv's options, e.g. --constraint FILE]`. It needs the package uv,
and PyPI. One lock serves Python 3.11 to 3.13 on every platform (environment markers). test.txt holds only what the
tests need besides.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPILE = (
    *("-m", "uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11"),
    *("--no-annotate", "--no-header", "--quiet", "--upgrade"),
)
HEADER = "# Exact versions{what}, for Python 3.11 to 3.13. Made by `make upgrade` on {day}; do not edit.\n"


def resolve(*words: str) -> list[str]:
    """One `name==version ; marker` a line, of pyproject's ranges."""
    command = [sys.executable, *COMPILE, *words, *sys.argv[1:]]
    return subprocess.run(command, cwd=HERE.parent, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def main() -> None:
    train = resolve()
    pinned = HERE / "train.txt"
    head = HEADER.format(what=" of what a run needs", day=date.today())
    pinned.write_text(head + "\n".join([*train, ""]))
    more = [line for line in resolve("--extra", "dev", "--constraint", str(pinned)) if line not in train]
    head = HEADER.format(what=" of what the tests need besides", day=date.today())
    (HERE / "test.txt").write_text(head + "\n".join(["-r train.txt", *more, ""]))


if __name__ == "__main__":
    main()
