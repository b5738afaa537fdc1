"""The COCO pictures that POPE asks about, and no others: 500 of val2014 and 2,000 of train2014, about 0.4 GB."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from PIL import Image

from datamodules.prepare.archives import Limits, unpack
from datamodules.prepare.catalogue import COCO
from datamodules.prepare.catalogue_entry import Digest
from datamodules.prepare.content import rows_of
from datamodules.prepare.disk import scratch_folder
from datamodules.prepare.install import copy_file
from datamodules.prepare.manifest import Digests, Files, Manifest, hash_file
from datamodules.whole_files.download import PausedError, download

QUESTIONS = {"val2014": "coco_pope", "train2014": "train"}  # COCO part -> which files of `<root>/pope` ask about it
TYPES = ("random", "popular", "adversarial")
PARALLEL = 4
GIVE_UP = 10  # failed pictures
NAME = re.compile(r"COCO_(train|val)2014_\d{12}\.jpg")


def prepare_images(
    root: Path, source: Path | None, manifest: Manifest, digests: Digests, show: Callable[[str], None]
) -> None:
    """Make the training questions unless they are there, then copy or fetch every picture that is missing.

    source: a folder with val2014/ and train2014/ (also below coco/), or with COCO's val2014.zip and train2014.zip.
    Raises: FileNotFoundError when `source` lacks pictures; ConnectionError; ValueError for a picture that is another.
    """
    if not all((root / "pope" / f"train_{kind}.json").is_file() for kind in TYPES):
        from datamodules.pope_questions import write_questions

        show("pope: training questions from COCO's annotations ...")
        write_questions(root)
    for part in QUESTIONS:
        folder, names = root / "coco" / part, needed_images(root, part)
        folder.mkdir(parents=True, exist_ok=True)
        missing = [name for name in names if not _is_right(folder / name, digests.recorded(f"coco/{part}/{name}"))]
        if missing and source is not None:
            _import(source, part, missing, folder)
        elif missing:
            _fetch(part, missing, folder, digests, show)
        files = _record(part, names, folder, digests)
        manifest.add(f"coco/{part}", {"file": "single pictures", "from": str(source or f"{COCO}/{part}")}, files)
        show(f"coco/{part}: {len(names):,} pictures, {len(missing):,} of them new.")


def needed_images(root: Path, part: str) -> list[str]:
    """The names of the pictures asked about, sorted. Raises: ValueError for a name that is no COCO picture's."""
    names = set()
    for kind in TYPES:
        path = root / "pope" / f"{QUESTIONS[part]}_{kind}.json"
        for number, line in enumerate(rows_of(path), 1):
            try:
                name = json.loads(line)["image"]
            except (ValueError, KeyError, TypeError):
                name = ""
            if not (isinstance(name, str) and NAME.fullmatch(name)):
                raise ValueError(
                    f"'{path}' line {number} names no COCO picture: {_text(line)!r}. Expected an object with "
                    '"image": "COCO_val2014_000000000042.jpg"; get the file again.'
                )
            names.add(name)
    return sorted(names)


def _text(row: bytes | str) -> str:
    return (row.decode(errors="replace") if isinstance(row, bytes) else row)[:80]


def _fetch(part: str, names: list[str], folder: Path, digests: Digests, show: Callable[[str], None]) -> None:
    show(f"coco/{part}: fetching {len(names):,} pictures, {PARALLEL} at a time.")
    failed: list[str] = []
    pool = ThreadPoolExecutor(PARALLEL)
    try:
        jobs = [pool.submit(_fetch_one, part, name, folder, digests) for name in names]
        for done, job in enumerate(as_completed(jobs), 1):
            if error := job.result():
                failed.append(error)
            if len(failed) >= GIVE_UP:
                break
            if done % 500 == 0:
                show(f"coco/{part}: {done:,} of {len(names):,}.")
    except KeyboardInterrupt:
        raise PausedError("Stopped. The pictures fetched so far are kept; the same command goes on.") from None
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise ConnectionError(
            f"{len(failed)} or more of {len(names):,} COCO pictures could not be fetched. {failed[0]}\nThe others are "
            "kept: run the same command again or, without network, with from=DIR, a folder that holds val2014/ and "
            "train2014/ or COCO's val2014.zip and train2014.zip."
        )


def _fetch_one(part: str, name: str, folder: Path, digests: Digests) -> str | None:
    known = digests.recorded(f"coco/{part}/{name}")

    def check(path: Path) -> None:
        check_picture(path)
        if known is not None and hash_file(path) != known.value:
            raise ValueError(f"is another picture than {known.source}")

    try:
        url = f"{COCO}/{part}/{name}"
        download((url,), folder / name, check=check, trusted=False, show=lambda line: None, quiet=True)
    except ConnectionError as error:
        return str(error)
    return None


def check_picture(path: Path) -> None:
    """Raises: ValueError for a file that does not decode to its end."""
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # decoders raise whatever they like
        raise ValueError(f"is no complete picture ({error or type(error).__name__})") from None


def _import(source: Path, part: str, names: list[str], folder: Path) -> None:
    archive = source / f"{part}.zip"
    if archive.is_file():
        wanted = {f"{part}/{name}" for name in names}
        with scratch_folder(folder) as scratch:
            written = unpack(archive, scratch, Limits(), wanted.__contains__)
            for path in written:
                _check_copy(scratch / path, archive)
                (scratch / path).replace(folder / Path(path).name)
        found = {Path(path).name for path in written}
    else:
        around = (source / "coco" / part, source / part, source / "coco" / "images" / part, source)
        places = [inner for place in around for inner in (place, place / part) if any(inner.glob(f"COCO_{part}_*.jpg"))]
        found = {name for name in names for place in places[:1] if _copy(place / name, folder / name)}
    lacking = [name for name in names if name not in found]
    if lacking:
        raise FileNotFoundError(
            f"'{source}' lacks {len(lacking):,} of {len(names):,} COCO pictures, for example {part}/{lacking[0]}. "
            f"Expected {part}/, coco/{part}/ or {part}.zip there; those found were kept."
        )


def _copy(source: Path, target: Path) -> bool:
    if not source.is_file() or source.is_symlink():
        return False
    staging = target.with_name(f"{target.name}.part")
    staging.unlink(missing_ok=True)
    copy_file(source, staging)
    _check_copy(staging, source)
    staging.replace(target)
    return True


def _check_copy(copy: Path, source: Path) -> None:
    try:
        check_picture(copy)
    except ValueError as error:
        copy.unlink()
        raise ValueError(
            f"'{copy.name.removesuffix('.part')}' of '{source}' {error}. Expected a whole picture; get it again. Those "
            "before it were kept."
        ) from None


def _is_right(path: Path, known: Digest | None) -> bool:
    """Is the picture there, and the one recorded or, where none is, whole?"""
    if not path.is_file():
        return False
    if known is not None:
        return hash_file(path) == known.value
    try:
        check_picture(path)
    except ValueError:
        return False
    return True


def _record(part: str, names: list[str], folder: Path, digests: Digests) -> Files:
    """Hash all, compare with `digests.json`, and add first copies to it."""
    files: Files = {name: ((folder / name).stat().st_size, hash_file(folder / name)) for name in names}
    new = {}
    for name, (size, value) in files.items():
        known = digests.recorded(f"coco/{part}/{name}")
        if known is None:
            new[f"coco/{part}/{name}"] = (value, size)
        elif known.value != value:
            raise ValueError(f"'{folder / name}' is another picture than {known.source}. Remove it to get it again.")
    if new:
        digests.record(new)
    return files
