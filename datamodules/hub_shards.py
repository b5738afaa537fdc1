"""Which parquet files of a folder are which split: every naming that copies on the Hugging Face hub have.

    train-00000-of-00002.parquet   train-00000-of-00002-1a2b3c.parquet   as `datasets` writes them, once with a hash
    train/0000.parquet             <config>/train/0000.parquet           the hub's conversion (refs/convert/parquet)
    <name>-train.parquet           <name>-train-00000-of-00002.parquet   that conversion in its first years
    train.parquet                  train-0.parquet   train_001.parquet   by hand

each also below `data/` or a configuration's folder. The same split in two places or two series is refused: joined,
every picture would count twice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

DEPTH = 5  # refs/convert/parquet/<config>/<split>
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
    "trainval": ("trainval",),
}
CANONICAL = {word: split for split, words in SPLIT_WORDS.items() for word in words}
CONVERTED = "in the split's folder"  # a series by that name is <split>/<number>.parquet
NO_CONFIG = ("data", "default", "parquet", "convert", "refs", "main")
WORD = "|".join(sorted(CANONICAL, key=len, reverse=True))
SERIES = re.compile(r"(?P<split>.+)-(?P<number>\d{1,5})-of-(?P<total>\d{1,5})(?:-\w+)?", re.IGNORECASE)
NUMBERED = re.compile(rf"(?P<split>{WORD})[-_.]?(?P<number>\d+)", re.IGNORECASE)
WHOLE = re.compile(rf"(?:.+[-_.])?(?P<split>{WORD})", re.IGNORECASE)


class Shard(NamedTuple):
    """A file, its split, the configuration (a folder's name, or ""), its series, and its place in that.

    total: how many shards the series has by its files' names; None where they do not say.
    """

    path: Path
    split: str
    config: str
    series: str
    number: int
    total: int | None


def find_shards(top: Path, configs: Sequence[str] = (), *, only: bool = False) -> dict[str, list[Path]]:
    """Split ("train", "validation", "test" or another word) -> its files in order; {} where there are none.

    configs: the first of these configurations that is there is taken, and no other is. only: nor is any other where
    none of them is there. Files in no configuration's folder are always looked at.
    Raises: FileNotFoundError naming the missing files of a series; ValueError for two copies of a split.
    """
    shards = [shard for path in parquet_files(top) if (shard := _read_name(path, top)) is not None]
    known = [config for config in configs if any(shard.config == config for shard in shards)]
    if known or only:
        shards = [shard for shard in shards if shard.config in (*known[:1], "")]
    splits: dict[str, list[Shard]] = {}
    for shard in shards:
        splits.setdefault(shard.split, []).append(shard)
    # What else a copy has (SVHN's `extra`) is not read, so that it need not be whole.
    wanted = [split for split in splits if split in SPLIT_WORDS] or list(splits)
    return {split: _one_series(split, splits[split], top) for split in wanted}


def parquet_files(top: Path) -> list[Path]:
    """Every visible .parquet file up to five folders below `top`, sorted."""
    found: list[Path] = []
    for place, folders, files in os.walk(top, followlinks=True):
        deep = len(Path(place).relative_to(top).parts)
        folders[:] = sorted(name for name in folders if name[0] != "." and deep < DEPTH)
        found += [Path(place, name) for name in files if name.lower().endswith(".parquet") and name[0] != "."]
    return sorted(found)


def _read_name(path: Path, top: Path) -> Shard | None:
    folders, stem = list(path.relative_to(top).parts[:-1]), path.stem
    split, series, number, total = "", "", 0, None
    if match := SERIES.fullmatch(stem):
        # "cifar10-train" of the first conversions; a split's own name holds no "-"
        split, number, total = match["split"].rpartition("-")[2], int(match["number"]), int(match["total"])
        series = f"{match['split']}-of-{total}"
    elif match := NUMBERED.fullmatch(stem):
        split, series, number = match["split"], "numbered", int(match["number"])
    elif match := WHOLE.fullmatch(stem):
        split, series = match["split"], stem
    elif folders and stem.isdecimal():
        split, series, number = folders.pop(), CONVERTED, int(stem)
    if not split:
        return None
    split = split.lower()
    if "partial-" in f"{path.parent.name}/{stem}".lower():
        raise FileNotFoundError(
            f"'{path}' is only the beginning of '{split.removeprefix('partial-')}': the hub's conversion of a large "
            "set stops early. Expected all of it; get the set's own files (its `main` branch) instead."
        )
    split = CANONICAL.get(split, split)
    if folders and CANONICAL.get(folders[-1].lower()) == split:
        folders.pop()
    names = [name for name in folders if name not in NO_CONFIG]
    return Shard(path, split, names[-1] if names else "", f"{'/'.join(folders)}/{series}", number, total)


def _one_series(split: str, shards: list[Shard], top: Path) -> list[Path]:
    """The files of a split in order of their numbers, all there and each once."""
    shards = sorted(shards, key=lambda shard: (shard.series, shard.number, shard.path))
    series = {shard.series: shard for shard in reversed(shards)}
    twice = next((pair for pair in pairwise(shards) if pair[0][3:5] == pair[1][3:5]), None)
    if len(series) > 1 or twice:
        two = [shard.path for shard in twice or list(series.values())[:2]]
        first, second = sorted(path.relative_to(top).as_posix() for path in two)
        raise ValueError(
            f"'{top}' has two copies of '{split}': {first} and {second}. Expected one, or every row would count twice; "
            "move one of them (with the other files of its kind) out of that folder."
        )
    numbers = [shard.number for shard in shards]
    total, first_path = shards[0].total, shards[0].path
    # Without a total only a gap can be seen. The hub counts from 0, whoever splits a file by hand also from 1.
    begin = 0 if next(iter(series)).endswith(CONVERTED) else min(min(numbers), 1)
    expected: Iterable[int] = range(total) if total is not None else range(begin, max(numbers) + 1)
    missing = sorted(set(expected) - set(numbers))
    if missing or max(numbers) >= (total if total is not None else max(numbers) + 1):
        names = ", ".join(_name_of(first_path, number) for number in missing[:5])
        raise FileNotFoundError(
            f"'{first_path.parent}' has {len(shards)} of {total or max(numbers) + 1} shards of '{split}'. Missing: "
            f"{names or 'none, but a number is too large'}{' ...' if len(missing) > 5 else ''}. Expected exactly one "
            "complete series; download what is missing."
        )
    return [shard.path for shard in shards]


def _name_of(path: Path, number: int) -> str:
    """The name shard `number` has beside `path`; a hash in it, which nobody can know, is `*`."""
    if match := re.fullmatch(r"(.+-)(\d+)(-of-\d+)(-\w+)?", path.stem):
        return f"{match[1]}{number:0{len(match[2])}d}{match[3]}{'-*' if match[4] else ''}.parquet"
    match = re.fullmatch(r"(.*?)(\d+)", path.stem)
    return f"{match[1]}{number:0{len(match[2])}d}.parquet" if match else path.name
