"""Converted folders: bit-identical results, written whole or not at all, never over anything, never another model's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.golden import Golden, golden_root, load_golden
from torch import Tensor

from model_zoo.base import MLLM
from model_zoo.registry import canonical, load_mllm, missing_files, model_fingerprint, weight_files
from model_zoo.weights import writing
from model_zoo.weights.convert import convert, save_folder
from model_zoo.weights.converted import load_folder
from model_zoo.weights.layouts import MANIFEST, find_layout
from model_zoo.weights.safe import load_tensors

NAMES = sorted(path.parent.name for path in golden_root().glob("*/golden.npz"))
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(request.param)


@pytest.fixture(scope="module")
def converted(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = canonical(golden.config["model"])
    return convert(name, golden.folder / "weights", tmp_path_factory.mktemp("converted") / name)


@pytest.fixture
def one(tmp_path: Path) -> tuple[str, Path, Path]:
    """(name, weights, target) of one golden model, for what does not depend on which."""
    golden = load_golden("blip2_t5")
    return "blip2", golden.folder / "weights", tmp_path / "out" / "blip2"


def results(model: MLLM, golden: Golden) -> list[Tensor]:
    """Scores, losses and the image gradient of the recorded images, as many as the model takes at once officially."""
    n = golden.n_loss
    frames, questions = golden.frames[:n].requires_grad_(), golden.questions("mixed")[:n]
    nats, _ = model.answer_loss(frames, questions, golden.text["text_output"][:n])
    (gradient,) = torch.autograd.grad(nats.sum(), frames)
    with torch.no_grad():
        scores = model.score(golden.frames, golden.questions("mixed"), golden.text["class_names"])
    return [scores, nats.detach(), gradient]


def test_a_converted_folder_gives_bit_identical_results(golden: Golden, converted: Path) -> None:
    rows = {}
    if "llm_resized_embed_row" in golden.arrays:
        rows = {"extra_rows": (golden.arrays["llm_resized_embed_row"], golden.arrays["llm_resized_lm_head_row"])}
    model = load_mllm(golden.config["model"], weights=converted, official=True, **rows)
    for found, expected in zip(results(model, golden), results(golden.model, golden), strict=True):
        assert torch.equal(found, expected)


def test_a_converted_folder_is_found_by_itself_and_below_a_root(golden: Golden, converted: Path) -> None:
    name = golden.config["model"]
    for weights in (converted, converted.parent):
        layout = find_layout(canonical(name), weights)
        assert (layout.kind, layout.folder) == ("converted", converted)
        assert missing_files(name, weights) == [] and weight_files(name, weights) == list(layout.files)
    assert model_fingerprint(name, converted) == model_fingerprint(name, converted.parent)


def test_converting_a_converted_folder_changes_nothing(golden: Golden, converted: Path, tmp_path: Path) -> None:
    again = convert(canonical(golden.config["model"]), converted, tmp_path / "again")
    names = {path.relative_to(converted) for path in converted.rglob("*")}
    assert names == {path.relative_to(again) for path in again.rglob("*")}
    for name in names:
        if (converted / name).is_file() and name.name != MANIFEST:
            assert (converted / name).read_bytes() == (again / name).read_bytes()


def test_every_tensor_keeps_its_dtype(one: tuple, tmp_path: Path) -> None:
    name, weights, target = one
    shutil.copytree(weights, mixed := tmp_path / "mixed", copy_function=shutil.copyfile)
    eva = mixed / "hub/checkpoints/eva_vit_g.pth"
    torch.save({key: value.half() for key, value in torch.load(eva, weights_only=True).items()}, eva)
    (mixed / "config.json").write_bytes((weights.parent / "config.json").read_bytes())
    tensors = load_tensors(convert(name, mixed, target) / "model-00001-of-00001.safetensors")
    blocks = {value.dtype for key, value in tensors.items() if key.startswith("connector.vision.encoder.")}
    assert blocks == {torch.float16} and tensors["connector.query_tokens"].dtype == torch.float32
    model = load_mllm(name, weights=target, dtype="bfloat16")
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}


def test_large_models_are_written_in_shards(one: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    name, weights, target = one
    monkeypatch.setattr(writing, "SHARD_BYTES", 10**6)
    golden = load_golden("blip2_t5")
    save_folder(load_folder(convert(name, weights, target), torch.float32), name, sharded := target.parent / "sharded")
    shards = weight_files(name, sharded)
    assert len(shards) > 3 and all(path.stat().st_size < 1.1e6 for path in shards)
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    model = load_mllm(name, weights=sharded, official=True)
    assert all(map(torch.equal, model.state_dict().values(), golden.model.state_dict().values()))


def test_the_folder_of_another_model_is_refused_by_both_names(one: tuple) -> None:
    name, weights, target = one
    convert(name, weights, target)
    with pytest.raises(ValueError, match="holds a converted blip2, but minigpt4 was asked for"):
        load_mllm("minigpt4", weights=target)
    target.rename(target.parent / "minigpt4")
    with pytest.raises(ValueError, match="holds a converted blip2, but minigpt4 was asked for"):
        missing_files("minigpt4", target.parent)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_is_overwritten(one: tuple, kind: str) -> None:
    name, weights, target = one
    target.parent.mkdir()
    if kind == "folder":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(weights)
    with pytest.raises(FileExistsError, match=r"is not an empty folder\. Nothing was written"):
        convert(name, weights, target)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_disk_that_is_too_full_is_refused_before_writing(one: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    name, weights, target = one
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"GB to write and 0.00 GB free. Make room"):
        convert(name, weights, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(one: tuple, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    name, weights, target = one

    def fail(folder: Path, tensors: object) -> None:
        (folder / "model-00001-of-00002.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr("model_zoo.weights.convert.write_shards", fail)
    with pytest.raises(type(error)):
        convert(name, weights, target)
    assert list(target.parent.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
from model_zoo.weights import convert as folder
folder.write_shards = lambda where, tensors: ((where / "half").write_bytes(b"half"), print("writing", flush=True),
                                              time.sleep(60))
folder.convert(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_target(one: tuple) -> None:
    name, weights, target = one
    command = [sys.executable, "-c", KILLED, name, str(weights), str(target)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert not target.exists() and all(path.name.endswith(".partial") for path in target.parent.iterdir())
    assert convert(name, weights, target) == target  # the leftover is in nobody's way


def test_the_model_in_memory_can_be_saved_too(one: tuple) -> None:
    name, weights, target = one
    model = load_mllm(name, weights=weights)
    assert save_folder(model, name, target) == target
    again = load_mllm(name, weights=target)
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))
    assert json.loads((target / MANIFEST).read_text())["name"] == name
    assert os.access(target, os.R_OK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "{", "mllm.json is damaged"),
        (lambda text: text.replace('"format": 1', '"format": 99'), "has format 99, this version reads up to 1"),
        (lambda text: text.replace('"hidden_size": 64', '"hidden_size": 32', 1), "does not fit the model: misshaped"),
    ],
)
def test_a_damaged_manifest_is_named(one: tuple, change, message: str) -> None:
    name, weights, target = one
    manifest = convert(name, weights, target) / MANIFEST
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(ValueError, match=message):
        load_mllm(name, weights=target)


def test_a_missing_shard_of_a_converted_folder_is_named(one: tuple) -> None:
    name, weights, target = one
    (convert(name, weights, target) / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00001-of-00001\.safetensors: part of the converted folder"):
        load_mllm(name, weights=target)
