"""CLEVR counting (Johnson et al. 2017): how many objects, from 3 to 10, stand in a rendered 480 x 320 scene.

Train 63,000, val 7,000 (a tenth of each count held out of train by hash), test 15,000 (CLEVR's `val`: its own `test` is
published without scenes). With `val="official"` train is all 70,000. The evaluation transform crops the middle square,
as the reference's does: an object at the far left or right can lie outside it while the label counts it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.base import Row
from datamodules.image_files import ImageFiles
from datamodules.places import find_folder
from datamodules.text_files import read_json

FOLDERS = ("CLEVR_v1.0", "clevr", "CLEVR_v1", "")
SOURCE = "CLEVR_v1.0.zip from https://cs.stanford.edu/people/jcjohns/clevr"
QUESTION = "How many objects are there in this image? Answer with a single number."
CAPTION = "a photo of {} objects"
COUNTS = range(3, 11)


class CLEVR(ImageFiles):
    """The files are `<root>/CLEVR_v1.0/images/{train,val}/*.png` and `scenes/CLEVR_{train,val}_scenes.json`.

    Ids are image names without ".png". The questions of CLEVR are not read: the answer is the number of objects in the
    scene. `official`: a generated answer is right when it holds the number's digits anywhere, the reference's rule.
    """

    name = "clevr"
    task = "counting"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._scenes: dict[str, list[tuple[str, int]]] = {}
        self.answer_rule = "substring" if self.official else "parse"

    @property
    def candidates(self) -> list[str]:
        return [str(count) for count in COUNTS]

    def missing(self) -> list[str]:
        folder = self._folder()
        paths = [folder / "scenes" / f"CLEVR_{part}_scenes.json" for part in ("train", "val")]
        paths += [folder / "images" / part for part in ("train", "val")]
        return [f"{path} (unpack {SOURCE} into '{self.root}')" for path in paths if not path.exists()]

    def build_rows(self, split: str) -> list[Row]:
        part = "val" if split == "test" else "train"
        whole = self._read(part)
        places = self.train_or_val(split, [name.removesuffix(".png") for name, _ in whole], [n for _, n in whole])
        scenes = [whole[i] for i in places]
        below = (self._folder() / "images" / part).relative_to(self.root).as_posix()
        self._files[split] = [f"{below}/{name}" for name, _ in scenes]
        return [
            Row(name.removesuffix(".png"), COUNTS.index(n), QUESTION, str(n), CAPTION.format(n)) for name, n in scenes
        ]

    def _read(self, part: str) -> list[tuple[str, int]]:
        """(image name, number of objects) of every scene of "train" or "val", read once."""
        if part not in self._scenes:
            self._scenes[part] = read_scenes(self._folder() / "scenes" / f"CLEVR_{part}_scenes.json")
        return self._scenes[part]

    def _folder(self) -> Path:
        return find_folder(self.root, FOLDERS, "scenes/CLEVR_*_scenes.json")


def read_scenes(path: Path) -> list[tuple[str, int]]:
    """(image name, number of objects) of each scene. Raises: ValueError for another form or a count outside 3..10."""
    content = read_json(path)
    scenes = content.get("scenes") if isinstance(content, dict) else None
    if not isinstance(scenes, list):
        raise ValueError(f"'{path}' has no list 'scenes'. Expected CLEVR's scene file; get {SOURCE}.")
    pairs = []
    for place, scene in enumerate(scenes):
        name = scene.get("image_filename") if isinstance(scene, dict) else None
        objects = scene.get("objects") if isinstance(scene, dict) else None
        if not isinstance(name, str) or not isinstance(objects, list):
            raise ValueError(f"'{path}' scene {place} lacks 'image_filename' or 'objects'. Get {SOURCE}.")
        if len(objects) not in COUNTS:
            raise ValueError(
                f"'{path}': image '{name}' has {len(objects)} objects. Expected {COUNTS[0]} to {COUNTS[-1]}, as "
                f"everywhere in CLEVR; get {SOURCE}."
            )
        pairs.append((name, len(objects)))
    return pairs
