"""Clean features on disk: the same update, nothing stale, nothing lost when files, disks or processes misbehave."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny_models import TINY, tiny_mllm
from test_lightning_modules_tvp import FRAME, PAD, fit, make_batch, make_module

from datamodules.transforms import draw_augmentation
from lightning_modules import feature_cache
from lightning_modules.feature_cache import FeatureCache
from lightning_modules.features import CachedFeatures, encode_clean
from lightning_modules.prompts import OverlayPrompt, PadPrompt

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]
LOSSES = {"fca": 0.3, "tse": 0.02}
KEYS = [f"{i:064x}" for i in range(0, 1600, 16)]


def cached(folder, dtype="float32", **options):
    return CachedFeatures(FeatureCache(folder, dtype=dtype, **options), lambda: {"model": "fp"})


def rows(n=1, seed=0):
    return torch.randn(n, 4, 8, generator=torch.Generator().manual_seed(seed))


def batches():
    """Three updates in which pictures repeat, in other company: the second meets hits and misses."""
    a, b = make_batch(), make_batch(seed=1)
    mixed = type(a)(*(x if x is None else x[2:] + y[:2] if isinstance(x, list) else torch.cat([x[2:], y[:2]])
                      for x, y in zip(a, b, strict=True)))  # fmt: skip
    return [a, mixed, b]


# ---- the same update -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TINY)
def test_float32_features_give_the_plain_update_filling_the_cache_and_reading_it(tmp_path, name):
    plain = fit(make_module((name,), **LOSSES), batches())
    for hits in (4, 12):
        clean = cached(tmp_path)
        again = fit(make_module((name,), clean_features=[clean], **LOSSES), batches())
        torch.testing.assert_close(again, plain, atol=1e-4, rtol=0)
        assert (clean.asked, clean.hits) == (12, hits)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_first_step_from_a_zero_prompt_gets_no_gradient_from_rounding(tmp_path, dtype):
    plain = fit(make_module(), [make_batch()])  # no FCA at all
    cached(tmp_path, dtype)(tiny_mllm("minigpt4"), padded(make_batch(1)), ["photo"])  # one of four, another batch shape
    for _ in range(2):
        assert torch.equal(fit(make_module(fca=5.0, clean_features=[cached(tmp_path, dtype)]), [make_batch()]), plain)


def padded(batch, pad=PAD):
    return torch.nn.functional.pad(batch.images, [pad] * 4)


@pytest.mark.parametrize("name", TINY)
def test_float16_features_turn_the_gradient_by_less_than_a_cosine_of_0_999(tmp_path, name):
    gradients = []
    for clean in (None, [cached(tmp_path, "float16")], [cached(tmp_path, "float16")]):
        module = make_module((name,), clean_features=clean, fca=1.0)
        module.configure_model()
        module.prompt.delta.data.copy_(0.1 * torch.rand(3, FRAME, FRAME, generator=torch.Generator().manual_seed(1)))
        module.prompt.project_()
        module.losses(make_batch()).fca.sum().backward()  # FCA alone: the task's gradient would hide it
        gradients.append(module.prompt.delta.grad.flatten())
    plain, filling, reading = gradients
    assert torch.cosine_similarity(plain, filling, dim=0) > 0.999 and plain.norm() > 0
    assert torch.equal(filling, reading)  # a resumed run sees what the uninterrupted one saw


def test_only_frames_not_seen_before_are_encoded(tmp_path, monkeypatch):
    source, clean, seen = tiny_mllm("minigpt4"), cached(tmp_path), []
    original = type(source).encode_image
    monkeypatch.setattr(
        type(source), "encode_image", lambda self, frames, q: seen.append(len(frames)) or original(self, frames, q)
    )
    frames = padded(make_batch(4))
    clean(source, frames[[0, 1, 1]], ["photo"] * 3)  # a picture twice is encoded once
    tokens = clean(source, frames, ["photo"] * 4)
    assert seen == [2, 2] and not tokens.requires_grad
    torch.testing.assert_close(tokens, encode_clean(source, frames, ["photo"] * 4), atol=1e-5, rtol=1e-5)


def test_several_sources_share_a_folder_and_never_each_other_s_features(tmp_path):
    names, cache = ("minigpt4", "bliva"), FeatureCache(tmp_path)
    plain = fit(make_module(names, **LOSSES), batches())
    for _ in range(2):
        clean = [CachedFeatures(cache, lambda name=name: {"model": name}) for name in names]
        again = fit(make_module(names, clean_features=clean, **LOSSES), batches())
        torch.testing.assert_close(again, plain, atol=1e-4, rtol=0)


# ---- keys ------------------------------------------------------------------------------------------------------------
def key(source="instructblip", images=None, pad=PAD, question="photo", official=False, dtype=torch.float32, **identity):
    model = tiny_mllm(source, official=official).to(dtype)
    images = make_batch(1).images if images is None else images
    frames = PadPrompt(FRAME - 2 * PAD + 2 * pad, pad).blank(images)
    made = CachedFeatures(FeatureCache("unused"), lambda: {"model": "fp", "dtype": "float32"} | identity)
    return made.keys(model, frames, [question])[0]


@pytest.mark.parametrize("change", [
    {"images": make_batch(1, seed=1).images}, {"images": make_batch(1).images.flip(-1)},
    {"images": make_batch(1).images.roll(1, -2)}, {"pad": 5}, {"question": "what?"}, {"official": True},
    {"dtype": torch.bfloat16}, {"model": "other"}, {"dtype_": "8bit"}, {"options": "heads=2"},
])  # fmt: skip
def test_any_changed_part_of_the_key_misses(change):
    """Image, flip, crop, frame and pad, question of a Q-Former that reads it, mode, weights, model."""
    assert key(**change) != key() and key() == key()


def test_numerics_and_versions_and_templates_are_part_of_the_key(monkeypatch):
    from lightning_modules import features as clean_features
    from model_zoo.templates import Template

    before = key()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert key() != before
    model, frames = tiny_mllm("instructblip"), padded(make_batch(1))
    model.template = Template("another")
    assert cached("unused").keys(model, frames, [""]) != cached("unused").keys(tiny_mllm("instructblip"), frames, [""])
    monkeypatch.setattr(torch, "__version__", "0")
    assert key() != before
    monkeypatch.undo()
    monkeypatch.setattr(clean_features, "FEATURES", 99)
    assert key() != before


def test_float16_and_float32_entries_never_meet(tmp_path):
    FeatureCache(tmp_path, dtype="float16").put(KEYS[:1], rows())
    assert FeatureCache(tmp_path).get(KEYS[:1]) == {}


def test_the_question_counts_only_where_the_connector_reads_it():
    assert key("minigpt4", question="a") == key("minigpt4", question="b")
    assert key("bliva", question="a") != key("bliva", question="b")


def test_an_overlaid_and_a_padded_frame_differ_though_the_pictures_agree():
    image, made = make_batch(1).images, cached("unused")
    frames = [PadPrompt(FRAME, PAD).blank(image), OverlayPrompt(FRAME - 2 * PAD, PAD).blank(image)]
    assert made.keys(tiny_mllm("minigpt4"), frames[0], [""]) != made.keys(tiny_mllm("minigpt4"), frames[1], [""])


def test_epochs_of_the_same_augmentation_share_an_entry_and_others_do_not():
    from support.toy_data import Toy

    data, model, made = Toy(count=3), tiny_mllm("minigpt4"), cached("unused")
    by_draw: dict[tuple, set] = {}
    for epoch in range(6):
        frames = PadPrompt(16, 2).blank(data.image("train", 0, epoch)[None])
        draw = draw_augmentation(data.seed, epoch, "train-0")
        by_draw.setdefault(draw, set()).add(made.keys(model, frames, [""])[0])
    assert all(len(keys) == 1 for keys in by_draw.values()) and len(set.union(*by_draw.values())) > 1


# ---- the store -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_was_put_is_got_bit_for_bit(tmp_path, dtype):
    cache = FeatureCache(tmp_path, dtype=dtype)
    assert cache.get(KEYS[:3]) == {}
    kept = cache.put(KEYS[:3], rows(3))
    found = FeatureCache(tmp_path, dtype=dtype).get([*KEYS[:3], KEYS[9]])
    assert list(found) == KEYS[:3] and torch.equal(torch.stack(list(found.values())), kept)
    torch.testing.assert_close(kept.float(), rows(3), atol=0, rtol=5e-4)


@pytest.mark.parametrize("damage", [lambda b: b[:50], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1]),
                                    lambda b: b"x" * len(b), lambda b: b[:3]])  # fmt: skip
def test_a_damaged_file_is_named_once_and_computed_again(tmp_path, damage):
    clean, source, frames = cached(tmp_path), tiny_mllm("minigpt4"), padded(make_batch(3))
    expected = clean(source, frames, ["photo"] * 3)
    for path in tmp_path.glob("*/*"):
        path.write_bytes(damage(path.read_bytes()))
    clean = cached(tmp_path)
    with pytest.warns(UserWarning, match=r"The cached features '.*\.float32' are damaged .* computed again") as said:
        again = clean(source, frames, ["photo"] * 3)
    assert len(said) == 1 and clean.hits == 0 and torch.equal(again, expected)
    assert torch.equal(clean(source, frames, ["photo"] * 3), expected) and clean.hits == 3


def test_a_full_disk_is_said_once_and_training_goes_on_without_the_cache(tmp_path, monkeypatch):
    def full(path, data, *, sync=True):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_cache, "replace_file", full)
    plain = fit(make_module(**LOSSES), batches())
    with pytest.warns(UserWarning, match=r"no longer kept in '.*No space left.*The run goes on") as said:
        again = fit(make_module(clean_features=[cached(tmp_path)], **LOSSES), batches())
    assert sum("no longer kept" in str(w.message) for w in said) == 1 and not list(tmp_path.glob("*/*"))
    torch.testing.assert_close(again, plain, atol=1e-4, rtol=0)


def test_a_folder_that_cannot_be_made_is_said_too(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    FeatureCache(tmp_path / "file").put(KEYS[:2], rows(2))
    assert "file' is no folder): clean features are not kept" in capsys.readouterr().out


def test_features_too_large_for_float16_are_refused_and_infinite_ones_not_kept(tmp_path):
    with pytest.raises(ValueError, match=r"do not fit torch.float16. Set train.feature_cache=float32"):
        FeatureCache(tmp_path, dtype="float16").put(KEYS[:1], 1e6 * rows())
    cache = FeatureCache(tmp_path)
    cache.put(KEYS[:1], rows() * float("nan"))
    assert cache.get(KEYS[:1]) == {}


ENTRY = 32 + 4 * 8 * 4  # header and tokens


def size_of(cache):
    return sum(path.stat().st_size for path in cache.folder.glob("*/*"))


def test_the_least_recently_used_go_first_and_the_cap_holds(tmp_path):
    cache = FeatureCache(tmp_path, limit_gib=20.5 * ENTRY / 2**30)
    for i in range(20):
        cache.put([KEYS[i]], rows(seed=i))
        os.utime(cache._path(KEYS[i]), ns=(i, i))
    cache.get(KEYS[:2])  # the two oldest are used again
    for i in range(20, 60):
        cache.put([KEYS[i]], rows(seed=i))
        assert size_of(cache) <= cache.limit
        assert i > 30 or len(cache.get(KEYS[:2])) == 2
    assert not cache.get(KEYS[2:10]) and len(cache.get(KEYS[50:60])) == 10


def test_a_killed_writer_s_rest_is_an_entry_like_any_other(tmp_path):
    cache = FeatureCache(tmp_path, limit_gib=10 * ENTRY / 2**30)
    cache.put(KEYS[:1], rows())
    rest = cache._path(KEYS[0]).with_name(".x.new-1")
    rest.write_bytes(bytes(3 * ENTRY))
    os.utime(rest, ns=(0, 0))
    for i in range(1, 12):
        cache.put([KEYS[i]], rows())
    assert not rest.exists() and size_of(cache) <= cache.limit


def test_an_entry_over_the_whole_cap_is_said(tmp_path):
    with pytest.warns(UserWarning, match=r"one picture's features take 160 bytes, the cap is 100"):
        FeatureCache(tmp_path, limit_gib=100.1 / 2**30).put(KEYS[:1], rows())


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"limit_gib": 0}])
def test_wrong_settings_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=r"Unknown feature cache dtype 'int8'|holds nothing"):
        FeatureCache(tmp_path, **options)


WRITER = """
import sys, warnings
warnings.simplefilter("error")
import torch
from lightning_modules.feature_cache import FeatureCache
cache = FeatureCache(sys.argv[1], limit_gib=40 * 160 / 2**30)
keys = [f"{i:064x}" for i in range(0, 1600, 16)]
for turn in range(6):
    for i, key in enumerate(keys):
        row = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(i))
        found = cache.get([key])
        assert not found or torch.equal(found[key], row[0])
        cache.put([key], row)
"""


@pytest.mark.slow
def test_processes_that_write_evict_and_are_killed_at_once_leave_whole_entries(tmp_path):
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    while running[0].poll() is None and len(list(tmp_path.glob("*/*"))) < 20:
        pass
    running[0].kill()
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running[1:]] == [0, 0], errors
    cache = FeatureCache(tmp_path, limit_gib=40 * ENTRY / 2**30)
    found = cache.get(KEYS)
    assert found and all(torch.equal(tokens, rows(seed=KEYS.index(name))[0]) for name, tokens in found.items())
    assert size_of(cache) <= 1.2 * cache.limit


def test_the_hit_rate_is_said_once(tmp_path, capsys):
    fit(make_module(clean_features=[cached(tmp_path)], **LOSSES), batches())
    assert capsys.readouterr().out.count(f"Clean features: 4 of 12 (33%) came from '{tmp_path}'.") == 1
