"""What computes a number: the sources of this project and the versions of the libraries under it.

Whatever is stored to be used again (controls' scores, clean features, a sweep's cells) bears both in its name, so that
a change of the code or another installation makes it anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datamodules.folder_scan import iter_files

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("model_zoo", "datamodules", "lightning_modules")
TEXTS = (".py", ".json", ".yaml")
# What cannot change a score: getting data and weights, listing and checking files, planning memory, cards,
# what was measured.
NO_SOURCES = (
    *("datamodules/prepare/", "datamodules/__main__.py"),
    *("model_zoo/__main__.py", "model_zoo/listing.py", "model_zoo/check.py", "model_zoo/memory/"),
    *("model_zoo/embedded/gates.json", "model_zoo/fetch/", "model_zoo/weights/delta.py", "model_zoo/hf/tiny/"),
    *("lightning_modules/prompt_card.py", "lightning_modules/prompt_hub.py"),
)
LIBRARIES = (
    *("torch", "torchvision", "transformers", "tokenizers", "sentencepiece", "open_clip_torch"),
    *("lightning", "torchmetrics", "numpy", "pillow"),
)


@cache
def code_version(sources: Sequence[str] = SOURCES) -> str:
    """16 hex digits of sha256 over the sources that decide a score; a commit that touches none changes nothing.

    sources: files or folders below the repository: of folders every text file (.py, .json, .yaml) but `NO_SOURCES` and
    what editors and other tools leave there. Shipped weights count by their own fingerprints.
    """
    digest = hashlib.sha256()
    for path in sorted({path for name in sources for path in _texts(ROOT / name)}):
        name = path.relative_to(ROOT).as_posix()
        # The name counts beside the content: modules are found by name, so a renamed file is another program. A zero
        # byte, which no name holds, and a digest of fixed length keep one file's end apart from the next one's start.
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _texts(top: Path) -> list[Path]:
    files = [top] if top.is_file() else iter_files(top)
    left_out = tuple(str(ROOT / name) for name in NO_SOURCES)
    return [p for p in files if p.suffix in TEXTS and not f"{p}".startswith(left_out)]


@cache
def library_versions() -> dict[str, str]:
    """Library -> its version, of those whose arithmetic or decoding a score rests on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
