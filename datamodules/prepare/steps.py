"""From nothing, a mirror or a local copy to a data set that its DataModule reads: `prepare`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from datamodules import registry
from datamodules.prepare.catalogue import PUBLISHED
from datamodules.prepare.catalogue_entry import Archive, Digest, PublishedData
from datamodules.prepare.coco_images import prepare_images
from datamodules.prepare.content import content_problems, file_problem
from datamodules.prepare.disk import STATE, locked_root
from datamodules.prepare.install import (
    Found,
    find_source,
    hash_tree,
    install,
    opened_source,
    room_for,
    set_aside,
    source_of,
)
from datamodules.prepare.manifest import FIRST, Digests, Manifest, hash_file
from datamodules.registry import DATAMODULES
from datamodules.splits import SPLITS
from datamodules.whole_files.command_line import suggest
from datamodules.whole_files.disk import check_room, is_full, megabytes, write_json
from datamodules.whole_files.download import download
from datamodules.whole_files.http import PartialFile
from datamodules.writable import require_writable

LARGE = 5 * 10**9  # bytes to download that need yes=true
Show = Callable[[str], None]
# CIFAR-10-C has test rows only (train and val are CIFAR-10's own), and the same ones under every corruption.
INDEX_OPTIONS: dict[str, dict[str, str]] = {"cifar10c": {"corruption": "fog:1"}}
INDEX_SPLITS = {"cifar10c": ("test",)}


def get_published(name: str) -> PublishedData:
    """Raises: ValueError for a name without published files, with the nearest one that has some."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name in DATAMODULES:
        raise ValueError(
            f"'{name}' has no published files: it reads your own, or ships with the package. Expected one of: "
            f"{', '.join(sorted(PUBLISHED))}. There is nothing to prepare."
        )
    raise ValueError(f"Unknown data set '{name}'.{suggest(name, PUBLISHED)} Available: {', '.join(sorted(PUBLISHED))}.")


class Part(NamedTuple):
    """A part of a data set: its forms, the one that is below the root, and what is wrong with that.

    ours: `prepare` put it there. problems: one line each; empty where it is right, or absent.
    """

    choices: list[Archive]
    there: Archive | None
    ours: bool
    problems: list[str]

    @property
    def to_do(self) -> bool:
        return self.there is None or bool(self.problems)


def prepare(
    name: str, root: Path, *, source: Path | None = None, keep: bool = False, yes: bool = False, show: Show = print
) -> str | None:
    """Put the data set below `root` and write its index; returns the index's sha256 (None without a DataModule).

    source: a local archive, or a folder of archives or of unpacked files; only read. keep: keep downloaded archives in
    `<root>/.prepared/downloads`. yes: download more than 5 GB. What is there already is checked and recorded; what is
    wrong there is replaced where `prepare` put it there or `source` has it, and the former one is kept aside.
    Raises: ValueError, OSError; a part that fails leaves nothing but an unfinished download.
    """
    published = get_published(name)
    if source is not None and not source.exists():
        raise FileNotFoundError(f"No 'from={source}'. Expected an archive or a folder that holds '{name}'.")
    require_writable(root, "the folder of the data sets", "root=DIR")
    for place in (root / STATE, *((root / archive.target).parent for archive in published.archives)):
        require_writable(place, "the folder of the data sets", "root=DIR", inside=place.name == STATE)
    with ExitStack() as stack:
        parts = _look(name, published, root, source)
        todo = [part.choices for part in parts if part.to_do]
        given = source
        if source is not None and todo and not all(find_source(choices, source) for choices in todo):
            source = stack.enter_context(opened_source(todo, source, root, name))
        _check_plan(name, published, root, parts, source, given, yes, show)
        stack.enter_context(locked_root(root))
        manifest, digests = Manifest(root, name), Digests(root)
        new = []
        for part in parts:
            if done := _prepare_part(part, root, source, keep, manifest, digests, show):
                new.append(done)
        if published.coco_images:
            prepare_images(root, given, manifest, digests, show)
        return _index_or_undo(name, root, new, manifest, digests, show)


def _look(name: str, published: PublishedData, root: Path, source: Path | None) -> list[Part]:
    """What is below the root of each part, and what is wrong with it."""
    manifest, digests, parts = Manifest(root, name), Digests(root), []
    for choices in published.parts():
        forms = [archive for archive in choices if (root / archive.target).exists()]
        looked = [(archive, part_problems(archive, root, manifest, digests)) for archive in forms]
        right = [pair for pair in looked if not pair[1]]
        if not looked:
            parts.append(Part(choices, None, False, []))
            continue
        there, problems = (right or looked)[0]
        parts.append(Part(choices, there, there.target in manifest.parts, problems))
    readable = published.coco_images or any(part.to_do for part in parts) or name not in DATAMODULES
    if source is None or readable:
        return parts
    # Each part is as published as far as that is stated, and yet they cannot be read: the copy that is given counts.
    try:
        build_index(name, root)
    except (ValueError, OSError) as error:
        return [part._replace(problems=[str(error)]) for part in parts]
    return parts


