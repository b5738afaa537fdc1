"""Where weights are published, as data: on the hub, at an address of their authors, or where no program may go."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple


class HubOrigin(NamedTuple):
    """A model on the Hugging Face hub, or one `file` of it.

    revision: branch, tag or commit to begin with; None is `main`. Whatever it is, the first fetch records its commit.
    """

    repo: str
    file: str | None = None
    revision: str | None = None

    @property
    def source(self) -> str:
        """For people."""
        return f"{self.repo} (hub)"


class UrlOrigin(NamedTuple):
    """A file at an address of its authors, who state no digest: that of the first copy is recorded."""

    url: str

    @property
    def source(self) -> str:
        """For people."""
        return self.url


class ByHand(NamedTuple):
    """What no program may, or can, download.

    steps: what to do, with {weights} for the weights root and {path} for the place of the file in it.
    """

    source: str
    steps: str

    def instructions(self, weights: Path, path: str) -> str:
        """The steps for one weights root."""
        return self.steps.format(weights=shlex.quote(str(weights)), path=weights / path)


Origin = HubOrigin | UrlOrigin | ByHand
