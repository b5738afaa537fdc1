"""Recognition sets as the Hugging Face hub serves them: parquet shards with encoded images and integer labels.

Shards are put into `<root>/<name>/` as they are or in the hub's own subfolders; hub_shards.py has the names. The
columns and splits of the well-known copies, read from their dataset cards or from public code that reads them, 2025:
uoft-cs/cifar10 (img, label), uoft-cs/cifar100 (img, fine_label), ufldl-stanford/svhn cropped_digits (image, label),
frgfm/imagenette full_size | 320px | 160px (image, label; train, validation), blanchon/EuroSAT_RGB (image, label,
filename; three splits, pooled here), timm/oxford-iiit-pet (image, label, image_id),
zalando-datasets/fashion_mnist (image, label). An image column holds structs
{bytes, path} or plain bytes. The order of the labels is the copy's own where its metadata says it, else ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datamodules.class_names import CLASS_NAMES, match_class_names
from datamodules.hub_shards import find_shards, parquet_files
from datamodules.labelled_pictures import EncodedPictures, PublishedPart, stems
from datamodules.places import find_folder

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "label")
FILE_COLUMNS = ("image_id", "filename", "file_name")
CONFIGS = {"imagenette": ("full_size", "320px", "160px"), "svhn": ("cropped_digits",)}  # of those with several
REPOSITORIES = {  # on the hub, where the name is not ours
    "cifar10": ("uoft-cs/cifar10",),
    "cifar100": ("uoft-cs/cifar100",),
    "svhn": ("ufldl-stanford/svhn",),
    "imagenette": ("frgfm/imagenette",),
    "eurosat": ("EuroSAT_RGB", "blanchon/EuroSAT_RGB"),
    "oxford_pets": ("oxford-iiit-pet", "timm/oxford-iiit-pet"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "fashion-mnist"),
}
HUB_SPLITS = {"trainval": ("trainval", "train"), "val": ("validation",)}
LFS = b"version https://git-lfs"


class HubCopy:
    """The shards of one set below `root`. ids_from_files: ids are the images' file names where the copy has them.

    Everything read stays in memory, encoded: a few hundred megabytes, 1.5 GB for the full-size ImageNette.
    """

    def __init__(self, root: str, name: str, ids_from_files: bool, configs: Sequence[str] | None = None) -> None:
        """configs: read the first of these configurations, and no other; None: of those known, and any other else."""
        self.top = find_folder(root, (name, *REPOSITORIES.get(name, ())), "**/*.parquet")
        self.name, self.ids_from_files = name, ids_from_files
        self.configs, self.only = configs or CONFIGS.get(name, ()), configs is not None

    def expected(self) -> str:
        unknown = [] if self.found() else parquet_files(self.top)[:1]
        found = f"; '{unknown[0].relative_to(self.top)}' there names no split" if unknown else ""
        return (
            f"{self.top}/<split>-*.parquet, <split>.parquet or <split>/*.parquet, the shards of its copy on the "
            f"Hugging Face hub (see datamodules/hub_shards){found}"
        )

    def found(self) -> dict[str, list[Path]]:
        """Split -> its shards in order.

        Raises: FileNotFoundError when shards are missing from a series, ValueError for two copies of a split.
        """
        return find_shards(self.top, self.configs, only=self.only)

    def read(self, part: str, order: Callable[[str, list[int]], list[int] | None]) -> PublishedPart:
        """A published part. order: see `PublishedRecognition.hub_order`."""
        files, labels, names, where = [], [], [], []
        for path in self._shards(part):
            shard = _read_shard(path, self.name)
            files += shard[0]
            labels += shard[1]
            names += shard[2]
            where += [f"{path} row {i}" for i in range(len(shard[1]))]
        places, prefix = order(part, labels), part
        if places is None:
            places, prefix = list(range(len(labels))), f"copy-{part}"
        ids = [names[i] for i in places] if self.ids_from_files and _are_ids(names) else None
        ids = ids or [f"{prefix}-{i:05d}" for i in range(len(places))]
        pictures = EncodedPictures([files[i] for i in places], [where[i] for i in places])
        return PublishedPart(ids, [labels[i] for i in places], pictures)

    def _shards(self, part: str) -> list[Path]:
        found = self.found()
        if part == "all":
            return [path for split in sorted(found) for path in found[split]]  # dealt out anew
        for split in HUB_SPLITS.get(part, (part,)):
            if split in found:
                return found[split]
        raise FileNotFoundError(
            f"No part '{part}' of {self.name} in '{self.top}', which has {', '.join(found)}. Expected "
            f"{HUB_SPLITS.get(part, (part,))[-1]}-*.parquet; add those shards, or use its publisher's files."
        )


def _read_shard(path: Path, name: str) -> tuple[list[bytes], list[int], list[str]]:
    """(encoded images, labels, file names or "") of a shard's rows. Raises: ValueError naming the file."""
    import pyarrow
    from pyarrow import parquet

    try:
        # partitioning: a folder called `split=train` would otherwise become a column
        table = parquet.read_table(path, partitioning=None)
    except (pyarrow.ArrowException, OSError) as error:
        with open(path, "rb") as file:
            pointer = file.read(len(LFS)) == LFS
        what = "it is a Git LFS pointer: run `git lfs pull`" if pointer else "download it again"
        raise ValueError(f"Cannot read '{path}': {error}. Expected a complete parquet file; {what}.") from error
    columns = table.column_names
    image, label = (next((c for c in known if c in columns), None) for known in (IMAGE_COLUMNS, LABEL_COLUMNS))
    if image is None or label is None:
        raise ValueError(
            f"'{path}' has the columns {', '.join(columns)}. Expected an image ({', '.join(IMAGE_COLUMNS)}) and a "
            f"label ({', '.join(LABEL_COLUMNS)}); rename them, or use the publisher's files."
        )
    files, names = _images(table.column(image), path)
    file_column = next((c for c in FILE_COLUMNS if c in columns), None)
    names = [str(value or "") for value in table.column(file_column).to_pylist()] if file_column else names
    return files, _labels(table, label, name, path), names