def part_problems(archive: Archive, root: Path, manifest: Manifest, digests: Digests) -> list[str]:
    """What is wrong with a part that is there: published digests and counts, and what was recorded of its files."""
    target = root / archive.target
    problems = content_problems(archive, target)
    known = digests.expected(archive)
    if not archive.packed and known is not None:
        problems += file_problem(target, known)
    if archive.target in manifest.parts and not problems:
        problems += manifest.damage(root, archive.target)
    return problems


def _check_plan(
    name: str,
    published: PublishedData,
    root: Path,
    parts: list[Part],
    source: Path | None,
    given: Path | None,
    yes: bool,
    show: Show,
) -> None:
    """Say what is going to happen and refuse what cannot, before a byte is moved."""
    todo = [part for part in parts if part.to_do]
    # Without another copy at hand a user's own files are left alone.
    foreign = next((part for part in todo if part.there and not part.ours and source is None), None)
    if foreign is not None and foreign.there is not None:
        text = f"'{root / foreign.there.target}' is not the published one; it was left as it is:"
        advice = f"Remove it to get it anew, or run `prepare {name} from=COPY` with a good copy, which takes its place."
        raise ValueError("\n  ".join([text, *foreign.problems[:10], advice]))
    found = [find_source(part.choices, source) if source is not None else None for part in todo]
    # The first choice of a part is the one that is downloaded: what no copy has is asked for under its name.
    lacking = [part.choices[0] for part, here in zip(todo, found, strict=True) if here is None]
    if source is not None and lacking:
        names = ", ".join(f"{archive.file} or {archive.target}" for archive in lacking)
        raise FileNotFoundError(
            f"'{given}' does not hold all of '{name}'. Expected there: {names}, under that name or with that content"
            f"{'; unpack anything but .zip, .tar, .tar.gz and .tgz first' if given and given.is_file() else ''}."
        )
    # Some publishers ask for a form or a login: only a copy of one's own can be installed.
    if any(not archive.urls for archive in lacking):
        raise ValueError(f"'{name}' cannot be downloaded. {published.how}")
    # Less what an interrupted download left: that is continued, not fetched again.
    fetched = sum((archive.size or 0) - PartialFile(_download_path(archive, root)).size() for archive in lacking)
    # Archive and unpacked files lie side by side until the part is installed.
    needed = fetched + sum(archive.unpacked for archive in lacking) + sum(room_for(here) for here in found if here)
    if needed:
        check_room(root, needed, f"'{name}'")
    if fetched > LARGE and not yes:
        raise ValueError(
            f"'{name}' is a download of {megabytes(fetched)} and needs about {megabytes(needed)} while it is unpacked. "
            f"Nothing was fetched. Expected yes=true to start it, or from=PATH with a copy you have."
        )
    if lacking:
        show(f"{name}: to download {megabytes(fetched) if fetched else 'a few MB'}; licence: {published.licence}.")


class Done(NamedTuple):
    """A part just installed. trusted: it has the digest of its publisher, or of the first copy."""

    archive: Archive
    trusted: bool


def _download_path(archive: Archive, root: Path) -> Path:
    return root / STATE / "downloads" / archive.file


def _prepare_part(
    part: Part,
    root: Path,
    source: Path | None,
    keep: bool,
    manifest: Manifest,
    digests: Digests,
    show: Show,
) -> Done | None:
    """Install a part, or check and record the one that is there (None)."""
    if part.there is not None and not part.problems:
        _adopt(part.there, root, manifest, show)
        _drop_wrong_download(part.there, root, digests, show)
        return None
    if part.there is not None:
        _forget(part, manifest, digests)
    digest: Digest | None
    if source is None:
        found, digest = _fetch(part.choices[0], root, digests, show)
    else:
        here = find_source(part.choices, source)
        assert here is not None  # `_check_plan` refused a source that lacks one
        found, digest = here, None if here.unpacked else digests.check(here.archive, here.path)
    size = found.path.stat().st_size
    try:
        files, kept = install(found, root)
    except ValueError:
        if source is None:  # the next call would only find the same archive again
            found.path.unlink()
        raise
    if part.there is not None and part.there.target != found.archive.target:
        kept = set_aside(root / part.there.target, root)  # a wrong form would be read before the right one
    if kept is not None:
        manifest.remove(part.there.target if part.there else found.archive.target)
        show(f"{found.archive.target}: was not as published ({_first(part)}). It is kept in '{kept}'; remove it there.")
    # Last, so that a run killed before leaves files that `_adopt` looks at anew, not ones taken on trust.
    manifest.add(found.archive.target, source_of(found, digest), files)
    stated = f"{digest.algorithm} as stated by {digest.source}" if digest else "no archive: no digest to compare"
    show(f"{found.archive.target}: {len(files):,} files from {found.path.name} ({stated}).")
    # A source is the user's and is only read.
    if source is None and not keep:
        found.path.unlink()
    first = digest is not None and digest.source == FIRST
    # After the install only: a first copy that cannot be unpacked must not become what later ones are held to.
    if digest and first:
        digests.record({found.archive.file: (digest.value, size)})
    return Done(found.archive, trusted=digest is not None and not first)


