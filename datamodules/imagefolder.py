"""Your own pictures: any tree with one folder per class.

root/train/<class>/*.jpg  root/val/...  root/test/...   splits as given. With train/ and test/ only, val is a tenth
                                                        of train by hash; with train/ and val/ only, val/ is the
                                                        test and val is cut from train; train/ alone is as below
root/<class>/*.jpg                                      split 80/10/10 per class by hash

Split folders may be called as other tools call them: train, Training, train_set; val, valid, validation, dev; test,
Testing. Subfolders of a class belong to it. What is left out (no picture by its ending, in no class) is counted and
named in a warning; hidden and tool files (folder_scan.py) are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.base import Row
from datamodules.folder_scan import iter_files, scan, scan_files, scan_folders, warn_left_out
from datamodules.image_files import ImageFiles
from datamodules.images import ENDINGS
from datamodules.recognition import Recognition
from datamodules.rows import check_candidates
from datamodules.splits import SPLITS, three_way

WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing"),
}
_AROUND = re.compile(r"^(images?|data)?[\W_]*|[\W_]*(set|sets|data|dataset|split|images?|imgs?|folder|\d{2,4})?$")


class ImageFolder(ImageFiles, Recognition):
    """Recognition among the folder names ("_" becomes a space; `class_names` maps a folder to any other words).

    Ids are paths below root. A file that is a picture by its ending but cannot be read stops the run (see
    `max_corrupt`).
    """

    name = "imagefolder"

    def __init__(self, *, class_names: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._names = class_names or {}

    @property
    def candidates(self) -> list[str]:
        return [self._names.get(folder, " ".join(folder.replace("_", " ").split())) for folder in self._classes]

    def missing(self) -> list[str]:
        return [] if Path(self.root).is_dir() else [f"{self.root}, a folder with one folder of images per class"]

    def build_rows(self, split: str) -> list[Row]:
        self._files[split] = self._split_paths(split)
        return self.make_rows(self._files[split], [self._label(path) for path in self._files[split]])

    def content(self, split: str, index: int) -> bytes:
        return self.image_path(split, index).read_bytes()

    @cached_property
    def _trees(self) -> dict[str, str]:
        """Split -> its folder below root, for the splits that have one; {} for a single tree of classes."""
        self.setup()
        trees = find_splits(Path(self.root))
        return {"train": trees["train"], "test": trees["val"]} if set(trees) == {"train", "val"} else trees

    @cached_property
    def _pictures(self) -> dict[str, list[str]]:
        """Split folder below root ("" for a single tree) -> paths below root of its pictures; what is not is named."""
        root = Path(self.root)
        tops = {tree: root / tree for tree in (self._trees.values() or [""])}
        found = {tree: _pictures_below(top) for tree, top in tops.items()}
        taken = {path for paths in found.values() for path in paths}
        warn_left_out("no pictures in a class folder", (p for p in scan_files(root) if p not in taken), root)
        return {tree: [path.relative_to(root).as_posix() for path in paths] for tree, paths in found.items()}

    @cached_property
    def _classes(self) -> list[str]:
        """The class folders, sorted: those of train, whatever the split."""
        top = Path(self.root, self._trees.get("train", ""))
        classes = [path.name for path in scan_folders(top)]
        if len(classes) < 2:
            inner = f" If the data set lies inside '{classes[0]}', use root={top / classes[0]}." if classes else ""
            raise ValueError(
                f"'{top}' has {len(classes)} class folders. Expected at least 2, one for each class.{inner}"
            )
        unknown = [name for name in self._names if name not in classes]
        if unknown:
            raise ValueError(f"class_names has '{unknown[0]}'. Expected folders of '{top}': {', '.join(classes)}.")
        words = {name: self._names.get(name, name) for name in classes}
        check_candidates(list(words.values()), f"'{top}'", "rename or join the folders, or give them class_names")
        return classes

    def _split_paths(self, split: str) -> list[str]:
        trees = self._trees
        if split != "train" and split in trees:
            return self._pictures[trees[split]]
        pool = self._pictures[trees.get("train", "")]
        classes = [self._class_of(path) for path in pool]
        if "test" not in trees:
            return [pool[i] for i in three_way(pool, classes, self.split_seed)[split]]
        return pool if "val" in trees else [pool[i] for i in self.train_or_val(split, pool, classes)]

    def _class_of(self, path: str) -> str:
        return path.split("/")[1 if self._trees else 0]

    def _label(self, path: str) -> int:
        name = self._class_of(path)
        if name not in self._classes:
            raise ValueError(
                f"'{path}' is of class '{name}', which train does not have. Expected one of: "
                f"{', '.join(self._classes)}; rename or remove that folder."
            )
        return self._classes.index(name)


def split_word(name: str) -> str | None:
    """The split that a folder's name says, or None.

    >>> [split_word(name) for name in ("train", "Validation", "test_set", "valid", "training-images", "trainer")]
    ['train', 'val', 'test', 'val', 'train', None]
    """
    bare = _AROUND.sub("", name.lower())
    return next((split for split, words in WORDS.items() if bare in words), None)


def find_splits(root: Path) -> dict[str, str]:
    """Split -> its folder of class folders; {} where `root` holds the classes themselves.

    A folder called like a split is one when it holds class folders; beside other classes, a "train" full of pictures
    is a vehicle. Raises: ValueError where both readings are possible, naming the folders.
    """
    folders = [path for path in scan_folders(root) if _has_pictures(path)]
    said = {path.name: split_word(path.name) for path in folders}
    splits = [name for name, split in said.items() if split]
    others = [name for name, split in said.items() if not split]
    if not splits or (len(splits) == 1 and others and not _is_tree(root / splits[0])):
        return {}
    if others:
        raise ValueError(
            f"'{root}' has {_list(splits)}, which look like splits, beside {_list(others)}. Expected either splits "
            f"(train, val, test) or one folder a class: move {_list(others)} away, or rename the folders that are "
            "classes."
        )
    found: dict[str, str] = {}
    for name in splits:
        split = str(said[name])
        if split in found:
            raise ValueError(
                f"'{root}' has two folders of the split '{split}': '{found[split]}' and '{name}'. Expected one: "
                "join them or move one away."
            )
        found[split] = name
    if "train" not in found:
        raise ValueError(f"'{root}' has {_list(splits)} but no train folder. Expected train/ beside it; add one.")
    return {split: found[split] for split in SPLITS if split in found}


def list_images(top: Path, classes: list[str]) -> list[str]:
    """Paths "<class>/<file>" of every image of a tree of class folders, sorted. Raises: ValueError naming a folder that
    is no class."""
    unknown = [path.name for path in scan_folders(top) if path.name not in classes]
    if unknown:
        raise ValueError(
            f"'{top}' has the folder '{unknown[0]}', which is no class. Expected only: {', '.join(classes)}; "
            "remove it, or use `imagefolder` for a set of your own."
        )
    return [path.relative_to(top).as_posix() for path in _pictures_below(top)]


def _pictures_below(top: Path) -> list[Path]:
    """The pictures of every class folder (a dangling link too: reading names it), sorted.

    Raises: ValueError without class folders, or for one without pictures.
    """
    found: list[Path] = []
    if not (folders := scan_folders(top)):
        raise ValueError(f"'{top}' has no class folders. Expected one for each class, with its images.")
    for folder in folders:
        pictures = [path for path in scan_files(folder) if _is_picture(path)]
        if not pictures:
            raise ValueError(
                f"Class folder '{folder}' has no images. Expected files ending in {', '.join(sorted(ENDINGS))}; "
                "add some or remove the folder."
            )
        found += pictures
    return sorted(found, key=lambda path: path.as_posix())


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


def _has_pictures(folder: Path) -> bool:
    """A folder of notes or labels is neither a split nor a class; an empty one is either, and refused later."""
    return any(map(_is_picture, iter_files(folder))) or not any(True for _ in iter_files(folder))


def _is_tree(folder: Path) -> bool:
    """Class folders, rather than pictures?"""
    return bool(scan_folders(folder)) and not any(map(_is_picture, scan(folder)))


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
