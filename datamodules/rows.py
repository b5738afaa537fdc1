"""Rows: the text half of an example, checks on them, and the fingerprint of rows with their images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor


class Row(NamedTuple):
    """One example without its image.

    id: unique in its split and the same on every machine. label: index of the answer in the row's candidates.
    caption: text for the TSE loss. group: the sub-test (POPE's `popular`). candidates: None when all rows share a list.
    """

    id: str
    label: int
    question: str
    answer: str
    caption: str
    group: str = ""
    candidates: list[str] | None = None


class Table(NamedTuple):
    """A split as used: `rows[i]` has its image at `load_image(*sources[i])`."""

    rows: list[Row]
    sources: list[tuple[str, int]]

    def take(self, positions: list[int]) -> Table:
        return Table([self.rows[i] for i in positions], [self.sources[i] for i in positions])


def expect(what: str, value: str, allowed: Sequence[str]) -> None:
    """Raises: ValueError naming the allowed values when `value` is none of them."""
    if value not in allowed:
        raise ValueError(f"Unknown {what} {value!r}. Expected one of: {', '.join(allowed)}.")


def check_rows(rows: list[Row], shared: list[str] | None, where: str) -> None:
    """Raises: ValueError for an empty split, a repeated id, missing candidates or a label outside them."""
    if not rows:
        raise ValueError(f"{where} has no rows. Expected at least one; check the files it is read from.")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ValueError(f"{where} has the id '{row.id}' twice. Expected distinct ids; fix `build_rows`.")
        seen.add(row.id)
        candidates = row.candidates if row.candidates is not None else shared
        if not candidates:
            raise ValueError(f"Row '{row.id}' of {where} has no candidates. Give it a list or set `candidates`.")
        if not 0 <= row.label < len(candidates):
            raise ValueError(
                f"Row '{row.id}' of {where} has label {row.label}. Expected an index into its "
                f"{len(candidates)} candidates, 0 to {len(candidates) - 1}."
            )


def image_sha256(image: Tensor) -> str:
    """sha256 over type, shape and values of a decoded image (3, H, W)."""
    digest = hashlib.sha256(f"{image.dtype}{tuple(image.shape)}".encode())
    digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()


def rows_fingerprint(pairs: Iterable[tuple[Row, str]], shared: list[str] | None) -> str:
    """HOUSE.md data_fp: sha256 over a JSON line [id, image sha256, label, question, candidates] per row, in order.

    pairs: rows with the `image_sha256` of their images.
    """
    digest = hashlib.sha256()
    for row, image in pairs:
        candidates = row.candidates if row.candidates is not None else shared
        line = json.dumps([row.id, image, row.label, row.question, candidates])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
