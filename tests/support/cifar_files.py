"""Writes tiny CIFAR batches in the true on-disk format: Python 2's pickle protocol 2, byte strings and all; no test."""

import hashlib
import io
import pickle
import struct

import numpy as np

FOLDER = "cifar-10-batches-py"


class Python2Pickler(pickle._Pickler):
    """Byte strings as Python 2 wrote its `str`."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        short = len(value) < 256
        self.write(b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value)))
        self.write(value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_batch(path, data, labels, **extra):
    """One batch file, with extra keys if any. Returns its MD5."""
    names = [b"picture_s_%06d.png" % i for i in range(len(data))]
    batch = {b"batch_label": b"a batch", b"labels": labels, b"data": data, b"filenames": names}
    path.write_bytes(python2_pickle(batch | {key.encode(): value for key, value in extra.items()}))
    return hashlib.md5(path.read_bytes()).hexdigest()


# How the published batches begin (datamodules/cifar10.py tells them apart by it).
FIRST_LABELS = {
    "data_batch_1": [6, 9, 9, 4, 1, 1, 2, 7, 8, 3],
    "data_batch_2": [1, 6, 6, 8, 8, 3, 4, 6, 0, 6],
    "data_batch_3": [8, 5, 0, 6, 9, 2, 8, 3, 6, 2],
    "data_batch_4": [0, 6, 0, 2, 7, 2, 1, 2, 4, 1],
    "data_batch_5": [1, 8, 5, 1, 5, 7, 4, 3, 8, 2],
}


def write_cifar10(root, per_file=40):
    """All six files with random pictures, classes equally often, the test five times as long. Returns name -> MD5."""
    generator = np.random.default_rng(0)
    (root / FOLDER).mkdir(parents=True)
    digests = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        count = per_file * (5 if name == "test_batch" else 1)
        data = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = list(FIRST_LABELS.get(name, [])) if per_file >= 40 else []
        rest = [k for k in range(10) for _ in range(count // 10 - labels.count(k))]
        labels += [int(k) for k in generator.permutation(rest)]
        digests[name] = write_batch(root / FOLDER / name, data, labels)
    return digests
