"""The artefact: what is written is what is read, completely or not at all."""

import builtins
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lightning_modules.artefact import OWN_ENTRIES, prompt_sha256, read_manifest
from lightning_modules.artefact import update_manifest as update
from lightning_modules.atomic import backup_of
from lightning_modules.prompts import Prompt, build_prompt

FILES = ["manifest.json", "prompt.png", "prompt.safetensors"]


def make(kind: str = "pad", bounds: str = "image", seed: int = 0) -> Prompt:
    prompt = build_prompt(kind, frame=20, pad=4, bounds=bounds)
    prompt.init_("normal", std=0.5, seed=seed)
    return prompt


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def artefact(tmp_path) -> Path:
    return make().save(tmp_path / "prompt", {"task": "toy"})


@pytest.mark.parametrize("bounds", ["image", "unbounded"])
@pytest.mark.parametrize("kind", ["pad", "overlay"])
def test_float_reading_is_exact_and_frozen(tmp_path, kind, bounds):
    prompt = make(kind, bounds)
    loaded = Prompt.load(prompt.save(tmp_path / "deep" / "p", {}))
    assert type(loaded) is type(prompt) and (loaded.frame, loaded.pad, loaded.bounds) == (20, 4, bounds)
    assert loaded.delta.numpy().tobytes() == prompt.delta.detach().numpy().tobytes()
    assert not loaded.delta.requires_grad and not loaded.training
    assert names(tmp_path / "deep" / "p") == FILES and names(tmp_path / "deep") == ["p"]


@pytest.mark.parametrize(("kind", "bound"), [("pad", 0.5 / 255), ("overlay", 1 / 255)])
def test_png_reading_differs_by_at_most_half_a_level(tmp_path, kind, bound):
    prompt = make(kind)
    folder = prompt.save(tmp_path / "p", {})
    loaded, manifest = Prompt.load(folder, reading="png"), read_manifest(folder)
    worst = (loaded.delta - prompt.delta).abs().max().item()
    assert worst <= bound + 1e-7 and worst == manifest["png_max_error"]
    assert manifest["png_clamped_fraction"] == 0
    assert not (loaded.delta * (1 - loaded.mask)).any()
    assert prompt_sha256(loaded.delta) == manifest["prompt_png"]


def test_png_of_an_unbounded_prompt_is_clamped_and_says_how_much(tmp_path):
    prompt = make(bounds="unbounded")
    folder = prompt.save(tmp_path / "p", {})
    border = prompt.delta.detach()[:, prompt.mask[0] > 0]
    expected = ((border < 0) | (border > 1)).float().mean().item()
    assert 0.4 < expected < 0.7 and read_manifest(folder)["png_clamped_fraction"] == expected
    clamped = prompt.delta.detach().clamp(0, 1)
    assert (Prompt.load(folder, reading="png").delta - clamped).abs().max() <= 0.5 / 255 + 1e-7


def test_the_picture_is_the_border_on_black_and_saving_the_png_reading_again_changes_nothing(artefact, tmp_path):
    with Image.open(artefact / "prompt.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (20, 20))
        pixels = np.array(picture)
    assert not pixels[4:16, 4:16].any() and pixels.any()
    again = Prompt.load(artefact, reading="png").save(tmp_path / "again", {})
    assert (again / "prompt.png").read_bytes() == (artefact / "prompt.png").read_bytes()
    assert read_manifest(again)["png_max_error"] == 0


def test_manifest_says_everything_and_keeps_the_callers_entries(artefact):
    manifest = read_manifest(artefact)
    assert set(manifest) == {*OWN_ENTRIES, "task"} and manifest["task"] == "toy"
    assert manifest["prompt"] == prompt_sha256(make().delta)
    assert manifest["preprocessing"]["resize"] == {"size": 12, "filter": "bicubic", "antialias": True}
    assert "Paste it at (4, 4)" in manifest["preprocessing"]["words"]
    assert sorted(manifest["files"]) == FILES[1:]


def test_scores_can_be_added_later_but_the_files_entries_are_not_the_callers(artefact):
    update(artefact, {"scores": {"png": 0.5}})
    assert read_manifest(artefact)["scores"] == {"png": 0.5} and Prompt.load(artefact)
    with pytest.raises(ValueError, match=r"entries bounds describe the files"):
        update(artefact, {"bounds": "unbounded"})
    with pytest.raises(ValueError, match=r"entries frame are written by save_artefact"):
        make().save(artefact, {"frame": 3})


@pytest.mark.parametrize("bad", [float("nan"), torch.zeros(1), Path("x")])
def test_manifest_entries_must_be_json(tmp_path, bad):
    with pytest.raises(ValueError, match=r"A manifest entry is not JSON \(.*Expected text, finite numbers"):
        make().save(tmp_path / "p", {"x": bad})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ((0, 0, 0), float("nan"), "NaN or infinite"),
        ((0, 9, 9), 0.1, "not zero inside its border of 4 px"),
        ((0, 0, 0), 1.5, r"leaves \[0, 1\], but its bounds are `image`"),
    ],
)
def test_an_unfinished_prompt_is_not_saved(tmp_path, where, value, message):
    prompt = make()
    prompt.delta.data[where] = value
    with pytest.raises(ValueError, match=message):
        prompt.save(tmp_path / "p", {})
    assert names(tmp_path) == []


