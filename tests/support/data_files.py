"""Tiny recognition sets in their true on-disk formats, random but fixed; no test.

`write_<name>(root)` writes below root and returns the constructor's arguments for `load_datamodule(<name>, ...)`;
`write_<name>_parquet(root)` writes the same pictures as the Hugging Face hub serves them (no publisher's files).
"""

from __future__ import annotations

import gzip
import hashlib
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet
from scipy.io import savemat

from datamodules.class_names import CLASS_NAMES
from datamodules.pickles import load_plain_pickle
from support import cifar_files

HUB_BATCHES = (4, 3, 2, 5, 1)  # the order of the archive's members, and so of the hub's rows


def picture(seed: str, height: int, width: int) -> Image.Image:
    """Coarse random blocks under fine noise: no two alike, and not destroyed by JPEG."""
    generator = np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))
    coarse = generator.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=int)
    noise = generator.integers(-12, 13, (height, width, 3))
    return Image.fromarray((large + noise).clip(0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=95)


# ---- CIFAR and SVHN -------------------------------------------------------------------------------------------------
def write_cifar10(root):
    root = Path(root)
    return {"root": str(root), "md5": cifar_files.write_cifar10(root), "counts": {"train": 200, "test": 200}}


def write_cifar100(root):
    """A batch as Python 2 wrote it: fine and coarse labels; `meta` too."""
    root, generator, digests = Path(root), np.random.default_rng(1), {}
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    counts = {"train": 1000, "test": 200}
    for name, count in counts.items():
        fine = [int(k) for k in generator.permutation(np.arange(count) % 100)]
        batch = {
            b"batch_label": f"{name}ing batch 1 of 1".encode(),
            b"fine_labels": fine,
            b"coarse_labels": [label // 5 for label in fine],
            b"data": generator.integers(0, 256, (count, 3072), dtype=np.uint8),
            b"filenames": [b"picture_s_%06d.png" % i for i in range(count)],
        }
        (folder / name).write_bytes(cifar_files.python2_pickle(batch))
        digests[name] = _md5(folder / name)
    names = [name.encode() for name in CLASS_NAMES["cifar100"]["raw"]]
    (folder / "meta").write_bytes(cifar_files.python2_pickle({b"fine_label_names": names}))
    return {"root": str(root), "md5": digests, "counts": counts}


def write_svhn(root):
    """MATLAB files: X is (32, 32, 3, N), y is (N, 1) with 10 for the digit 0."""
    root, generator, digests = Path(root), np.random.default_rng(2), {}
    (root / "svhn").mkdir(parents=True)
    counts = {"train": 120, "test": 50}
    for name, count in counts.items():
        path = root / "svhn" / f"{name}_32x32.mat"
        digits = generator.permutation(np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        images = generator.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        savemat(path, {"X": images, "y": digits}, do_compression=True)
        digests[name] = _md5(path)
    return {"root": str(root), "md5": digests, "counts": counts}


def fashion_mnist_arrays():
    """part -> (pictures (N, 28, 28), labels (N,)) of the fixture."""
    generator = np.random.default_rng(3)
    return {
        part: (generator.integers(0, 256, (n, 28, 28), dtype=np.uint8), (np.arange(n) % 10).astype(np.uint8))
        for part, n in (("train", 200), ("test", 50))
    }


def write_fashion_mnist(root, packed=True):
    """IDX files: a magic number, sizes as big-endian 32-bit numbers, bytes; packed by gzip or not."""
    folder, digests = Path(root) / "fashion-mnist", {}
    folder.mkdir(parents=True)
    for part, arrays in fashion_mnist_arrays().items():
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True):
            name = f"{'t10k' if part == 'test' else part}-{kind}-ubyte"
            data = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            digests[name] = hashlib.md5(data, usedforsecurity=False).hexdigest()
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return {"root": str(root), "md5": digests, "counts": {"train": 200, "test": 50}}


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


# ---- trees and lists ------------------------------------------------------------------------------------------------
def write_imagenette(root, folder="imagenette2"):
    """Photographs of several shapes; some grey, as in ImageNet."""
    root = Path(root)
    for part, count in (("train", 10), ("val", 3)):
        for wnid in CLASS_NAMES["imagenette"]["raw"]:
            for i in range(count):
                name = f"{wnid}_{i}" if part == "train" else f"ILSVRC2012_val_{wnid[1:]}{i}"
                image = picture(f"{part}{wnid}{i}", 20 + i % 3, 20 + i % 5)
                save(image.convert("L") if i == 1 else image, root / folder / part / wnid / f"{name}.JPEG")
    (root / folder / "noisy_imagenette.csv").write_text("path,noisy_labels_0\n")
    return {"root": str(root), "counts": {"train": 100, "val": 30}}


def write_eurosat(root):
    root = Path(root)
    for name in CLASS_NAMES["eurosat"]["raw"]:
        for i in range(1, 11):
            save(picture(f"{name}{i}", 64, 64), root / "eurosat" / "2750" / name / f"{name}_{i}.jpg")
    return {"root": str(root), "counts": {"all": 100}}


def write_oxford_pets(root):
    """Lists with a comment on top; one `.jpg` is a PNG inside and one has a capital in its list, as published."""
    folder = Path(root) / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, numbers in (("trainval", range(1, 11)), ("test", range(201, 203))):
        lines = ["#Image CLASS-ID SPECIES BREED ID"]
        for label, breed in enumerate(CLASS_NAMES["oxford_pets"]["raw"], 1):
            for i in numbers:
                lines.append(f"{breed}_{i} {label} {1 if breed[0].isupper() else 2} {label}")
                path, image = folder / "images" / f"{breed}_{i}.jpg", picture(f"{breed}{i}", 18 + i % 4, 16)
                save(image, path)
                if (breed, i) == ("Egyptian_Mau", 1):
                    image.save(path, "PNG")
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
    (folder / "images" / "Abyssinian_100.mat").write_bytes(b"left over in the archive")
    return {"root": str(root), "counts": {"trainval": 370, "test": 74}}


def write_dtd(root):
    folder, counts = Path(root) / "dtd" / "dtd", {"train": 4, "val": 2, "test": 2}
    (folder / "labels").mkdir(parents=True)
    (folder / "imdb").mkdir()
    number = 0
    for part, count in counts.items():
        lines = []
        for texture in CLASS_NAMES["dtd"]["raw"]:
            for _ in range(count):
                number += 1
                lines.append(f"{texture}/{texture}_{number:04d}.jpg")
                save(picture(lines[-1], 17, 19), folder / "images" / lines[-1])
        (folder / "labels" / f"{part}1.txt").write_text("\n".join(lines) + "\n")
    return {"root": str(root), "counts": {part: 47 * count for part, count in counts.items()}}


def write_cifar10c(root):
    """CIFAR-10's own files and, in CIFAR-10-C, two corruptions of its 200 test images at 5 severities."""
    kwargs = write_cifar10(root)
    folder = Path(root) / "CIFAR-10-C"
    folder.mkdir()
    test = load_plain_pickle(Path(root) / cifar_files.FOLDER / "test_batch")
    clean = test["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(int)
    for name, step in (("fog", 5), ("spatter", -5)):
        stages = [(clean + step * severity).clip(0, 255).astype(np.uint8) for severity in range(1, 6)]
        np.save(folder / f"{name}.npy", np.concatenate(stages))
    np.save(folder / "labels.npy", np.array(test["labels"] * 5, dtype=np.uint8))
    return kwargs | {"corruption": "fog:3"}


# ---- parquet --------------------------------------------------------------------------------------------------------
def png(array: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG file's bytes."""
    file = BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_shards(folder, split, images, labels, names, *, columns=("image", "label"), paths=None, shards=1, extra=None):
    """`<split>-0000k-of-0000n.parquet` as the `datasets` library writes it; names None: no metadata."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = paths or [None] * len(images)
    column = [{"bytes": data, "path": path} for data, path in zip(images, paths, strict=True)]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({columns[0]: pyarrow.array(column, kind), columns[1]: pyarrow.array(labels)} | (extra or {}))
    if names is not None:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    size = -(-len(images) // shards)
    for k in range(shards):
        parquet.write_table(table.slice(k * size, size), folder / f"{split}-{k:05d}-of-{shards:05d}.parquet")


def write_cifar10_parquet(root, scratch):
    """uoft-cs/cifar10: columns img, label; PNG without paths; train in the order of the archive, here in two shards.

    scratch: a folder for the publisher's files, which hold the same pictures. Returns (kwargs, kwargs of those).
    """
    kwargs = write_cifar10(scratch)
    for split, names in (("train", [f"data_batch_{i}" for i in HUB_BATCHES]), ("test", ["test_batch"])):
        batches = [load_plain_pickle(Path(scratch) / cifar_files.FOLDER / name) for name in names]
        data = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = [label for batch in batches for label in batch["labels"]]
        write_shards(
            Path(root) / "cifar10" / "plain_text",
            split,
            [png(image) for image in data],
            labels,
            CLASS_NAMES["cifar10"]["raw"],
            columns=("img", "label"),
            shards=2 if split == "train" else 1,
        )
    return {"root": str(root), "counts": kwargs["counts"]}, kwargs


def write_cifar100_parquet(root, scratch):
    """uoft-cs/cifar100: columns img, fine_label, coarse_label; crab is spelt "cra"."""
    kwargs = write_cifar100(scratch)
    names = ["cra" if name == "crab" else name for name in CLASS_NAMES["cifar100"]["raw"]]
    for split in ("train", "test"):
        batch = load_plain_pickle(Path(scratch) / "cifar-100-python" / split)
        images = [png(image) for image in batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)]
        extra = {"coarse_label": pyarrow.array(batch["coarse_labels"])}
        folder, columns = Path(root) / "cifar100" / "cifar100", ("img", "fine_label")
        write_shards(folder, split, images, batch["fine_labels"], names, columns=columns, extra=extra)
    return {"root": str(root), "counts": kwargs["counts"]}, kwargs


def write_fashion_mnist_parquet(root, scratch):
    """zalando-datasets/fashion_mnist: columns image, label; its own spelling of one class."""
    kwargs = write_fashion_mnist(scratch)
    names = ["T - shirt / top", *CLASS_NAMES["fashion_mnist"]["raw"][1:]]
    for split, (images, labels) in fashion_mnist_arrays().items():
        write_shards(Path(root) / "fashion_mnist", split, [png(image) for image in images], labels.tolist(), names)
    return {"root": str(root), "counts": kwargs["counts"]}, kwargs


def write_eurosat_parquet(root, scratch):
    """blanchon/EuroSAT_RGB: three splits of its own, a `filename` column, other spellings, the JPEG files' bytes."""
    kwargs = write_eurosat(scratch)
    names = ["Annual Crop", "Forest", "Herbaceous Vegetation", "Highway", "Industrial Buildings", "Pasture"]
    names += ["Permanent Crop", "Residential Buildings", "River", "SeaLake"]
    files = sorted(
        Path(scratch).glob("eurosat/2750/*/*.jpg"), key=lambda file: hashlib.md5(file.name.encode()).digest()
    )
    for split, part in (("train", files[:60]), ("validation", files[60:80]), ("test", files[80:])):
        labels = [CLASS_NAMES["eurosat"]["raw"].index(file.parent.name) for file in part]
        extra = {"filename": pyarrow.array([file.name for file in part])}
        write_shards(Path(root) / "eurosat", split, [f.read_bytes() for f in part], labels, names, extra=extra)
    return {"root": str(root), "counts": kwargs["counts"]}, kwargs
