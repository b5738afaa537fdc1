"""Compares a prepared data set with what was recorded of it and what is published: one finding per item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.prepare.catalogue_entry import Archive
from datamodules.prepare.content import count_of, describe, missing_pictures
from datamodules.prepare.disk import STATE
from datamodules.prepare.manifest import Digests, Manifest, hash_file
from datamodules.prepare.steps import build_index, get_published, index_path
from datamodules.registry import DATAMODULES
from datamodules.whole_files.disk import read_json

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
            yield DataFinding("MISSING", choices[0].target, f"not below '{root}'; {_again(name, choices[0])}")
        for archive in there:
            yield from _verify_archive(archive, root, digests)
            ours = archive.target in manifest.parts
            yield from _advised(_verify_content(archive, root / archive.target), name, archive, ours)
    known = {archive.target: archive for archive in published.archives}
    for target in manifest.parts:
        finding = _verify_recorded(manifest, root, target)
        yield from _advised([finding], name, known[target], True) if target in known else [finding]
    for target in PICTURES if published.coco_images else ():
        if target not in manifest.parts:
            yield DataFinding("MISSING", target, f"the pictures asked about; run `prepare {name}`")
    for archive in (a for a in published.archives if (root / a.target).exists() and a.target not in manifest.parts):
        yield DataFinding("note", archive.target, f"was not put there by `prepare`; run `prepare {name}` to record it")
    if complete:
        yield _verify_index(name, root)


def _again(name: str, archive: Archive, *, ours: bool = True) -> str:
    """What makes a part right: `prepare` downloads it where it may, and only replaces what it put there itself."""
    copy = " from=COPY with a good copy" if not archive.urls or not ours else ""
    return f"run `prepare {name}{copy}`"


def _advised(findings: Iterable[DataFinding], name: str, archive: Archive, ours: bool) -> Iterator[DataFinding]:
    """The same, the last bad one with what to do about all of them."""
    found = list(findings)
    last = max((i for i, finding in enumerate(found) if finding.bad), default=None)
    for i, finding in enumerate(found):
        advice = f"\n{_again(name, archive, ours=ours)}; it takes the place of this one" if i == last else ""
        yield finding._replace(text=finding.text + advice)


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
        right = found == count.n or (count.more and found > count.n)
        text = f"{found:,} {describe(count)}" + ("" if right else f"; expected {'at least ' * count.more}{count.n:,}")
        yield DataFinding("ok" if right else "WRONG", archive.target, text)
    for listed in archive.listed:
        for line in missing_pictures(target, listed):
            yield DataFinding("MISSING", archive.target, line)


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
