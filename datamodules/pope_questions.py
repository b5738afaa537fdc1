"""POPE's training questions from COCO's annotations: `python -m datamodules.pope_questions [root=data] [seed=42]`.

2,000 images of COCO train2014 with at least three kinds of objects; for each, and each type, three questions about
objects that are there and three about absent ones, alternating (docs/method.md#data-sets; arXiv 2305.10355, 5.1):
random       any absent object, uniformly
popular      the absent objects that most of the 2,000 images show
adversarial  for each object asked for, the absent one that is most often in a picture with it
Frequencies are counted over the 2,000 images. All choices go by sha256 of (seed, image, object), ties by name: the same
questions on every machine. The positive questions are the same in the three types.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.pope import COCO, FOLDER, MANIFEST, TYPES
from datamodules.prepare.manifest import hash_file
from datamodules.splits import hash_key, hash_order
from datamodules.text_files import read_json
from datamodules.whole_files.disk import write_file
from datamodules.writable import require_writable

IMAGES, PER_IMAGE, SEED = 2000, 3, 42
ANNOTATIONS = "coco/annotations/instances_train2014.json"
QUESTION = "Is there {} {} in the image?"


def write_questions(root: str | Path, *, images: int = IMAGES, seed: int = SEED) -> dict[str, str]:
    """Write `<root>/pope/train_{type}.json` and `train_manifest.json`; returns file name -> SHA-256.

    Raises: FileNotFoundError without the annotations; ValueError when they are of another form or too few.
    """
    annotations = Path(root, ANNOTATIONS)
    if not annotations.is_file():
        raise FileNotFoundError(
            f"No '{annotations}'. Expected COCO's annotations: unpack annotations_trainval2014.zip from {COCO} into "
            f"'{Path(root, 'coco')}'."
        )
    require_writable(Path(root, FOLDER), "the folder of POPE's questions", "root=DIR")
    chosen = choose_images(read_objects(annotations), images, seed)
    folder = Path(root, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for group in TYPES:
        lines = [json.dumps(question) for question in build_questions(chosen, group, seed)]
        digests[f"train_{group}.json"] = _write(folder / f"train_{group}.json", "\n".join(lines) + "\n")
    manifest = {"seed": seed, "images": images, "annotations": hash_file(annotations), "sha256": digests}
    _write(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return digests


def read_objects(path: Path) -> dict[str, list[str]]:
    """Image name -> the kinds of objects annotated in it, sorted. Raises: ValueError for another form."""
    content = read_json(path)
    try:
        kinds = {category["id"]: category["name"] for category in content["categories"]}
        names = {image["id"]: image["file_name"] for image in content["images"]}
        found: dict[str, set[str]] = defaultdict(set)
        for annotation in content["annotations"]:
            found[names[annotation["image_id"]]].add(kinds[annotation["category_id"]])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' is not a COCO instances file ({type(error).__name__}: {error}). Expected 'images', "
            f"'categories' and 'annotations'; get annotations_trainval2014.zip from {COCO}."
        ) from error
    return {name: sorted(objects) for name, objects in found.items()}


def choose_images(objects: Mapping[str, Sequence[str]], images: int, seed: int) -> dict[str, list[str]]:
    """The first `images` names by hash with at least PER_IMAGE objects -> their objects in order of their hash."""
    rich = sorted(name for name, there in objects.items() if len(there) >= PER_IMAGE)
    if len(rich) < images:
        raise ValueError(
            f"{len(rich)} images have {PER_IMAGE} or more kinds of objects. Expected at least {images}: use COCO's "
            "whole train2014 annotations."
        )
    names = [rich[i] for i in hash_order(rich, seed)[:images]]
    return {name: _by_hash(objects[name], name, seed) for name in names}


def _by_hash(objects: Sequence[str], salt: str, seed: int) -> list[str]:
    return sorted(objects, key=lambda thing: hash_key(seed, f"{salt}:{thing}"))


def build_questions(chosen: Mapping[str, Sequence[str]], group: str, seed: int) -> list[dict]:
    """The questions of one type in POPE's form, with the objects of the image; yes and no alternate."""
    frequency = Counter(thing for there in chosen.values() for thing in there)
    together = co_occurrence(chosen)
    questions: list[dict] = []
    for image, there in chosen.items():
        asked: list[str] = []
        for thing in there[:PER_IMAGE]:
            absent = [kind for kind in frequency if kind not in there and kind not in asked]
            if group == "random":
                asked.append(_by_hash(absent, f"{image}:absent", seed)[0])
            else:
                rank = frequency if group == "popular" else together[thing]
                asked.append(min(absent, key=lambda kind: (-rank[kind], kind)))
            for kind, label in ((thing, "yes"), (asked[-1], "no")):
                common = {"question_id": len(questions) + 1, "image": image, "objects": list(there)}
                questions.append(common | {"text": question_about(kind), "label": label})
    return questions


def co_occurrence(chosen: Mapping[str, Sequence[str]]) -> dict[str, Counter[str]]:
    """object -> how many of the images show it together with each other object."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for there in chosen.values():
        for thing in there:
            counts[thing].update(other for other in there if other != thing)
    return counts


def question_about(kind: str) -> str:
    """POPE's sentence.

    >>> question_about("apple"), question_about("dog")
    ('Is there an apple in the image?', 'Is there a dog in the image?')
    """
    return QUESTION.format("an" if kind[0] in "aeiou" else "a", kind)


def _write(path: Path, text: str) -> str:
    write_file(path, text.encode())
    return hashlib.sha256(text.encode()).hexdigest()


def main(argv: Sequence[str]) -> int:
    options = dict(word.partition("=")[::2] for word in argv)
    unknown = sorted(set(options) - {"root", "seed"})
    if unknown:
        print((__doc__ or "").strip() if unknown == ["--help"] else f"Unknown key '{unknown[0]}'. Known: root, seed.")
        return 0 if unknown == ["--help"] else 2
    root = Path(options.get("root", "data")).expanduser()
    for name, digest in write_questions(root, seed=int(options.get("seed", SEED))).items():
        print(f"{digest}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