def _images(column: Any, path: Path) -> tuple[list[bytes], list[str]]:
    rows = column.to_pylist()
    pairs: list[tuple[Any, Any]] = [
        (row.get("bytes"), row.get("path")) if isinstance(row, dict) else (row, None) for row in rows
    ]
    empty = next((i for i, (data, _) in enumerate(pairs) if not isinstance(data, bytes)), None)
    if empty is not None:
        raise ValueError(
            f"'{path}', row {empty}, holds no image bytes. Expected the encoded image inside the file; get the copy "
            "that embeds them."
        )
    return [data for data, _ in pairs], [str(name or "") for _, name in pairs]


def _labels(table: Any, column: str, name: str, path: Path) -> list[int]:
    """Labels in our order: by the names in the file's metadata, by the value where it is a name, else as they are."""
    values, own = table.column(column).to_pylist(), len(CLASS_NAMES[name]["clean"])
    names = _label_names(table.schema.metadata or {}, column)
    if names is None and all(isinstance(value, str) for value in values):
        names = sorted(set(values))
        values = [names.index(value) for value in values]
    order = match_class_names(name, names) if names else list(range(own))
    wrong = next((i for i, v in enumerate(values) if not isinstance(v, int) or not 0 <= v < len(order)), None)
    if wrong is not None:
        raise ValueError(
            f"'{path}', row {wrong}, has the label {values[wrong]!r}. Expected 0 to {len(order) - 1}; use a copy with "
            "the labels of the published set."
        )
    return [order[value] for value in values]


def _label_names(metadata: dict[bytes, bytes], column: str) -> list[str] | None:
    """The class names the `datasets` library wrote into the file, {"info": {"features": {column: {"names": ...}}}}."""
    try:
        return list(json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _are_ids(names: list[str]) -> bool:
    names[:] = stems(names)
    return all(names) and len(set(names)) == len(names)
