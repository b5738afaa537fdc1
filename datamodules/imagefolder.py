"""Your own pictures: any tree with one folder per class.

root/train/<class>/*.jpg  root/val/...  root/test/...   splits as given. With train/ and test/ only, val is a tenth
                                                        of train by hash; with train/ and val/ only, val/ is the
                                                        test and val is cut from train; train/ alone is as below
root/<class>/*.jpg                                      split 80/10/10 per class by hash
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.base import Row
from datamodules.image_files import ImageFiles
from datamodules.recognition import Recognition
from datamodules.splits import SPLITS, three_way

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


class ImageFolder(ImageFiles, Recognition):
    """Recognition among the folder names ("_" becomes a space; `class_names` maps a folder to any other words).

    Ids are paths below root. Files with other extensions and hidden ones are not images; a file that is one but cannot
    be read stops the run (see `max_corrupt`).
    """

    name = "imagefolder"

    def __init__(self, *, class_names: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._names = class_names or {}
        self._class_folders: list[str] = []

    @property
    def candidates(self) -> list[str]:
        return [self._names.get(folder, folder.replace("_", " ")) for folder in self._classes()]

    def missing(self) -> list[str]:
        return [] if Path(self.root).is_dir() else [f"{self.root}, a folder with one folder of images per class"]

    def build_rows(self, split: str) -> list[Row]:
        classes = self._classes()
        self._files[split] = self._split_paths(split)
        return self.make_rows(self._files[split], [self._label(path, classes) for path in self._files[split]])

    def content(self, split: str, index: int) -> bytes:
        return self.image_path(split, index).read_bytes()

    @cached_property
    def _trees(self) -> dict[str, str]:
        """Split -> its folder below root, for the splits that have one; {} for a single tree of classes."""
        folders = set(_folders(Path(self.root)))
        if "train" not in folders or not folders <= set(SPLITS):  # beside other classes, "train" is a vehicle
            return {}
        if folders == {"train", "val"}:
            return {"train": "train", "test": "val"}
        return {split: split for split in SPLITS if split in folders}

    def _split_paths(self, split: str) -> list[str]:
        trees = self._trees
        if split != "train" and split in trees:
            return self._images(trees[split])
        pool = self._images(trees.get("train", ""))
        classes = [self._class_of(path) for path in pool]
        if "test" not in trees:
            return [pool[i] for i in three_way(pool, classes, self.split_seed)[split]]
        return pool if "val" in trees else [pool[i] for i in self.train_or_val(split, pool, classes)]

    def _images(self, tree: str) -> list[str]:
        """Paths below root, with "/", of every image below root/tree/<class>, sorted."""
        top = Path(self.root, tree)
        return sorted(file.relative_to(self.root).as_posix() for name in _folders(top) for file in _files(top / name))

    def _class_of(self, path: str) -> str:
        return path.split("/")[1 if self._trees else 0]

    def _classes(self) -> list[str]:
        """The class folders, sorted: those of train, whatever the split. Read once."""
        if not self._class_folders:
            self.setup()
            top = Path(self.root, self._trees.get("train", ""))
            self._class_folders[:] = _folders(top)
            if len(self._class_folders) < 2:
                raise ValueError(
                    f"'{top}' has {len(self._class_folders)} class folders. Expected at least 2, one for each class."
                )
        return self._class_folders

    def _label(self, path: str, classes: list[str]) -> int:
        name = self._class_of(path)
        if name not in classes:
            raise ValueError(
                f"'{path}' is of class '{name}', which train does not have. Expected one of: {', '.join(classes)}; "
                "rename or remove that folder."
            )
        return classes.index(name)


def list_images(top: Path, classes: list[str]) -> list[str]:
    """Paths "<class>/<file>" of every image of a tree of class folders, sorted. Raises: ValueError naming a folder that
    is no class."""
    folders = _folders(top)
    unknown = [name for name in folders if name not in classes]
    if unknown:
        raise ValueError(
            f"'{top}' has the folder '{unknown[0]}', which is no class. Expected only: {', '.join(classes)}; "
            "remove it, or use `imagefolder` for a set of your own."
        )
    return sorted(file.relative_to(top).as_posix() for name in folders for file in _files(top / name))


def _folders(top: Path) -> list[str]:
    return sorted(path.name for path in top.iterdir() if path.is_dir() and path.name[0] != ".")


def _files(folder: Path) -> list[Path]:
    """The image files below a class folder (a dangling link too: reading names it). Raises: ValueError if none."""
    files = [f for f in folder.rglob("*") if f.suffix.lower() in EXTENSIONS and f.name[0] != "." and not f.is_dir()]
    if not files:
        raise ValueError(
            f"Class folder '{folder}' has no images. Expected files ending in {', '.join(sorted(EXTENSIONS))}; "
            "add some or remove the folder."
        )
    return files
