"""The 15 common corruptions."""

import importlib.util
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support import data_files

from datamodules import load_datamodule
from datamodules.corruption_functions import plasma_fractal
from datamodules.corruptions import CORRUPTIONS, PARAMETERS, SEVERITIES, corrupt, parse_corruption

# In pixels the published tables do not grow at every step: elastic_transform trades a large shift for fine waves,
# glass_blur sigma for reach, and frost darkens the picture more than it adds from severity 3 to 4.
NOT_MONOTONE = {"elastic_transform", "glass_blur", "frost"}


def photo(height, width, seed=0):
    """Smooth shapes with edges and some texture, (3, H, W) uint8."""
    generator = np.random.default_rng(seed)
    smooth = gaussian_filter(generator.normal(size=(height, width, 3)), (height / 8, width / 8, 0))
    steps = np.floor(4 * (smooth - smooth.min()) / np.ptp(smooth)) / 4 + 0.1
    values = steps + 0.02 * generator.normal(size=steps.shape)
    return torch.from_numpy((values.clip(0, 1) * 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


def distance(name, severity, images):
    pairs = [(image.float(), corrupt(image, name, severity, f"1:{i}").float()) for i, image in enumerate(images)]
    return float(np.mean([(a - b).pow(2).mean().sqrt() for a, b in pairs]))


@pytest.mark.parametrize("size", [32, pytest.param(224, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_distortion_grows_with_severity(name, size):
    images = [photo(size, size, seed) for seed in range(6)]
    found = [distance(name, severity, images) for severity in SEVERITIES]
    assert min(found) > 0.3
    if name not in NOT_MONOTONE:
        assert found[4] > 1.15 * found[0]
        assert all(later > 0.93 * earlier for earlier, later in pairwise(found)), found


@pytest.mark.parametrize("shape", [(32, 32), (40, 31), (100, 65)], ids=str)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_uint8_rgb_of_the_same_size_comes_out_and_always_the_same(name, shape):
    image = photo(*shape)
    kept = image.clone()
    one, two = (corrupt(image, name, 3, "42:train-7") for _ in range(2))
    assert one.shape == image.shape and one.dtype == torch.uint8 and one.is_contiguous()
    assert torch.equal(one, two) and torch.equal(image, kept) and not torch.equal(one, image)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_chance_depends_on_the_key_and_on_nothing_else(name):
    image = photo(48, 48)
    first = corrupt(image, name, 2, "42:a")
    np.random.seed(5)
    torch.manual_seed(5)
    assert torch.equal(corrupt(image, name, 2, "42:a"), first)
    still = name in {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert torch.equal(corrupt(image, name, 2, "42:b"), first) == still


def test_the_stream_of_chance_is_frozen():
    """A changed digest means that every published number under noise has changed."""
    noisy = corrupt(torch.full((3, 8, 8), 128, dtype=torch.uint8), "gaussian_noise", 5, "42:test-00000")
    assert noisy[0, 0].tolist() == [136, 172, 126, 124, 135, 115, 111, 122]


def test_larger_pictures_are_corrupted_at_224():
    assert corrupt(photo(300, 450), "contrast", 1, "k").shape == (3, 224, 336)
    assert corrupt(photo(500, 225), "contrast", 1, "k").shape == (3, 498, 224)


def test_hand_computed_values():
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    image[0] = 102  # 0.4 of red; black elsewhere
    assert corrupt(image, "brightness", 1, "k")[:, 0, 0].tolist() == [114, 0, 0]  # CIFAR table: value + 0.05
    image[:, :2] = 0
    assert corrupt(image, "contrast", 2, "k")[0, :, 0].tolist() == [25, 25, 76, 76]  # mean 51, half of the way
    assert corrupt(torch.zeros(3, 4, 4, dtype=torch.uint8), "brightness", 5, "k").unique().tolist() == [76]
    salt = corrupt(torch.full((3, 224, 224), 100, dtype=torch.uint8), "impulse_noise", 5, "k")
    assert set(salt.unique().tolist()) == {0, 100, 255} and abs((salt != 100).float().mean() - 0.27) < 0.01
    noise = corrupt(torch.full((3, 224, 224), 128, dtype=torch.uint8), "gaussian_noise", 1, "k").float()
    assert abs(noise.std() - 0.08 * 255) < 0.3
    shot = corrupt(torch.full((3, 224, 224), 128, dtype=torch.uint8), "shot_noise", 1, "k").float()
    assert abs(shot.std() - 255 * (0.502 / 60) ** 0.5) < 0.4


def test_the_fractal_fills_its_range_and_is_rougher_with_a_small_decay():
    rough, fine = (plasma_fractal(200, decay, np.random.RandomState(0)) for decay in (1.4, 3))
    assert rough.shape == (256, 256) and rough.min() == 0 and rough.max() == 1
    assert np.abs(np.diff(rough)).mean() > 3 * np.abs(np.diff(fine)).mean()


def test_every_corruption_has_both_tables_of_five():
    assert len(CORRUPTIONS) == 15 and all(len(table) == 5 for tables in PARAMETERS.values() for table in tables)


@pytest.mark.parametrize("text", ["fog", "fog:0", "fog:6", "fog:03", "mist:1", ":1", ""])
def test_another_word_is_answered_with_the_names(text):
    with pytest.raises(
        ValueError, match=rf"Unknown corruption '{text}'\. Expected <name>:<severity>.* gaussian_noise, "
    ):
        parse_corruption(text)


@pytest.mark.parametrize("name", ["svhn", "eurosat"])
def test_only_evaluation_pictures_are_corrupted_and_the_fingerprint_knows(name, tmp_path):
    kwargs = getattr(data_files, f"write_{name}")(tmp_path) | {"image_size": 24}
    clean, foggy = (load_datamodule(name, **kwargs, corruption=c) for c in (None, "fog:4"))
    assert foggy.name == f"{name}_fog_4" and clean.name == name
    assert foggy.fingerprint("train") == clean.fingerprint("train")
    for split in ("val", "test"):
        assert foggy.fingerprint(split) != clean.fingerprint(split)
        assert [row.id for row in foggy.rows(split)] == [row.id for row in clean.rows(split)]
    row = foggy.rows("test")[3]
    assert torch.equal(foggy.original("test", 3), corrupt(clean.original("test", 3), "fog", 4, f"42:{row.id}"))
    workers = load_datamodule(name, **kwargs, corruption="fog:4", workers=2, seed=1)
    for one, two in zip(foggy.test_dataloader(), workers.test_dataloader(), strict=True):
        assert torch.equal(one.images, two.images)


# ---- real photographs -----------------------------------------------------------------------------------------------
def foolbox_photos(prefix):
    """label -> files; foolbox names them <set>_<number>_<label>. The package is not imported."""
    folder = Path(importlib.util.find_spec("foolbox").origin).parent / "data"
    photos = {}
    for path in sorted(folder.glob(f"{prefix}_*")):
        photos.setdefault(int(path.stem.rpartition("_")[2]), []).append(path)
    assert sum(map(len, photos.values())) == 20
    return photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A tree of twenty photographs of ImageNet, 512 x 512: ten to train on and ten to test on, in two classes."""
    root = tmp_path_factory.mktemp("photos")
    for label, paths in foolbox_photos("imagenet").items():
        for path in paths:
            split = "train" if int(path.stem.split("_")[1]) % 2 else "test"
            folder = root / split / ("animal" if label < 398 else "other")  # ImageNet's first 398 classes are animals
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_real_photographs_survive_a_mild_corruption_and_suffer_from_a_strong_one(name, photos):
    def pictures(**kwargs):
        data = load_datamodule("imagefolder", root=str(photos), image_size=164, **kwargs)
        return next(iter(data.test_dataloader())).images

    clean, mild, strong = pictures(), *(pictures(corruption=f"{name}:{severity}") for severity in (1, 5))
    assert clean.shape == (10, 3, 164, 164) and clean.std() > 0.1
    likeness = [torch.corrcoef(torch.stack([a.ravel(), b.ravel()]))[0, 1] for a, b in zip(clean, mild, strict=True)]
    assert torch.stack(likeness).mean() > 0.4, likeness  # fog and elastic_transform are strong from 1 on
    found = [(after - clean).pow(2).mean().sqrt().item() for after in (mild, strong)]
    assert found[0] > 0.003 and (name in NOT_MONOTONE or found[1] > found[0]), found


@pytest.mark.slow
def test_real_photographs_go_through_imagefolder(photos):
    data = load_datamodule("imagefolder", root=str(photos), image_size=164)
    assert data.candidates == ["animal", "other"]
    names = [Path(row.id).name for split in ("train", "val", "test") for row in data.rows(split)]
    assert sorted(names) == sorted(path.name for paths in foolbox_photos("imagenet").values() for path in paths)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (16, 3, 164, 164) and 0.2 < batch.images.mean() < 0.8


def test_the_first_twenty_test_images_of_cifar10_have_the_labels_we_would_give_them():
    """Real labels of real images: the published start of test, by the names of our list."""
    paths = sorted((path, label) for label, paths in foolbox_photos("cifar10").items() for path in paths)
    words = [load_datamodule("cifar10").candidates[label] for _, label in paths]
    assert words[:8] == ["cat", "ship", "ship", "airplane", "frog", "frog", "automobile", "frog"]
