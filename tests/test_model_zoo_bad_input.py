"""What can be wrong with weight files: one clear message from `load_mllm` and from `check`, never a traceback."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from support.golden import golden_root

import model_zoo.layer_options as quant
from model_zoo.__main__ import main
from model_zoo.registry import load_mllm
from model_zoo.weights.catalogue import PUBLISHED

EVA = "hub/checkpoints/eva_vit_g.pth"
QFORMER = "hub/checkpoints/blip2_pretrained_flant5xxl.pth"
PROJECTION = "model_weights/prerained_minigpt4_7b.pth"
LLM = "model_weights/vicuna-7b-v0"
MISSING_FILE = "prerained_minigpt4_7b.pth: MiniGPT-4 llama_proj. Published"


class Case(NamedTuple):
    """What is broken, and parts of the message. name: the model asked for."""

    broken: str
    change: Callable[[Path], object]
    parts: tuple[str, ...]
    name: str = "minigpt4"


class Malicious:
    """Unpickling this would make a folder named `ran` where the test runs."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("ran",)


def rewrite(path: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A change of one checkpoint's tensors."""

    def apply(weights: Path) -> None:
        content = torch.load(weights / path, weights_only=True)
        change(content.get("model", content))
        torch.save(content, weights / path)

    return apply


def config(**changes: object) -> Callable[[Path], None]:
    """A change of the LLM's config.json."""

    def apply(weights: Path) -> None:
        path = weights / LLM / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def text(path: str, content: str | bytes) -> Callable[[Path], object]:
    """A file replaced."""
    return lambda weights: (weights / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(path: str) -> Callable[[Path], object]:
    """The second half of a file lost."""
    return lambda w: (w / path).write_bytes((w / path).read_bytes()[: (w / path).stat().st_size // 2])


def first_shard(weights: Path) -> Path:
    return sorted((weights / LLM).glob("pytorch_model-*.bin"))[0]


def folder_for_file(weights: Path) -> None:
    (weights / PROJECTION).unlink()
    (weights / PROJECTION).mkdir()


def file_for_folder(weights: Path) -> None:
    shutil.rmtree(weights / LLM)
    (weights / LLM).write_text("")


def v11_for_v0(weights: Path) -> None:
    """The LLM folder as Vicuna v1.1 has it: no added token, one row less."""
    (weights / LLM / "added_tokens.json").unlink()
    rows = json.loads((weights / LLM / "config.json").read_text())["vocab_size"] - 1
    config(vocab_size=rows)(weights)
    for path in (weights / LLM).glob("*.bin"):
        tensors = torch.load(path, weights_only=True)
        names = [key for key in tensors if key in ("model.embed_tokens.weight", "lm_head.weight")]
        torch.save(tensors | {key: tensors[key][:rows].clone() for key in names}, path)


def v0_for_v11(weights: Path) -> None:
    """InstructBLIP's files, as far as headers go, around a Vicuna v0."""
    (weights / "lmsys").mkdir()
    shutil.move(weights / LLM, weights / PUBLISHED["instructblip"].llm.path)
    shutil.copy(weights / QFORMER, weights / "hub/checkpoints/instruct_blip_vicuna7b_trimmed.pth")
    (weights / "bert-base-uncased").mkdir(exist_ok=True)
    (weights / "bert-base-uncased" / "vocab.txt").write_text("[PAD]\n")


def safetensors_cut_short(weights: Path) -> None:
    from safetensors.torch import save_file

    folder, tensors = weights / LLM, {}
    for path in sorted(folder.glob("pytorch_model-*.bin")):
        tensors |= torch.load(path, weights_only=True)
    for path in folder.glob("pytorch_model*"):
        path.unlink()
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
    cut(f"{LLM}/model.safetensors")(weights)


CODE = pickle.dumps({"model": {"a": Malicious()}}, protocol=2)
CASES = [
    Case("a missing file", lambda w: (w / PROJECTION).unlink(), (PROJECTION, MISSING_FILE)),
    Case("a missing shard", lambda w: first_shard(w).unlink(), (f"{LLM}/pytorch_model-00001",)),
    Case("a missing tokenizer", lambda w: (w / LLM / "tokenizer.model").unlink(), (f"{LLM}/tokenizer.model",)),
    Case("a folder where a file is expected", folder_for_file, (PROJECTION, "MiniGPT-4 llama_proj")),
    Case("a file where a folder is expected", file_for_folder, (LLM, "Vicuna-7B v0")),
    Case("a truncated checkpoint", cut(QFORMER), (QFORMER, "damaged or cut short", "Download it again")),
    Case("a truncated vision tower", cut(EVA), (EVA, "damaged or cut short")),
    Case("a truncated shard", lambda w: cut(f"{LLM}/{first_shard(w).name}")(w), ("damaged or cut short",)),
    Case("a truncated safetensors file", safetensors_cut_short, ("model.safetensors", "damaged or cut short")),
    Case("an empty file", text(PROJECTION, b""), (PROJECTION, "(0 bytes) is damaged or cut short")),
    Case("a web page instead of a file", text(PROJECTION, "<html>quota</html>"), (PROJECTION, "a web page")),
    Case("a pickle with code", text(PROJECTION, CODE), (PROJECTION, "refused", "nothing ran")),
    Case("no tensors in a file", lambda w: torch.save({"model": {"a": 3}}, w / PROJECTION), ("dictionary of tensors",)),
    Case("a missing key", rewrite(PROJECTION, lambda t: t.pop("llama_proj.bias")), ("missing llama_proj.bias",)),
    Case("an extra key", rewrite(PROJECTION, lambda t: t.update(odd=torch.zeros(1))), ("unexpected odd",)),
    Case(
        "a wrong shape",
        rewrite(QFORMER, lambda t: t.update({"ln_vision.bias": torch.zeros(3)})),
        ("misshaped post_layernorm.bias", "(3,) instead of"),
    ),
    Case(
        "a projection to another width",
        rewrite(PROJECTION, lambda t: t.update({"llama_proj.weight": torch.zeros(7, 64)})),
        ("llama_proj leads to width 7", "Expected equal widths"),
    ),
    Case("Vicuna v1.1 for v0", v11_for_v0, ("looks like Vicuna v1.1", "trained with Vicuna v0", "delta-v0 applied")),
    Case(
        "Vicuna v0 for v1.1",
        v0_for_v11,
        ("looks like Vicuna v0", "trained with Vicuna v1.1", "delta-v1.1 applied"),
        "instructblip",
    ),
    Case(
        "Vicuna v0 without its added token",
        lambda w: (w / LLM / "added_tokens.json").unlink(),
        ("is neither Vicuna v0 nor v1.1", "[PAD] is not in added_tokens.json"),
    ),
    Case("T5's config", config(model_type="t5"), ("config.json describes a t5 LLM", "Expected llama")),
    Case("OPT's config", config(model_type="opt"), ("config.json describes a opt LLM", "Expected llama")),
    Case("a config without a model", text(f"{LLM}/config.json", "{}"), ("describes a unknown LLM", "Expected llama")),
    Case("broken JSON in config.json", text(f"{LLM}/config.json", '{"a": '), ("config.json is not valid JSON", LLM)),
    Case("bytes in config.json", text(f"{LLM}/config.json", b"\xff\xfe\x00"), ("config.json is not valid JSON",)),
    Case("a list in config.json", text(f"{LLM}/config.json", "[1]"), ("config.json holds a list", "JSON object")),
    Case(
        "a broken index",
        text(f"{LLM}/pytorch_model.bin.index.json", "{"),
        ("pytorch_model.bin.index.json is no index of weight shards",),
    ),
    Case(
        "broken JSON in added_tokens.json", text(f"{LLM}/added_tokens.json", "{"), ("added_tokens.json is not valid",)
    ),
    Case("a broken manifest", text("mllm.json", "{"), ("mllm.json is damaged",)),
    Case("an empty tokenizer", text(f"{LLM}/tokenizer.model", b""), ("tokenizer", "is empty")),
    Case("a garbled tokenizer", text(f"{LLM}/tokenizer.model", b"\x08\x07" * 9), ("tokenizer.model cannot be read",)),
    Case("another vocabulary size", config(vocab_size=7), ("vocab_size 7", "the shards hold")),
    Case("another LLM width", config(hidden_size=112), ("has width 112", "Expected equal widths")),
    Case("more layers than the shards hold", config(num_hidden_layers=3), ("missing model.layers.2.",)),
]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A writable copy of the tiny MiniGPT-4 files with their manifest, in an otherwise empty working directory."""
    root = golden_root()
    if root is None or not (root / "minigpt4" / "weights").is_dir():
        pytest.fail("No golden MiniGPT-4 here. Expected tests/data/golden/minigpt4.")
    shutil.copytree(root / "minigpt4" / "weights", tmp_path / "weights")
    shutil.copy(root / "minigpt4" / "config.json", tmp_path / "config.json")
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "weights"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.broken)
def test_load_says_what_is_wrong(weights: Path, case: Case) -> None:
    case.change(weights)
    with pytest.raises((ValueError, OSError)) as caught:
        load_mllm(case.name, weights=weights)
    for part in case.parts:
        assert part in str(caught.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.broken)
def test_check_says_what_is_wrong_and_returns_1(weights: Path, case: Case, capsys: pytest.CaptureFixture) -> None:
    case.change(weights)
    code, shown = main(["check", case.name, f"weights={weights}"]), capsys.readouterr()
    assert code == 1, shown
    for part in case.parts:
        assert part in shown.out
    assert "cannot be loaded" in shown.out.splitlines()[-1] and "Traceback" not in shown.out + shown.err
    assert not Path("ran").exists()


def test_the_unbroken_copy_loads_and_passes(weights: Path) -> None:
    assert load_mllm("minigpt4", weights=weights).name == "minigpt4"
    assert main(["check", "minigpt4", f"weights={weights}"]) == 0


def test_an_unreadable_file_is_named(weights: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """As root every file is readable, so the refusal is played."""
    target, opened = weights / PROJECTION, Path.open

    def refuse(self: Path, *args: object, **kwargs: object):
        if self == target:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != target)
    with pytest.raises((ValueError, OSError), match=r"prerained_minigpt4_7b\.pth"):
        load_mllm("minigpt4", weights=weights)
    assert main(["check", "minigpt4", f"weights={weights}"]) == 1
    assert f"{PROJECTION}: cannot be read. Expected read permission" in capsys.readouterr().out


def test_an_unknown_name_is_answered_with_the_nearest(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"Unknown MLLM 'minigpt-4'\. Did you mean 'minigpt4'\?"):
        load_mllm("minigpt-4")
    assert main(["check", "minigpt-4"]) == 2
    assert "Did you mean 'minigpt4'?" in capsys.readouterr().err


def test_an_unknown_dtype_is_named(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown dtype 'int3'\. Expected one of"):
        load_mllm("minigpt4", weights=weights, dtype="int3")


def test_quant_without_its_extra_is_refused_before_files_are_looked_at(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quant, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"missing here: bitsandbytes \(pip install"):
        load_mllm("minigpt4", weights=tmp_path, quant="4bit")


def test_a_run_that_cannot_fit_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import model_zoo.memory.free as room
    from experiments.recipes import load_experiment
    from experiments.run.build import RunParts
    from experiments.run.memory_plan import NotEnoughMemoryError, check_memory

    monkeypatch.setattr(room, "free_ram", lambda: room.Room(2**30, "of RAM"))
    words = {"exp": "cifar10_minigpt4", "source.weights": "nowhere", "train.accelerator": "cpu"}
    with pytest.raises(NotEnoughMemoryError, match=r"needs \d+\.\d GiB, but 1\.0 GiB are free of RAM"):
        check_memory(RunParts(load_experiment(list(words.items()))))
