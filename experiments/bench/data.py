"""Time how fast pictures are prepared, with and without cache."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.class_names import class_names
from datamodules.registry import load_datamodule
from datamodules.writable import require_writable
from experiments.cli import parse_options, run_command


@dataclass
class Options:
    """
    python -m experiments.bench.data [images=384] [size=164] [workers=0] [repeats=5] [out=FILE.json]

    Random pictures in the forms of the data sets, made for this run: 32 px arrays (svhn), 64 px JPEG (eurosat), 500 x
    375 JPEG (imagefolder), and those under a corruption. Paired and alternating, after a pass of each side that fills
    the cache.
    """

    images: int = 384
    """pictures of a form"""
    size: int = 164
    """pixels a side they are prepared for"""
    workers: int = 0
    """processes that prepare (0: the main process); rates are divided by them"""
    repeats: int = 5
    """passes of each side, of which the median counts"""
    out: Path | None = None
    """a JSON file for the numbers"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv)
    if options is None:
        return 0
    if options.out:
        require_writable(options.out.absolute().parent, "the folder of the numbers", "out=FILE")
    import torch

    with _scratch() as root:
        rows = [_measure(name, kwargs, options) for name, kwargs in _sets(root, options.images)]
    for row in rows:
        print(
            f"{row['name']:36} {row['plain']:8.0f} images/s decoded, {row['cached']:8.0f} cached, per worker: "
            f"{row['ratio']:.1f}x"
        )
    result = {
        "options": vars(options) | {"out": str(options.out or "")},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for the pictures, which also takes the cache; both are gone afterwards."""
    before = os.environ.get("TVP_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TVP_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("TVP_CACHE")
            if before is not None:
                os.environ["TVP_CACHE"] = before


def _sets(root: Path, n: int) -> Iterator[tuple[str, dict]]:
    """(label, arguments of load_datamodule); the measured split, test, has about n pictures."""
    yield "svhn, 32 px arrays", {"name": "svhn", **_write_svhn(root, n)}
    yield "eurosat, 64 px JPEG", {"name": "eurosat", **_write_eurosat(root, 10 * n)}
    photos = {"name": "imagefolder", "root": _write_photos(root / "photos", n)}
    yield "imagefolder, 500 x 375 JPEG", photos
    yield "imagefolder, motion_blur:3", photos | {"corruption": "motion_blur:3"}


def _write_svhn(root: Path, n: int) -> dict:
    from scipy.io import savemat

    (root / "svhn").mkdir()
    digests = {}
    for part in ("train", "test"):
        path, generator = root / "svhn" / f"{part}_32x32.mat", np.random.default_rng(0)
        images = generator.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        savemat(path, {"X": images, "y": np.arange(n)[:, None] % 10 + 1})
        digests[part] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return {"root": str(root), "md5": digests, "counts": {"train": n, "test": n}}


def _write_eurosat(root: Path, n: int) -> dict:
    names = class_names("eurosat", "raw")
    for i in range(n):
        _save(root / "eurosat" / "2750" / names[i % 10] / f"{names[i % 10]}_{i}.jpg", i, 64, 64)
    return {"root": str(root), "counts": {"all": n}}


def _write_photos(root: Path, n: int) -> str:
    for i in range(n):
        _save(root / "test" / f"class{i % 2}" / f"{i}.jpg", i, 500, 375)
    for i in range(40):
        _save(root / "train" / f"class{i % 2}" / f"{i}.jpg", i, 20, 20)
    return str(root)


def _save(path: Path, seed: int, width: int, height: int) -> None:
    """A JPEG with shapes and some texture, of about the bytes a photograph has."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=int)
    pixels = (pixels + generator.integers(-20, 21, pixels.shape)).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)


def _measure(label: str, kwargs: dict, options: Options) -> dict:
    workers, loaders = options.workers, []
    for cache in (False, True):
        data = load_datamodule(**kwargs, image_size=options.size, workers=workers, cache=cache)
        loaders.append(data.loader("test", n=min(options.images, data.n("test"))))
    for loader in loaders:
        _seconds(loader)
    times = [[_seconds(loader) for loader in loaders] for _ in range(options.repeats)]
    n = min(options.images, data.n("test")) / max(1, workers)
    plain, cached = (n / statistics.median(side) for side in zip(*times, strict=True))
    return {"name": label, "plain": plain, "cached": cached, "ratio": statistics.median(a / b for a, b in times)}


def _seconds(loader: Any) -> float:
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    run_command(main)
