"""What is lacking of a file or folder, and how each lacking file is got. Nothing large is fetched here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from datamodules.whole_files.disk import megabytes
from datamodules.whole_files.download import download
from datamodules.whole_files.http import BrokenError, PartialFile, RefusedError, offered_size
from model_zoo.fetch.hub import HubCommit, read_commit, require_access, token_header
from model_zoo.fetch.record import FetchRecord, sha256_of
from model_zoo.fetch.selection import text_files, weights_entry
from model_zoo.weights.catalogue import WeightFile
from model_zoo.weights.index import INDEXES, weight_map
from model_zoo.weights.origins import ByHand, HubOrigin, UrlOrigin

Show = Callable[[str], None]


class LackingFile(NamedTuple):
    """One file to fetch.

    check: called with the complete file before it gets its name, as `download` has it. sha256: the digest it checks,
    where it does. trusted: the check knows a digest, so that what was joined wrongly is found.
    """

    record: FetchRecord
    name: str
    url: str
    source: str
    size: int | None
    check: Callable[[Path], None]
    private: Mapping[str, str]
    sha256: str | None = None
    trusted: bool = True

    @property
    def path(self) -> Path:
        """Where it belongs."""
        return self.record.folder / self.name

    def remaining(self) -> int:
        """Bytes that are still to come; 0 where the size is not known."""
        return max(0, (self.size or 0) - PartialFile(self.path).size())

    def fetch(self, show: Show) -> None:
        """Get it, or go on with it, and record it. Raises as `download`."""
        download(
            (self.url,),
            self.path,
            size=self.size,
            check=self.check,
            trusted=self.trusted,
            show=show,
            private=self.private,
        )
        self.record.add(self.name, self.source, self.sha256 or sha256_of(self.path))


class ItemPlan(NamedTuple):
    """What is to be done for one item. commit: of a whole folder; wanted: all names that belong into it."""

    item: WeightFile
    record: FetchRecord
    lacking: list[LackingFile]
    commit: HubCommit | None = None
    wanted: tuple[str, ...] = ()

    def finish(self) -> list[str]:
        """Say in the record that the folder is complete, and remove what an earlier commit had besides."""
        if self.commit is None:
            return []
        gone = [name for name in self.record.files if name not in self.wanted]
        for name in gone:
            if self.record.intact(name):
                (self.record.folder / name).unlink()
            del self.record.files[name]
        self.record.complete = True
        self.record.write()
        return gone


def plan(item: WeightFile, weights: Path, records: dict[Path, FetchRecord], show: Show) -> ItemPlan:
    """What is lacking of `item` below `weights`.

    records: those that are open, by folder: items that lie in one folder share its record.
    Raises FileExistsError for a file in the way that was not fetched and is another one, and as `read_commit`.
    """
    if isinstance(item.origin, ByHand):
        raise TypeError(f"{item.path} is got by hand.")
    if item.holds and isinstance(item.origin, HubOrigin):
        return _plan_folder(item, item.origin, _record(weights / item.path, records), show)
    path = weights / item.path
    record = _record(path.parent, records)
    if _kept(record, [path.name], show):
        return ItemPlan(item, record, [])
    if isinstance(item.origin, UrlOrigin):
        return _plan_url(item, item.origin, record, path.name, show)
    assert item.origin.file is not None  # without one the item is a folder
    origin = item.origin
    recorded = record.files[path.name].source if path.name in record.files else ""
    pinned = recorded.rpartition("@")[2] if recorded.startswith("hf:") else None
    commit = read_commit(origin.repo, pinned or origin.revision, show)
    if origin.file not in commit.files:
        there = ", ".join(sorted(commit.files)[:12])
        raise ValueError(f"'{origin.repo}' has no file '{origin.file}' at {commit.commit}. It has: {there}.")
    lacking = _lacking(commit, [origin.file], record, {origin.file: path.name})
    if lacking:
        require_access(commit, origin.file, show)
    return ItemPlan(item, record, lacking)


def _record(folder: Path, records: dict[Path, FetchRecord]) -> FetchRecord:
    if folder not in records:
        records[folder] = FetchRecord(folder)
    return records[folder]


def _plan_folder(item: WeightFile, origin: HubOrigin, record: FetchRecord, show: Show) -> ItemPlan:
    pinned = record.revision and origin.revision in (None, record.revision)
    if pinned and record.complete and _kept(record, list(record.files), show):
        return ItemPlan(item, record, [])
    commit = read_commit(origin.repo, record.revision if pinned else origin.revision, show)
    if pinned and commit.commit != record.revision:
        raise ValueError(f"'{origin.repo}' answers {record.revision} with {commit.commit}. Expected the same commit.")
    entry = weights_entry(commit.files, origin.repo)
    wanted = sorted({*text_files(commit.files), *item.holds, entry})
    if absent := [name for name in wanted if name not in commit.files]:
        raise ValueError(
            f"'{origin.repo}' at {commit.commit} has no {', '.join(absent)}. Expected a model in Hugging Face's format."
        )
    record.repo, record.revision, record.complete = commit.repo, commit.commit, False
    if entry in INDEXES:  # it names the shards
        if index := _lacking(commit, [entry], record):
            require_access(commit, entry, show)
            record.folder.mkdir(parents=True, exist_ok=True)
            record.write()
            index[0].fetch(lambda line: None)
        shards = sorted(set(weight_map(record.folder / entry).values()))
        if absent := [name for name in shards if name not in commit.files]:
            raise ValueError(f"'{origin.repo}' lacks {', '.join(absent)}, which its {entry} names. Report it there.")
        wanted += shards
    lacking = _lacking(commit, wanted, record)
    if lacking:
        require_access(commit, lacking[0].name, show)
    return ItemPlan(item, record, lacking, commit, tuple(wanted))


def _lacking(
    commit: HubCommit, names: list[str], record: FetchRecord, stored: Mapping[str, str] | None = None
) -> list[LackingFile]:
    """The files of a commit that are not there; one that is there, unrecorded and right, is recorded."""
    lacking = []
    for name in names:
        known, place = commit.files[name], (stored or {}).get(name, name)
        path = record.folder / place
        of_commit = place in record.files and record.files[place].source == commit.source
        if record.intact(place) if of_commit else path.is_file() and _is(known.check, path):
            if not of_commit:
                record.add(place, commit.source, known.sha256 or sha256_of(path))
            continue
        _refuse_strangers(record, place, commit.source)
        url, source = commit.url(name), commit.source
        lacking.append(LackingFile(record, place, url, source, known.size, known.check, token_header(), known.sha256))
    return lacking


def _plan_url(item: WeightFile, origin: UrlOrigin, record: FetchRecord, name: str, show: Show) -> ItemPlan:
    path, known, size = record.folder / name, record.files.get(name), _offered(origin.url)
    if known is None and path.is_file() and size in (None, path.stat().st_size):
        compared = "its size is the published one" if size else "its size could not be compared"
        show(f"{item.path}: is there and was not fetched; {compared}. Its SHA-256 is recorded now.")
        record.add(name, origin.url, sha256_of(path))
        return ItemPlan(item, record, [])
    _refuse_strangers(record, name, origin.url)

    def check(part: Path) -> None:
        if known is not None and (found := sha256_of(part)) != known.sha256:
            raise ValueError(
                f"has SHA-256 {found}, the copy fetched before had {known.sha256}. If its authors replaced it, remove "
                f"'{path}' and its entry in '{record.folder}/fetched.json', and fetch again"
            )

    sha256, private = known.sha256 if known else None, dict[str, str]()
    file = LackingFile(record, name, origin.url, origin.url, size, check, private, sha256, trusted=known is not None)
    return ItemPlan(item, record, [file])


def _offered(url: str) -> int | None:
    """The size a server states; None where it does not, or does not answer: the download will say why."""
    try:
        return offered_size(url)
    except (RefusedError, BrokenError):
        return None


def _kept(record: FetchRecord, names: list[str], show: Show) -> bool:
    """Whether every one of these recorded files is unchanged; says which are not."""
    if not names or any(name not in record.files for name in names):
        return False
    size = sum(record.files[name].size for name in names)
    if size > 10**9:
        show(f"Checking {len(names)} files ({megabytes(size)}) of '{record.folder}' against their SHA-256.")
    damaged = [name for name in names if not record.intact(name)]
    for name in damaged:
        there = (record.folder / name).exists()
        show(f"'{record.folder / name}' {'is not what was fetched' if there else 'is missing'}: it is fetched again.")
    return not damaged


def _refuse_strangers(record: FetchRecord, name: str, source: str) -> None:
    """A file that somebody else put there is nobody's to overwrite."""
    path = record.folder / name
    if path.exists() and name not in record.files:
        raise FileExistsError(
            f"'{path}' was not fetched by this command and is not what {source} holds. Nothing was overwritten; move "
            "it away, or fetch below another weights=DIR."
        )


def _is(check: Callable[[Path], None], path: Path) -> bool:
    try:
        check(path)
    except ValueError:
        return False
    return True
