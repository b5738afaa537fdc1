"""What the Hugging Face hub says of a model: its commit, and each file's size and digest.

Questions go through `huggingface_hub`. The bytes do not: since its version 2 it starts a broken download over, where
`datamodules.whole_files.download` goes on from what a killed process left, and it takes a complete answer for a right
one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from datamodules.whole_files.download import ATTEMPTS, pause
from model_zoo.fetch.record import sha256_of

# Otherwise it says which programs run here, and asks the public hub for a list of them even where HF_ENDPOINT is set.
# Its variable in the environment is read when it is imported, which may be long ago.
constants.HF_HUB_DISABLE_TELEMETRY = True

PUBLIC_HUB = "https://huggingface.co"
PASSING = (408, 425, 429)
Answer = TypeVar("Answer")


class HubFile(NamedTuple):
    """One file of a commit. sha256: of a large one; blob: git's SHA-1 of a small one; None where the hub is silent."""

    name: str
    size: int | None
    sha256: str | None
    blob: str | None

    def check(self, path: Path) -> None:
        """Raises ValueError where the content is not what the hub states."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            raise ValueError(f"has {size:,} bytes, the hub states {self.size:,}")
        if self.sha256 and (found := sha256_of(path)) != self.sha256:
            raise ValueError(f"has SHA-256 {found}, the hub states {self.sha256}")
        if not self.sha256 and self.blob and (found := git_sha1(path)) != self.blob:
            raise ValueError(f"has the git digest {found}, the hub states {self.blob}")


class HubCommit(NamedTuple):
    """A commit of a model. repo: its present name, where it was renamed."""

    repo: str
    commit: str
    files: dict[str, HubFile]

    @property
    def source(self) -> str:
        """What a record calls it."""
        return f"hf:{self.repo}@{self.commit}"

    def url(self, name: str) -> str:
        """Where a file of this commit is served."""
        return hf_hub_url(self.repo, name, revision=self.commit, endpoint=endpoint())


def endpoint() -> str:
    """The hub: HF_ENDPOINT, else the public one."""
    return (os.environ.get("HF_ENDPOINT") or PUBLIC_HUB).rstrip("/")


def token() -> str | bool:
    """HF_TOKEN; False without it, which keeps `huggingface_hub` from looking into the user's files."""
    return os.environ.get("HF_TOKEN") or False


def token_header() -> dict[str, str]:
    """The header that carries the token, for the hub's own host."""
    return {"Authorization": f"Bearer {token()}"} if token() else {}


def git_sha1(path: Path) -> str:
    """The name git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def read_commit(repo: str, revision: str | None, show: Callable[[str], None]) -> HubCommit:
    """The commit that `revision` (None: main) names now.

    Raises ValueError for a repository or revision that is not there, PermissionError, ConnectionError.
    """
    api = HfApi(endpoint=endpoint(), token=token())
    info: Any = _ask(lambda: api.model_info(repo, revision=revision, files_metadata=True), repo, revision, show)
    files = {}
    for each in info.siblings or ():
        if each.size != 0:  # nothing is in it
            files[each.rfilename] = HubFile(
                each.rfilename, each.size, each.lfs.sha256 if each.lfs else None, each.blob_id
            )
    return HubCommit(info.id or repo, info.sha, files)


def require_access(commit: HubCommit, name: str, show: Callable[[str], None]) -> None:
    """Ask for one file without reading it: a gated model lists its files to everybody.

    Raises PermissionError that says where its terms are accepted, ValueError, ConnectionError.
    """
    url = commit.url(name)
    _ask(lambda: get_hf_file_metadata(url, token=token(), endpoint=endpoint()), commit.repo, commit.commit, show)


def _ask(question: Callable[[], Answer], repo: str, revision: str | None, show: Callable[[str], None]) -> Answer:
    """The answer, asked again where a later one may be another. Errors say what to do."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return question()
        except Exception as error:
            status = status_of(error)
            final = explained(error, status, repo, revision)
            if final is None:
                raise
            if attempt == ATTEMPTS or not isinstance(final, ConnectionError) or not _passes(error, status):
                raise final from None
            wait = pause(attempt, _asked_wait(error))
            show(f"{endpoint()} {_what(error, status)}. Attempt {attempt + 1} of {ATTEMPTS} in {wait:g} s.")
            time.sleep(wait)
    raise AssertionError("unreachable")


def status_of(error: Exception) -> int | None:
    """The status of the answer an error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def explained(error: Exception, status: int | None, repo: str, revision: str | None) -> Exception | None:
    """An error of `huggingface_hub` as ours, in the user's terms; None for one that is none of the hub's."""
    page = f"{endpoint()}/{repo}"
    if isinstance(error, HFValidationError):
        return ValueError(f"'{repo}' cannot be a name on the hub. Expected ORG/MODEL.")
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError("HF_HUB_OFFLINE=1 (or TRANSFORMERS_OFFLINE=1) forbids asking the hub. Unset it.")
    if isinstance(error, GatedRepoError):
        return PermissionError(_gated(page))
    if isinstance(error, RepositoryNotFoundError):
        return ValueError(
            f"{endpoint()} has no '{repo}', or it is private. Expected ORG/MODEL as in the address of its page; "
            "for a private or gated one set HF_TOKEN to a token that may read it."
        )
    if isinstance(error, RevisionNotFoundError):
        return ValueError(f"'{repo}' has no revision '{revision}'. Expected a branch, a tag or a commit of {page}.")
    if isinstance(error, EntryNotFoundError):
        return ValueError(f"'{repo}' lists a file that it does not have. Look at {page}/tree/{revision or 'main'}.")
    if status in (401, 403):
        return PermissionError(
            f"{page} refuses ({status}). {'Check HF_TOKEN' if token() else 'Set HF_TOKEN'}. {_gated(page)}"
        )
    if isinstance(error, HfHubHTTPError) or type(error).__module__.startswith("httpx"):
        # The HTTP client differs between the versions of huggingface_hub that are allowed, and so do its errors.
        return ConnectionError(f"Cannot ask {endpoint()} about '{repo}': it {_what(error, status)}. {TRY_AGAIN}")
    return None


TRY_AGAIN = "Check the network and try again; what is there already is kept."


def _gated(page: str) -> str:
    step = "then make a token at https://huggingface.co/settings/tokens and set HF_TOKEN to it"
    if token():
        step = "with the account whose token HF_TOKEN holds"
    return f"Its terms must be accepted first: open {page}, accept them, {step}."


def _passes(error: Exception, status: int | None) -> bool:
    return not isinstance(error, OfflineModeIsEnabled) and (status is None or status in PASSING or status >= 500)


def _what(error: Exception, status: int | None) -> str:
    return f"answered {status}" if status else f"cannot be reached ({error})"


def _asked_wait(error: Exception) -> float:
    answer = getattr(error, "response", None)
    asked = answer.headers.get("Retry-After", "") if answer is not None else ""
    return float(asked) if asked.isdigit() else 0
