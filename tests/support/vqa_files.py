"""Writes tiny CLEVR, Hateful Memes, POPE + COCO and vqa_jsonl trees in the true on-disk format; no test.

Each function writes below `root` and returns the arguments that open it.
"""

import json

import numpy as np
from PIL import Image

from datamodules.pope_questions import write_questions

KINDS = ["person", "car", "chair", "dog", "apple", "umbrella", "cup", "bottle", "orange", "skis", "bench", "tv"]


def picture(path, size=(24, 16), mode="RGB"):
    """A noise picture that no other name has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(path.name.encode())).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def write_clevr(root, train=20, val=5):
    """Scenes of 3 to 10 objects equally often, as CLEVR's generator writes them; images are RGBA PNG."""
    folder = root / "CLEVR_v1.0"
    (folder / "scenes").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        scenes = []
        for i in range(8 * count):
            name = f"CLEVR_{split}_{i:06d}.png"
            picture(folder / "images" / split / name, mode="RGBA")
            scenes.append({"image_index": i, "image_filename": name, "split": split, "directions": {}})
            scenes[-1] |= {"objects": [_clevr_object(k) for k in range(3 + i % 8)], "relationships": {}}
        info = {"date": "2/14/2017", "license": "Creative Commons Attribution (CC BY 4.0)", "version": "1.0"}
        text = json.dumps({"info": info | {"split": split}, "scenes": scenes})
        (folder / "scenes" / f"CLEVR_{split}_scenes.json").write_text(text)
    return {"root": str(root)}


def _clevr_object(k):
    return {"color": "brown", "size": "large", "rotation": 178.9, "shape": "cylinder", "material": "rubber"} | {
        "3d_coords": [-1.4, k / 10, 0.7],
        "pixel_coords": [119, 131, 10.3],
    }


def write_hateful_memes(root, test_file="dev_seen.jsonl"):
    """60 labelled training memes, 20 of test with text that needs care, and the unlabelled test.jsonl."""
    folder = root / "hateful_memes"
    for first, name, count in ((10000, "train.jsonl", 60), (2000, test_file, 20), (90000, "test.jsonl", 5)):
        lines = []
        for i in range(count):
            number = first + i
            picture(folder / "img" / f"{number:05d}.png", size=(20 + i % 3, 18))
            line = {"id": number, "img": f"img/{number:05d}.png", "label": i % 2, "text": f"text {number}"}
            lines.append({k: v for k, v in line.items() if name != "test.jsonl" or k != "label"})
        if name == test_file:
            lines[3]["text"] = 'when they say "stay" \n and you “go”'
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"root": str(root)}


def write_pope(root, images=20, n_questions=24):
    """COCO train2014 annotations and pictures, questions made from them, and three test files."""
    _write_coco(root, images + 6)
    write_questions(root, images=images)
    for group in ("random", "popular", "adversarial"):
        lines = [_pope_line(i, group) for i in range(n_questions)]
        for line in lines:
            picture(root / "coco" / "val2014" / line["image"])
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / "pope" / f"coco_pope_{group}.json").write_text(text)
    return {"root": str(root), "n_questions": n_questions}


def _pope_line(i, group):
    number = 310196 + i // 6
    kind = KINDS[(i + len(group)) % len(KINDS)]
    text = f"Is there {'an' if kind[0] in 'aeiou' else 'a'} {kind} in the image?"
    return {
        "question_id": i + 1,
        "image": f"COCO_val2014_{number:012d}.jpg",
        "image_id": number,
        "text": text,
        "label": ("yes", "no")[i // 3 % 2],
    }


def _write_coco(root, images):
    """`instances_train2014.json`: some pictures show two kinds only, person is the most frequent."""
    names = [f"COCO_train2014_{1000 + i:012d}.jpg" for i in range(images)]
    annotations = []
    for i, name in enumerate(names):
        picture(root / "coco" / "train2014" / name, size=(26, 20))
        kinds = {0, 1 + i % 5} | ({6 + i % 6, 3 + i % 7} if i % 10 else set())
        for kind in sorted(kinds) * 2:
            annotations.append({"id": len(annotations), "image_id": 1000 + i, "category_id": kind + 1, "iscrowd": 0})
    content = {
        "info": {"year": 2014},
        "images": [{"id": 1000 + i, "file_name": name, "width": 26, "height": 20} for i, name in enumerate(names)],
        "categories": [{"id": k + 1, "name": name, "supercategory": "thing"} for k, name in enumerate(KINDS)],
        "annotations": annotations,
    }
    (root / "coco" / "annotations").mkdir(parents=True)
    (root / "coco" / "annotations" / "instances_train2014.json").write_text(json.dumps(content))


def vqa_lines(count=40):
    """Two questions about each picture: one with candidates of its own."""
    animals = ("cat", "dog", "fish")
    lines = []
    for i in range(count):
        image = f"pictures/{i:03d}.png"
        lines.append({"image": image, "question": "What is it?", "answer": animals[i % 3], "group": "what"})
        lines.append({"image": image, "question": "Is it red?", "answer": ("no", "yes")[i % 2]})
        lines[-1] |= {"candidates": ["no", "yes"], "caption": "a thing", "id": f"red-{i}"}
    return lines


def write_vqa_jsonl(root, files=("data",), lines=None):
    """One file, or one for each name with pictures of its own."""
    lines = vqa_lines() if lines is None else lines
    for line in lines:
        picture(root / line["image"])
    for k, name in enumerate(files):
        mine = [line for i, line in enumerate(lines) if i // 2 % len(files) == k]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in mine))
    return {"root": str(root)}
