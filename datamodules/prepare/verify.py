"""Compares a prepared data set with what was recorded of it and what is published: one finding per item."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.prepare.catalogue_entry import Archive
from datamodules.prepare.disk import STATE, read_json
from datamodules.prepare.install import count_of, describe
from datamodules.prepare.manifest import Digests, Manifest, hash_file
from datamodules.prepare.steps import build_index, get_published, index_path
from datamodules.registry import DATAMODULES

PICTURES = ("coco/val2014", "coco/train2014")


class DataFinding(NamedTuple):
    """state: "ok", "note", "WRONG" or "MISSING"; the last two are failures."""

    state: str
    item: str
    text: str

    @property
    def bad(self) -> bool:
        return self.state in ("WRONG", "MISSING")


def verify(name: str, root: Path) -> Iterator[DataFinding]:
    """Findings on kept archives, published digests and counts, every recorded file, and the split index.

    Raises: ValueError for an unknown name, a damaged manifest or a damaged `digests.json`.
    """
    published = get_published(name)
    manifest, digests = Manifest(root, name), Digests(root)
    complete = True
    for choices in published.parts():
        there = [archive for archive in choices if (root / archive.target).exists()]
        complete = complete and bool(there)
        if not there:
            yield DataFinding("MISSING", choices[0].target, f"not below '{root}'; run `prepare {name}`")
        for archive in there:
            yield from _verify_archive(archive, root, digests)
            yield from _verify_content(archive, root / archive.target)
    for target in manifest.parts:
        yield _verify_recorded(manifest, root, target)
    for target in PICTURES if published.coco_images else ():
        if target not in manifest.parts:
            yield DataFinding("MISSING", target, f"the pictures asked about; run `prepare {name}`")
    for archive in (a for a in published.archives if (root / a.target).exists() and a.target not in manifest.parts):
        yield DataFinding("note", archive.target, f"was not put there by `prepare`; run `prepare {name}` to record it")
    if complete:
        yield _verify_index(name, root)


def _verify_archive(archive: Archive, root: Path, digests: Digests) -> Iterator[DataFinding]:
    kept = root / STATE / "downloads" / archive.file
    if kept.is_file():
        known = digests.expected(archive)
        right = known is None or hash_file(kept, known.algorithm) == known.value
        stated = f"{known.algorithm} stated by {known.source}" if known else "no digest is known"
        yield DataFinding("ok" if right else "WRONG", f"archive {archive.file}", stated)
    if not archive.packed and (known := digests.expected(archive)) is not None:
        right = hash_file(root / archive.target, known.algorithm) == known.value
        yield DataFinding("ok" if right else "WRONG", archive.target, f"{known.algorithm} stated by {known.source}")


def _verify_content(archive: Archive, target: Path) -> Iterator[DataFinding]:
    for path, digest in archive.files.items():
        item = f"{archive.target}/{path}"
        if not (target / path).is_file():
            yield DataFinding("MISSING", item, "a published file")
            continue
        value = hash_file(target / path, digest.algorithm)
        text = f"{digest.algorithm} stated by {digest.source}"
        right = value == digest.value
        yield DataFinding(
            "ok" if right else "WRONG", item, text if right else f"{text} is {digest.value}, this is {value}"
        )
    for count in archive.counts:
        found = count_of(target, count)
        text = f"{found:,} {describe(count)}" + ("" if found == count.n else f"; expected {count.n:,}")
        yield DataFinding("ok" if found == count.n else "WRONG", archive.target, text)


def _verify_recorded(manifest: Manifest, root: Path, target: str) -> DataFinding:
    part = manifest.parts[target]
    damage = manifest.damage(root, target)
    if not damage:
        return DataFinding("ok", target, f"all {len(part['files']):,} files as recorded on {part['date']}")
    more = f"\n... and {len(damage) - 5} more" if len(damage) > 5 else ""
    state = "MISSING" if all(line.endswith("is missing") for line in damage) else "WRONG"
    text = f"{len(damage):,} of {len(part['files']):,} files are not as recorded on {part['date']}:\n"
    return DataFinding(state, target, text + "\n".join(damage[:5]) + more)


def _verify_index(name: str, root: Path) -> DataFinding:
    path = index_path(name, root)
    if name not in DATAMODULES:
        return DataFinding("note", "split index", "no DataModule of this name")
    try:
        known = read_json(path, "the split index", f"run `prepare {name}` to write it anew")
        if known is None:
            return DataFinding("MISSING", "split index", f"no '{path}'; run `prepare {name}`")
        same = known == build_index(name, root)
    except (ValueError, OSError) as error:
        return DataFinding("WRONG", "split index", str(error))
    text = "the DataModule's rows are those recorded" if same else f"the DataModule's rows are not those in '{path}'"
    return DataFinding("ok" if same else "WRONG", "split index", text)
