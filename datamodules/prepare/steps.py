"""From nothing, a mirror or a local copy to a data set that its DataModule reads: `prepare`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from datamodules import registry
from datamodules.prepare.catalogue import PUBLISHED
from datamodules.prepare.catalogue_entry import Archive, Digest, PublishedData
from datamodules.prepare.coco_images import prepare_images
from datamodules.prepare.disk import STATE, check_room, locked_root, megabytes, write_json
from datamodules.prepare.download import download
from datamodules.prepare.http import PartialFile
from datamodules.prepare.install import Found, content_problems, find_source, hash_tree, install, source_of
from datamodules.prepare.manifest import FIRST, Digests, Manifest
from datamodules.registry import DATAMODULES
from datamodules.splits import SPLITS

LARGE = 5 * 10**9  # bytes to download that need yes=true
Show = Callable[[str], None]


def get_published(name: str) -> PublishedData:
    """Raises: ValueError for a name without published files, with the nearest one that has some."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name in DATAMODULES:
        raise ValueError(
            f"'{name}' has no published files: it reads your own, or ships with the package. Expected one of: "
            f"{', '.join(sorted(PUBLISHED))}. There is nothing to prepare."
        )
    raise ValueError(
        f"Unknown data set '{name}'.{registry.suggest(name, PUBLISHED, 0.5)} Available: {', '.join(sorted(PUBLISHED))}."
    )


def prepare(
    name: str, root: Path, *, source: Path | None = None, keep: bool = False, yes: bool = False, show: Show = print
) -> str | None:
    """Put the data set below `root` and write its index; returns the index's sha256 (None without a DataModule).

    source: a local archive, or a folder of archives or of unpacked files; only read. keep: keep downloaded archives in
    `<root>/.prepared/downloads`. yes: download more than 5 GB. What is there already is checked and recorded.
    Raises: ValueError, OSError; a part that fails leaves nothing but an unfinished download.
    """
    published = get_published(name)
    if source is not None and not source.exists():
        raise FileNotFoundError(f"No 'from={source}'. Expected an archive or a folder that holds '{name}'.")
    _check_plan(name, published, root, source, yes, show)
    with locked_root(root):
        manifest, digests = Manifest(root, name), Digests(root)
        for choices in published.parts():
            _prepare_part(choices, root, source, keep, manifest, digests, show)
        if published.coco_images:
            prepare_images(root, source, manifest, digests, show)
        return write_index(name, root, show)


def _is_there(choices: list[Archive], root: Path) -> Archive | None:
    return next((archive for archive in choices if (root / archive.target).exists()), None)


def _check_plan(name: str, published: PublishedData, root: Path, source: Path | None, yes: bool, show: Show) -> None:
    """Say what is going to happen and refuse what cannot, before a byte is moved."""
    todo = [choices for choices in published.parts() if _is_there(choices, root) is None]
    found = [find_source(choices, source) if source is not None else None for choices in todo]
    # The first choice of a part is the one that is downloaded: what no copy has is asked for under its name.
    lacking = [choices[0] for choices, here in zip(todo, found, strict=True) if here is None]
    if source is not None and lacking:
        names = ", ".join(f"{archive.file} or {archive.target}" for archive in lacking)
        raise FileNotFoundError(f"'{source}' does not hold all of '{name}'. Expected there: {names}.")
    # Some publishers ask for a form or a login: only a copy of one's own can be installed.
    if any(not archive.urls for archive in lacking):
        raise ValueError(f"'{name}' cannot be downloaded. {published.how}")
    # Less what an interrupted download left: that is continued, not fetched again.
    fetched = sum((archive.size or 0) - PartialFile(_download_path(archive, root)).size() for archive in lacking)
    chosen = [here.archive for here in found if here] + lacking
    # Archive and unpacked files lie side by side until the part is installed.
    needed = fetched + sum(archive.unpacked for archive in chosen)
    if needed:
        check_room(root, needed, f"'{name}'")
    if fetched > LARGE and not yes:
        raise ValueError(
            f"'{name}' is a download of {megabytes(fetched)} and needs about {megabytes(needed)} while it is unpacked. "
            f"Nothing was fetched. Expected yes=true to start it, or from=PATH with a copy you have."
        )
    if lacking:
        show(f"{name}: to download {megabytes(fetched) if fetched else 'a few MB'}; licence: {published.licence}.")


def _download_path(archive: Archive, root: Path) -> Path:
    return root / STATE / "downloads" / archive.file


def _prepare_part(
    choices: list[Archive],
    root: Path,
    source: Path | None,
    keep: bool,
    manifest: Manifest,
    digests: Digests,
    show: Show,
) -> None:
    there = _is_there(choices, root)
    # Never overwritten: it may be the user's own copy, and a second `prepare` must cost nothing.
    if there is not None:
        _adopt(there, root, manifest, show)
        return
    digest: Digest | None
    if source is None:
        found, digest = _fetch(choices[0], root, digests, show)
    else:
        here = find_source(choices, source)
        assert here is not None  # `_check_plan` refused a source that lacks one
        found, digest = here, None if here.unpacked else digests.check(here.archive, here.path)
    size = found.path.stat().st_size
    files = install(found, root)
    # After the install only: a first copy that cannot be unpacked must not become what later ones are held to.
    if digest and digest.source == FIRST:
        digests.record({found.archive.file: (digest.value, size)})
    # Last, so that a run killed before leaves files that `_adopt` looks at anew, not ones taken on trust.
    manifest.add(found.archive.target, source_of(found, digest), files)
    stated = f"{digest.algorithm} as stated by {digest.source}" if digest else "no archive: no digest to compare"
    show(f"{found.archive.target}: {len(files):,} files from {found.path.name} ({stated}).")
    # A source is the user's and is only read.
    if source is None and not keep:
        found.path.unlink()


def _fetch(archive: Archive, root: Path, digests: Digests, show: Show) -> tuple[Found, Digest]:
    """The archive in the downloads folder, fetched unless it is there, and its digest, checked once."""
    path, checked = _download_path(archive, root), []
    known = digests.expected(archive) is not None
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


def _adopt(archive: Archive, root: Path, manifest: Manifest, show: Show) -> None:
    """A target that is there already: known, or checked and recorded now. Raises: ValueError for wrong content."""
    if archive.target in manifest.parts:
        show(f"{archive.target}: there since {manifest.parts[archive.target]['date']} (see `verify`).")
        return
    target = root / archive.target
    problems = content_problems(archive, target)
    if problems:
        raise ValueError(
            "\n  ".join(
                [f"'{target}' is not the published one; it was left as it is. Remove it to get it anew:", *problems]
            )
        )
    files = hash_tree(target)
    manifest.add(archive.target, {"file": archive.file, "from": "found in place"}, files)
    show(f"{archive.target}: was there; {len(files):,} files checked and recorded.")


def index_path(name: str, root: Path) -> Path:
    return root / STATE / f"{name}.index.json"


def build_index(name: str, root: Path) -> dict:
    """List the ids of each split, in order, as the DataModule has them by default."""
    data = registry.load_datamodule(name, root=str(root))
    splits = {split: [row.id for row in data.rows(split)] for split in SPLITS}
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