def test_prompt_hash_names_values_not_layout():
    delta = torch.rand(3, 6, 6)
    assert prompt_sha256(delta) == prompt_sha256(delta.double()) == prompt_sha256(nn_parameter(delta))
    assert prompt_sha256(delta) == prompt_sha256(delta.permute(2, 0, 1).contiguous().permute(1, 2, 0))
    assert prompt_sha256(delta) != prompt_sha256(delta + 1e-3)


def nn_parameter(delta: torch.Tensor) -> torch.Tensor:
    return torch.nn.Parameter(delta)


# Atomicity


def fail_on(name: str, monkeypatch, number: int = errno.ENOSPC) -> None:
    """Opening a file called `name` for writing fails as a full disk does."""
    original = builtins.open

    def full(path, mode="r", *args, **kwargs):
        if "w" in mode and Path(path).name == name:
            raise OSError(number, os.strerror(number), str(path))
        return original(path, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", full)


@pytest.mark.parametrize("name", FILES)
def test_full_disk_says_so_and_leaves_nothing_half_written(tmp_path, monkeypatch, name):
    fail_on(name, monkeypatch)
    with pytest.raises(OSError, match=r"Cannot write '.*/p': No space left.*KiB free.*is untouched") as caught:
        make().save(tmp_path / "p", {})
    assert caught.value.errno == errno.ENOSPC and names(tmp_path) == []


@pytest.mark.parametrize("name", FILES)
def test_full_disk_keeps_the_older_artefact(artefact, monkeypatch, name):
    before = {path.name: path.read_bytes() for path in artefact.iterdir()}
    fail_on(name, monkeypatch)
    with pytest.raises(OSError, match=r"No space left"):
        make(seed=1).save(artefact, {})
    assert {path.name: path.read_bytes() for path in artefact.iterdir()} == before
    assert names(artefact.parent) == ["prompt"]


def test_a_rename_that_fails_puts_the_older_artefact_back(artefact, monkeypatch):
    original = os.rename

    def rename(source, target):
        if ".new-" in str(source):
            raise OSError(errno.EIO, "Input/output error")
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match=r"Input/output error"):
        make(seed=1).save(artefact, {})
    assert torch.equal(Prompt.load(artefact).delta, make().delta) and names(artefact.parent) == ["prompt"]


def test_an_artefact_is_found_when_its_writer_died_between_the_renames(artefact):
    artefact.rename(backup_of(artefact))
    assert torch.equal(Prompt.load(artefact).delta, make().delta)


def test_folders_with_other_files_are_never_replaced(tmp_path, artefact):
    (artefact / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds 1 other file\(s\) \(notes.txt\), which would be lost"):
        make(seed=1).save(artefact, {})
    assert torch.equal(Prompt.load(artefact).delta, make().delta)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is a file"):
        make().save(tmp_path / "file", {})


# Bad input: one clear message each


def rewrite_manifest(folder: Path, **entries) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | entries))


