"""The published data sets as data: licence, archives, mirrors, digests and counts. Imports nothing heavy.

A digest carries where it is stated; where nobody states one it is None and the SHA-256 of the first complete copy is
kept in `<root>/digests.json` (digests.py). Sizes are those of the files on their servers, in bytes, as recorded in
tensorflow/datasets `url_checksums/*.txt` unless said otherwise; unpacked sizes are estimates for the free-space check.
"""

from __future__ import annotations

from datamodules.prepare.catalogue_entry import GB, MB, TORCHVISION, Archive, Count, Digest, Listed, PublishedData
from datamodules.prepare.catalogue_recognition import RECOGNITION

# POPE's own repository, at a commit whose three COCO files have 3,000 questions each (early ones have fewer).
POPE_COMMIT = "7ef3026faa9a89ed11fd508385fad652fdc6349f"
COCO = "http://images.cocodataset.org"


def _pope(kind: str) -> Archive:
    file = f"coco_pope_{kind}.json"
    homes = ("AoiDragon", "RUCAIBox")
    urls = tuple(f"https://raw.githubusercontent.com/{home}/POPE/{POPE_COMMIT}/output/coco/{file}" for home in homes)
    return Archive(file, f"pope/{file}", urls, counts=(Count("", 3000, lines=True),))


PUBLISHED: dict[str, PublishedData] = {
    **RECOGNITION,
    "clevr": PublishedData(
        "counting",
        "100,000 rendered scenes with 3 to 10 objects",
        "CC BY 4.0",
        "https://cs.stanford.edu/people/jcjohns/clevr/",
        (
            Archive(
                "CLEVR_v1.0.zip",
                "CLEVR_v1.0",
                ("https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",),
                19_021_600_724,
                Digest("md5", "b11922020e72d0cd9154779b2d3d07d2", TORCHVISION + "clevr.py, CLEVRClassification._MD5"),
                21 * GB,
                counts=(
                    Count("images/train/*.png", 70000),
                    Count("images/val/*.png", 15000),
                    Count("scenes/CLEVR_*_scenes.json", 2),
                ),
            ),
        ),
    ),
    "hateful_memes": PublishedData(
        "reasoning",
        "10,000 memes, hateful or not",
        "Facebook's own, to be accepted by each user",
        "https://hatefulmemeschallenge.com",
        (
            Archive(
                "hateful_memes.zip",
                "hateful_memes",
                unpacked=4 * GB,
                top=("hateful_memes", "data", ""),
                counts=(Count("train.jsonl", 8500, lines=True), Count("dev*.jsonl", 1, more=True)),
                listed=(Listed("train.jsonl", "img"), Listed("dev*.jsonl", "img")),
            ),
        ),
        how="It is never downloaded for you: read and accept its licence at https://hatefulmemeschallenge.com (or "
        "https://www.drivendata.org/competitions/64/hateful-memes/), get the archive there, then run `python -m "
        "datamodules prepare hateful_memes from=PATH` with that zip (if it asks for a password, unpack it yourself "
        "first) or with the folder that holds img/, train.jsonl and dev_seen.jsonl (or dev.jsonl).",
    ),
    "pope": PublishedData(
        "hallucination",
        "9,000 questions about objects in 500 COCO pictures; training questions are built from COCO's annotations",
        "POPE: MIT; COCO annotations: CC BY 4.0; pictures: Flickr's terms, each its own",
        "https://github.com/RUCAIBox/POPE",
        (
            *(_pope(kind) for kind in ("random", "popular", "adversarial")),
            Archive(
                "annotations_trainval2014.zip",
                "coco/annotations",
                (f"{COCO}/annotations/annotations_trainval2014.zip",),
                252_872_794,
                Digest(
                    "sha256",
                    "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
                    "tensorflow/datasets url_checksums/coco2014.txt (COCO itself states none)",
                ),
                500 * MB,
                only=("instances_train2014.json", "instances_val2014.json"),
                counts=(Count("instances_*2014.json", 2),),
            ),
        ),
        coco_images=True,
    ),
}
