"""Deals rows out to splits: pure functions of ids, labels and a seed, so that everyone gets the same rows.

The order behind every choice is that of `sha256("{seed}:{id}")`: it depends on a row's own id only, never on the
order of files, the platform or a library's random generator. All functions return positions into the lists given.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Hashable, Sequence

SPLITS = ("train", "val", "test")
OFFICIAL_FRACTION = 0.05  # of the TEST split: docs/method.md#deviations, row 2
OFFICIAL_SEED = 42


def hash_key(seed: int, row_id: str) -> str:
    """The sort key of a row: sha256 of "{seed}:{id}" in hexadecimal."""
    return hashlib.sha256(f"{seed}:{row_id}".encode()).hexdigest()


def hash_order(ids: Sequence[str], seed: int) -> list[int]:
    """All positions in order of their hash; equal ids keep their order."""
    keys = [hash_key(seed, row_id) for row_id in ids]
    return sorted(range(len(ids)), key=lambda i: (keys[i], i))


def balanced_order(ids: Sequence[str], classes: Sequence[Hashable], seed: int) -> list[int]:
    """All positions so that every prefix is balanced: first each class's first row by hash, then each second row, ...

    Prefixes are nested: the first 100 are contained in the first 200. Classes that run out are skipped.
    """
    seen: dict[Hashable, int] = {}
    turns = []
    for i in hash_order(ids, seed):
        turn = seen.get(classes[i], 0)
        seen[classes[i]] = turn + 1
        turns.append((turn, i))
    return [i for _, i in sorted(turns, key=lambda pair: pair[0])]


def sample_size(n: int | float | None, total: int, what: str = "the data") -> int:
    """Count the rows that `n` of `total` means: None all, an int as many, a float in (0, 1) that share (at least one).

    Raises: ValueError when it is not positive or more than there are.
    """
    if n is None:
        return total
    size = max(1, int(n * total + 0.5)) if isinstance(n, float) and 0 < n < 1 else n
    if isinstance(size, bool) or size != int(size) or not 0 < size <= total:
        raise ValueError(
            f"Cannot take n={n!r} rows of {what}, which has {total}. "
            f"Expected an int from 1 to {total}, a fraction between 0 and 1, or None for all."
        )
    return int(size)


def holdout(
    ids: Sequence[str], classes: Sequence[Hashable], per_class: int | float, seed: int
) -> tuple[list[int], list[int]]:
    """(kept, held out): of each class, the first `per_class` rows by hash are held out.

    per_class: an int, or a fraction of the class's own size (rounded half up). Both lists keep the original order.
    Raises: ValueError when a class would keep no row.
    """
    held: set[int] = set()
    for label, rows in _members(ids, classes, seed).items():
        k = int(per_class * len(rows) + 0.5) if isinstance(per_class, float) else per_class
        if k >= len(rows):
            raise ValueError(
                f"Cannot hold out {k} rows of class {label!r}: it has {len(rows)}. "
                "Expected at least one row to stay; add images or hold out fewer."
            )
        held.update(rows[:k])
    return [i for i in range(len(ids)) if i not in held], sorted(held)


def three_way(ids: Sequence[str], classes: Sequence[Hashable], seed: int) -> dict[str, list[int]]:
    """80/10/10 of each class by hash: `test` is the first tenth, `val` the second (rounded half up), the rest train.

    Raises: ValueError when a class has too few rows to give one to each split (about five).
    """
    members = _members(ids, classes, seed)
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for label, rows in members.items():
        k = int(0.1 * len(rows) + 0.5)
        if k < 1:
            raise ValueError(
                f"Cannot split class {label!r} 80/10/10: it has {len(rows)} rows. "
                "Expected at least 5; add images or make train/, val/ and test/ folders yourself."
            )
        parts["test"] += rows[:k]
        parts["val"] += rows[k : 2 * k]
        parts["train"] += rows[2 * k :]
    return {split: sorted(rows) for split, rows in parts.items()}


def few_shot(ids: Sequence[str], classes: Sequence[Hashable], shots: int, seed: int) -> list[int]:
    """The first `shots` rows of each class by hash, in original order. Raises: ValueError when a class has fewer."""
    members = _members(ids, classes, seed)
    short = [f"{label!r} ({len(rows)})" for label, rows in members.items() if len(rows) < shots]
    if short or shots < 1:
        raise ValueError(
            f"Cannot take {shots} rows of every class. Expected a number from 1 to the smallest class; "
            f"too few in: {', '.join(short) or 'none'}."
        )
    return sorted(i for rows in members.values() for i in rows[:shots])


def _members(ids: Sequence[str], classes: Sequence[Hashable], seed: int) -> dict[Hashable, list[int]]:
    """Class -> its positions in order of their hash."""
    members: dict[Hashable, list[int]] = {}
    for i in hash_order(ids, seed):
        members.setdefault(classes[i], []).append(i)
    return members


def official_sample(labels: Sequence[int], fraction: float = OFFICIAL_FRACTION, seed: int = OFFICIAL_SEED) -> list[int]:
    """The reference's "validation": per class int(fraction * size) TEST rows WITH replacement, then shuffled.

    Same generator and call order as the reference (class by class `choices`, one `shuffle`), so the same rows in the
    same order. Only for `official` runs: it looks at test images, and the same image may come twice.
    Raises: ValueError when no class is large enough for one row.
    """
    generator = random.Random(seed)
    members: dict[int, list[int]] = {label: [] for label in range(max(labels) + 1)}
    for i, label in enumerate(labels):
        members[label].append(i)
    chosen: list[int] = []
    for rows in members.values():
        chosen += generator.choices(rows, k=int(fraction * len(rows))) if rows else []
    if not chosen:
        raise ValueError(
            f"{fraction * 100:g} % of each class of {len(labels)} test rows is no row. "
            f"Expected at least {int(1 / fraction)} a class; use val='train'."
        )
    generator.shuffle(chosen)
    return chosen