def cut(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def put_tensor(**tensors):
    return lambda folder: save_file(tensors, folder / "prompt.safetensors")


def put_png(size: tuple[int, int], mode: str = "RGB"):
    return lambda folder: Image.new(mode, size).save(folder / "prompt.png")


SHAPE = (3, 20, 20)
DAMAGE = {
    "missing folder": ("float", shutil.rmtree, FileNotFoundError, "No prompt folder"),
    "missing manifest": ("float", lambda f: (f / "manifest.json").unlink(), FileNotFoundError, "No manifest.json in"),
    "missing tensor": ("float", lambda f: (f / FILES[2]).unlink(), FileNotFoundError, "No prompt.safetensors in"),
    "missing png": ("png", lambda f: (f / "prompt.png").unlink(), FileNotFoundError, "No prompt.png in"),
    "no JSON": ("float", cut("manifest.json"), ValueError, "is not JSON"),
    "no manifest": ("float", lambda f: (f / "manifest.json").write_text("[]"), ValueError, "has format None"),
    "newer": ("float", lambda f: rewrite_manifest(f, format_version=2), ValueError, r"Expected \('tvp-prompt', 1\)"),
    "no frame": ("float", lambda f: rewrite_manifest(f, frame="20"), ValueError, "no usable frame"),
    "huge frame": ("float", lambda f: rewrite_manifest(f, frame=10**9), ValueError, "no usable frame"),
    "kind": ("float", lambda f: rewrite_manifest(f, kind="x"), ValueError, "Unknown prompt kind 'x'"),
    "cut tensor": ("float", cut(FILES[2]), ValueError, "damaged or cut short"),
    "empty tensor": ("float", lambda f: (f / FILES[2]).write_bytes(b""), ValueError, "damaged or cut short"),
    "name": ("float", put_tensor(x=torch.zeros(SHAPE)), ValueError, r"holds \{'x'.*Expected delta \(3, 20, 20\)"),
    "shape": ("float", put_tensor(delta=torch.zeros(3, 4, 4)), ValueError, r"\(3, 4, 4\).*Expected delta"),
    "dtype": ("float", put_tensor(delta=torch.zeros(SHAPE).half()), ValueError, "float16.*Expected delta"),
    "other tensor": ("float", put_tensor(delta=torch.zeros(SHAPE)), ValueError, "is not the file its manifest"),
    "other hash": ("float", lambda f: rewrite_manifest(f, prompt="0" * 64), ValueError, "another prompt than"),
    "cut png": ("png", cut("prompt.png"), ValueError, "damaged or no PNG"),
    "no png": ("png", lambda f: (f / "prompt.png").write_bytes(b"GIF89a"), ValueError, "damaged or no PNG"),
    "png size": ("png", put_png((24, 24)), ValueError, r"is \(24, 24\), mode RGB. Expected \(20, 20\), mode RGB"),
    "png mode": ("png", put_png((20, 20), "RGBA"), ValueError, "mode RGBA. Expected"),
    "other png": ("png", put_png((20, 20)), ValueError, "is not the file its manifest"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_artefacts_are_refused_with_one_clear_message(artefact, case):
    reading, damage, error, message = DAMAGE[case]
    damage(artefact)
    with pytest.raises(error, match=message) as caught:
        Prompt.load(artefact, reading=reading)
    assert "\n" not in str(caught.value)


def test_each_reading_needs_only_its_own_file(artefact):
    (artefact / "prompt.safetensors").unlink()
    assert Prompt.load(artefact, reading="png")
    with pytest.raises(ValueError, match=r"Unknown reading 'jpeg'. Available: float, png"):
        Prompt.load(artefact, reading="jpeg")


def test_values_are_checked_even_when_every_hash_agrees(artefact):
    import hashlib

    for value, message in ((float("inf"), "NaN or infinite"), (2.0, "leaves")):
        delta = make().delta.detach().clone()
        delta[0, 0, 0] = value
        save_file({"delta": delta}, artefact / FILES[2])
        digest = hashlib.sha256((artefact / FILES[2]).read_bytes()).hexdigest()
        rewrite_manifest(artefact, prompt=prompt_sha256(delta), files={FILES[2]: digest})
        with pytest.raises(ValueError, match=message):
            Prompt.load(artefact)


@pytest.fixture
def run(artefact) -> Path:
    """A run's folder as `make train` leaves it."""
    folder = artefact.parent
    (folder / "config.yaml").write_text("exp: toy\n")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"zip")
    return folder


@pytest.mark.parametrize(
    "path", ["", "prompt", "prompt/prompt.png", "prompt/manifest.json", "prompt/prompt.safetensors"]
)
@pytest.mark.parametrize("reading", ["float", "png"])
def test_a_run_and_every_file_of_its_prompt_stand_for_the_prompt(run, path, reading):
    assert torch.equal(
        Prompt.load(run / path, reading=reading).delta, Prompt.load(run / "prompt", reading=reading).delta
    )
    assert read_manifest(run / path)["task"] == "toy"


def test_scores_added_through_the_runs_folder_reach_the_manifest(run):
    update(run, {"scores": [1]})
    assert read_manifest(run / "prompt")["scores"] == [1] and not (run / "manifest.json").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("run/checkpoints/last.ckpt", "That is a checkpoint; the run's finished prompt is '{run}/prompt'"),
        ("checkpoint_best.pth", "turn the authors' file into a prompt with `python -m experiments.import_prompt`"),
        ("prompt.zip", "Unpack it, then give the folder"),
        ("photo.jpg", "Expected a prompt's folder (prompt.safetensors, manifest.json)"),
        ("runs", "It holds 1 prompt folder(s), for example '{run}/prompt': give one of them"),
        ("unfinished", "That run has not written its prompt yet: end it with `make train resume="),
        ("alone/prompt.png", "No manifest.json in '{top}/alone'. Expected a prompt artefact; copy the whole folder"),
    ],
)
def test_what_is_no_prompt_says_what_to_give_instead(path, message, tmp_path):
    run = tmp_path / ("runs/toy/run" if path == "runs" else "run")
    make().save(run / "prompt", {})
    (run / "checkpoints").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("exp: toy\n")
    (tmp_path / "alone").mkdir()
    if not (tmp_path / path).exists():
        (tmp_path / path).write_bytes(b"something")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        Prompt.load(tmp_path / path)
    assert message.format(run=run, top=tmp_path) in str(caught.value)
