"""Running `python -m datamodules` in this process; no test."""

from __future__ import annotations

from datamodules.__main__ import main


def run(capsys, *words: str, code: int = 0) -> str:
    """The output of one command, whose exit code must be `code`."""
    capsys.readouterr()
    assert main(list(words)) == code, capsys.readouterr()
    return "".join(capsys.readouterr())
