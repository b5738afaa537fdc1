"""The cache of decoded pictures: bit for bit what decoding gives, whoever wrote it and whenever it was killed."""

import errno
import multiprocessing
import os
import pickle

import pytest
import torch
from support import data_files

from datamodules import load_datamodule
from datamodules.decoded_cache import DecodedCache, cache_folder, content_key


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def batches(name, kwargs, **more):
    """Everything of val and test, and two epochs of train."""
    data = load_datamodule(name, **({"image_size": 24} | kwargs | more))
    loader = data.train_dataloader()
    found = [*data.val_dataloader(), *data.test_dataloader()]
    for epoch in (0, 1):
        loader.batch_sampler.set_epoch(epoch)
        found += list(loader)
    return found


def check_equal(ones, twos):
    assert len(ones) == len(twos) > 3
    for one, two in zip(ones, twos, strict=True):
        assert one.ids == two.ids and torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)


@pytest.mark.parametrize(("name", "workers"), [("cifar10", 0), ("eurosat", 2), ("imagenette", 0), ("oxford_pets", 2)])
def test_batches_are_the_same_without_while_filling_and_when_full(name, workers, tmp_path, folder):
    kwargs = getattr(data_files, f"write_{name}")(tmp_path / "data")
    plain = batches(name, kwargs)
    assert not folder.exists()
    check_equal(plain, batches(name, kwargs, cache=True, workers=workers))
    check_equal(plain, batches(name, kwargs, cache=True, workers=workers))
    square = name in ("cifar10", "eurosat")
    files = sorted(path.name.rsplit("-", 1)[0] for path in folder.iterdir())
    assert files == [f"{name}-{split}-24" for split in (["test", "train", "val"] if square else ["test", "val"])]


def test_a_full_cache_does_not_decode(tmp_path, monkeypatch):
    kwargs = data_files.write_eurosat(tmp_path / "data")
    batches("eurosat", kwargs, cache=True)
    data = load_datamodule("eurosat", **kwargs, image_size=24, cache=True)
    monkeypatch.setattr(data, "load_image", None)
    assert next(iter(data.test_dataloader())).images.shape == (10, 3, 24, 24)


def test_other_contents_sizes_or_corruptions_are_other_files(tmp_path, folder):
    kwargs = data_files.write_eurosat(tmp_path / "data") | {"cache": True}

    def test_pictures(**more):
        return next(iter(load_datamodule("eurosat", **({"image_size": 24} | kwargs | more)).test_dataloader())).images

    first = test_pictures()
    assert test_pictures(image_size=16).shape[-1] == 16
    assert not torch.equal(test_pictures(corruption="contrast:5"), first)
    assert not torch.equal(test_pictures(corruption="gaussian_noise:1"), first)
    assert len(list(folder.iterdir())) == 4
    path = next((tmp_path / "data").rglob(f"{load_datamodule('eurosat', **kwargs).rows('test')[0].id}.jpg"))
    data_files.save(data_files.picture("other", 64, 64), path)
    assert not torch.equal(test_pictures()[0], first[0]) and torch.equal(test_pictures()[1:], first[1:])
    assert len(list(folder.iterdir())) == 5


def test_the_key_knows_order_ids_and_settings():
    rows = [("a", b"1"), ("b", b"2")]
    keys = {content_key(s, r) for s in (24, 25) for r in (rows, rows[::-1], [("a", b"1"), ("c", b"2")])}
    assert len(keys) == 6 and content_key(24, rows) in keys


def picture(seed):
    return torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(seed)).float().div(255)


def never():
    raise AssertionError("decoded again")


def test_what_is_damaged_or_half_written_is_made_again():
    cache = DecodedCache("x", 4, 8)
    for slot in (0, 1):
        cache.get(slot, lambda slot=slot: picture(slot))
    assert torch.equal(DecodedCache("x", 4, 8).get(0, never), picture(0))
    with cache.path.open("r+b") as file:
        file.seek(5)
        file.write(b"\x99\x98")
    assert torch.equal(cache.get(0, lambda: picture(7)), picture(7))  # noticed, made anew and kept
    assert torch.equal(cache.get(0, never), picture(7)) and torch.equal(cache.get(1, never), picture(1))
    cache.path.write_bytes(cache.path.read_bytes()[:100])  # a file cut short grows back, empty
    assert torch.equal(DecodedCache("x", 4, 8).get(1, lambda: picture(9)), picture(9))


def test_what_did_not_come_from_eight_bits_is_not_kept():
    cache, odd = DecodedCache("x", 1, 8), torch.full((3, 8, 8), 0.3)
    assert torch.equal(cache.get(0, lambda: odd), odd)
    assert torch.equal(cache.get(0, lambda: picture(1)), picture(1))


def test_a_full_disk_ends_the_caching_and_not_the_run(monkeypatch):
    cache = DecodedCache("x", 3, 8)
    cache.get(0, lambda: picture(0))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(UserWarning, match=r"no longer kept in '.*x\.u8': .*No space left on device"):
        assert torch.equal(cache.get(1, lambda: picture(1)), picture(1))
    assert torch.equal(cache.get(2, lambda: picture(2)), picture(2))  # no second warning
    assert torch.equal(cache.get(0, never), picture(0))


def test_the_folder_has_a_limit(monkeypatch):
    monkeypatch.setenv("TVP_CACHE_GIB", "0.001")
    with pytest.raises(
        ValueError, match=r"needs up to 0\.2 GiB and '.*decoded' holds 0\.0 GiB\. Expected at most 0\.001"
    ):
        DecodedCache("large", 1000, 256)
    assert not cache_folder().exists()


def fill(name, order, results):
    cache = DecodedCache(name, 40, 8)
    same = [torch.equal(cache.get(slot, lambda slot=slot: picture(slot)), picture(slot)) for slot in order]
    results.put(all(same))


@pytest.mark.slow
def test_processes_may_fill_it_together():
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    orders = [list(range(40)), list(range(39, -1, -1))]
    runs = [context.Process(target=fill, args=("together", order, results)) for order in orders]
    for run in runs:
        run.start()
    assert [results.get(timeout=120) for _ in runs] == [True, True]
    for run in runs:
        run.join()
    cache = DecodedCache("together", 40, 8)
    assert all(torch.equal(cache.get(slot, never), picture(slot)) for slot in range(40))


def test_it_can_be_sent_to_a_spawned_worker():
    cache = DecodedCache("x", 1, 8)
    cache.get(0, lambda: picture(0))
    assert torch.equal(pickle.loads(pickle.dumps(cache)).get(0, never), picture(0))