def _first(part: Part) -> str:
    return f"{part.problems[0]}{' ...' if len(part.problems) > 1 else ''}" if part.problems else "another form"


def _forget(part: Part, manifest: Manifest, digests: Digests) -> None:
    """The digest of a copy that turned out wrong is nothing to hold a later one to."""
    for archive in part.choices:
        recorded = manifest.parts.get(archive.target, {}).get("source", {}).get("stated") == FIRST
        if archive.digest is None and recorded:
            digests.forget(archive.file)


def _adopt(archive: Archive, root: Path, manifest: Manifest, show: Show) -> None:
    """Record a target that is there already and right."""
    if archive.target in manifest.parts:
        show(f"{archive.target}: there since {manifest.parts[archive.target]['date']}, and right.")
        return
    files = hash_tree(root / archive.target)
    manifest.add(archive.target, {"file": archive.file, "from": "found in place"}, files)
    show(f"{archive.target}: was there; {len(files):,} files checked and recorded.")


def _drop_wrong_download(archive: Archive, root: Path, digests: Digests, show: Show) -> None:
    """A kept archive that is damaged is of no use."""
    kept, known = _download_path(archive, root), digests.expected(archive)
    if kept.is_file() and known is not None and hash_file(kept, known.algorithm) != known.value:
        kept.unlink()
        show(f"{kept}: was damaged, and is removed.")


def _index_or_undo(
    name: str, root: Path, new: list[Done], manifest: Manifest, digests: Digests, show: Show
) -> str | None:
    """Write the index; where the DataModule cannot read what was just installed, that is moved out of the way again.

    Raises: ValueError saying so.
    """
    try:
        return write_index(name, root, show)
    except (ValueError, OSError) as error:
        doubtful = [done.archive for done in new if not done.trusted]
        if is_full(error) or not doubtful:
            raise
        kept = []
        for archive in doubtful:
            kept.append(set_aside(root / archive.target, root))
            manifest.remove(archive.target)
            digests.forget(archive.file)
        raise ValueError(
            f"{error}\nSo {', '.join(archive.target for archive in doubtful)} was not left in place (it is in "
            f"'{kept[0]}'). Expected a complete copy: get it again and run `prepare {name} from=COPY`."
        ) from error


def _fetch(archive: Archive, root: Path, digests: Digests, show: Show) -> tuple[Found, Digest]:
    """The archive in the downloads folder, fetched unless it is there, and its digest, checked once."""
    path, checked = _download_path(archive, root), []
    known = digests.expected(archive) is not None
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder. Expected the archive {archive.file}; remove the folder.")
    _drop_wrong_download(archive, root, digests, show)
    if path.exists():
        checked.append(digests.check(archive, path))
    else:
        try:
            download(
                archive.urls,
                path,
                size=archive.size,
                check=lambda part: checked.append(digests.check(archive, part)),
                trusted=known,
                show=show,
            )
        except ConnectionError as error:
            raise ConnectionError(
                f"{error}\nWithout network, get {archive.file} on another machine and run the same command with "
                "from=PATH (the file, or the folder it lies in)."
            ) from None
    return Found(archive, path, unpacked=False), checked[-1]


def index_path(name: str, root: Path) -> Path:
    return root / STATE / f"{name}.index.json"


def build_index(name: str, root: Path) -> dict:
    """List the ids of each split, in order, as the DataModule has them by default."""
    data = registry.load_datamodule(name, root=str(root), **INDEX_OPTIONS.get(name, {}))
    splits = {split: [row.id for row in data.rows(split)] for split in INDEX_SPLITS.get(name, SPLITS)}
    return {"name": name, "split_seed": data.split_seed, "val": data.val, "splits": splits}


def write_index(name: str, root: Path, show: Show) -> str | None:
    """Write `<root>/.prepared/<name>.index.json`; returns its sha256, None where no DataModule bears the name."""
    if name not in DATAMODULES:
        show(f"{name}: no DataModule of this name, so no split index.")
        return None
    index = build_index(name, root)
    digest = hashlib.sha256(write_json(index_path(name, root), index)).hexdigest()
    sizes = ", ".join(f"{split} {len(ids):,}" for split, ids in index["splits"].items())
    show(f"{name}: {sizes}. Index {index_path(name, root)}, sha256 {digest}.")
    return digest
