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


def write_cifar10(root, per_file=40):
    """All six files with random pictures, classes equally often, the test five times as long. Returns name -> MD5."""
    generator = np.random.default_rng(0)
    (root / FOLDER).mkdir(parents=True)
    digests = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        count = per_file * (5 if name == "test_batch" else 1)
        data = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [int(k) for k in generator.permutation(np.arange(count) % 10)]
        digests[name] = write_batch(root / FOLDER / name, data, labels)
    return digests
