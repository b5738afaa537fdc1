"""Text, JSON and JSON lines that people wrote with any editor; every fault names the file and the line."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

# UTF-32's mark begins with UTF-16's: the longer ones come first.
_MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 or UTF-32 with one.

    Raises: ValueError naming the file, the line and the bytes of any other encoding; OSError.
    """
    data = Path(path).read_bytes()
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(_encoding_fault(path, data, encoding, error)) from None
    if "\0" in text:
        raise ValueError(
            f"'{path}' holds NUL characters from line {text[: text.index(chr(0))].count(chr(10)) + 1} on. Expected "
            "text in UTF-8; it may be UTF-16 without a byte order mark: save it again as UTF-8."
        )
    return text


def _encoding_fault(path: str | Path, data: bytes, encoding: str, error: UnicodeDecodeError) -> str:
    if encoding != "utf-8":
        return f"'{path}' begins as {encoding} but is damaged: {error}. Expected a complete file, best in UTF-8."
    line = data[: error.start].count(b"\n") + 1
    seen = data.split(b"\n")[line - 1].decode("cp1252", errors="replace").strip()
    return (
        f"'{path}' line {line} is not UTF-8 (byte 0x{data[error.start]:02x}; as Windows-1252 it reads "
        f"{seen[:60]!r}). Expected UTF-8: save the file again in that encoding, e.g. "
        f"`iconv -f WINDOWS-1252 -t UTF-8`; no row need be removed."
    )


def read_lines(path: str | Path) -> list[str]:
    """The lines of `read_text`, ended by a newline of any system (never by a character inside a line)."""
    return read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_json(path: Path) -> Any:
    """Raises: ValueError naming the file and the place when it is no JSON."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_pairs)
    except ValueError as error:
        raise ValueError(
            f"'{path}' is not JSON: {error}. Expected a complete file; get it again from its publisher."
        ) from error


def read_jsonl(path: Path) -> list[dict]:
    """One object a line, blank lines skipped, or one JSON array of objects; each gets its number (from 1) as "line".

    Raises: ValueError naming file and line for a line that is no JSON object.
    """
    lines = read_lines(path)
    whole = "\n".join(lines)
    if whole.lstrip().startswith("["):
        try:
            values = json.loads(whole, object_pairs_hook=_pairs)
        except ValueError:
            pass  # lines that begin with "[": the first of them is named below
        else:
            return [_object(value, f"'{path}' item {n}") | {"line": n} for n, value in enumerate(values, 1)]
    if (lists := _lists_in(whole)) is not None:
        where = f" Its lists are under {', '.join(map(repr, lists))}: save one of them alone." if lists else ""
        raise ValueError(
            f"'{path}' is one JSON object over several lines. Expected an object on each line, or one array of "
            f"objects: [{{...}}, {{...}}].{where}"
        )
    return [
        _object(_parse(line, path, number), f"'{path}' line {number}") | {"line": number}
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _lists_in(text: str) -> list[str] | None:
    """The keys of lists where a text of several lines is one object; None where it is not."""
    if text.strip().count("\n") == 0 or not text.lstrip().startswith("{"):
        return None
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return [key for key, value in content.items() if isinstance(value, list)]


def either_ending(path: Path) -> Path:
    """`path`, or where only that is there the same with .jsonl for .json and the other way round."""
    other = path.with_suffix({".json": ".jsonl", ".jsonl": ".json"}[path.suffix])
    return other if other.is_file() and not path.exists() else path


def _parse(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_pairs)
    except ValueError as error:
        raise ValueError(
            f"'{path}' line {number} is not JSON: {error}. Expected one object a line, like "
            '{"image": "a.jpg", ...}, or one array of such objects; repair that line.'
        ) from error


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python's reader would keep the last of two values and say nothing."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' stands twice in one object")
    return dict(pairs)


def _object(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is a {type(value).__name__}. Expected an object: {{...}}.")
    return value


def take_field(row: dict, key: str, kind: type | tuple[type, ...], path: Path) -> Any:
    """row[key], checked; a whole number written as 1.0 is the int 1 where ints are expected.

    Raises: ValueError naming file, line and key when it is absent or of another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    value = row.get(key)
    if isinstance(value, float) and int in kinds and value.is_integer():
        value = int(value)
    if not isinstance(value, kinds) or isinstance(value, bool):
        names = " or ".join(k.__name__ for k in kinds)
        found = "is missing" if key not in row else f"is {value!r}"
        raise ValueError(f"'{path}' line {row['line']}: '{key}' {found}. Expected {names}.")
    return value
