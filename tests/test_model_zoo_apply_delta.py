"""`python -m model_zoo apply_delta`: Vicuna is LLaMA plus the published difference, bit for bit, in little memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.golden import golden_root

from model_zoo.__main__ import main
from model_zoo.weights import delta as module
from model_zoo.weights.index import shard_paths
from model_zoo.weights.safe import load_tensors

ROOT = Path(__file__).resolve().parents[1]
VICUNA = "model_weights/vicuna-7b-v0"
INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"
ROWS = ("model.embed_tokens.weight", "lm_head.weight")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for path in shard_paths(folder) for key, value in load_tensors(path).items()}


def write(folder: Path, content: dict[str, torch.Tensor], *, shards: int) -> None:
    """Shards of plain tensors with their index, as .bin files."""
    where = {}
    for n in range(shards):
        name = f"pytorch_model-{n}.bin"
        part = {key: content[key].clone() for key in sorted(content)[n::shards]}
        torch.save(part, folder / name)
        where |= dict.fromkeys(part, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))


@pytest.fixture
def folders(tmp_path):
    """(weights root with the difference to LLaMA, LLaMA's folder, the sum as FastChat computes it)."""
    source, weights, llama = golden_root() / "minigpt4" / "weights", tmp_path / "weights", tmp_path / "llama"
    shutil.copytree(source, weights)
    shutil.copy(source.parent / "config.json", tmp_path)  # the tiny model's numbers of heads
    delta = weights / "lmsys/vicuna-7b-delta-v0"
    delta.parent.mkdir()
    (weights / VICUNA).rename(delta)
    vicuna = {key: value.half() for key, value in tensors(delta).items() if "inv_freq" not in key}
    for path in delta.glob("pytorch_model*"):
        path.unlink()
    base = {key: (value.float() * (1 + torch.randn(value.shape) / 10)).half() for key, value in vicuna.items()}
    difference = {key: vicuna[key] - base[key] for key in vicuna}
    for key in ROWS:
        difference[key][-1] = vicuna[key][-1]
        base[key] = base[key][:-1]
    expected = {}
    for key, value in difference.items():
        zeros = torch.zeros_like(value)
        zeros[: len(base[key])] = base[key]
        zeros += value
        expected[key] = zeros
    (delta / "fetched.json").write_text("{}")
    write(delta, difference | {INV_FREQ: torch.zeros(4)}, shards=3)
    llama.mkdir()
    (llama / "config.json").write_text('{"model_type": "llama"}')
    write(llama, base | {INV_FREQ: torch.ones(4)}, shards=2)
    return weights, llama, expected


def test_the_sum_is_fastchats_bit_for_bit_and_is_the_model_that_is_loaded(folders, monkeypatch, capsys):
    weights, llama, expected = folders
    monkeypatch.setattr(module, "SHARD", 50_000)
    assert main(["apply_delta", "v0", f"llama={llama}", f"weights={weights}"]) == 0
    found = tensors(weights / VICUNA)
    assert found.keys() == expected.keys() and len(shard_paths(weights / VICUNA)) > 3
    assert all(torch.equal(found[key], expected[key]) and found[key].dtype == torch.float16 for key in expected)
    assert (weights / VICUNA / "tokenizer.model").is_file() and not list((weights / VICUNA).glob("*.bin*"))
    assert not (weights / VICUNA / "fetched.json").exists()
    assert main(["check", "minigpt4", f"weights={weights}"]) == 0, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["v0"], "Missing llama=DIR"),
        (["v1", "llama={llama}"], "Unknown Vicuna 'v1'. Did you mean 'v1.1'? Expected v0 or v1.1"),
        (["v1.1", "llama={llama}"], "get it with: python -m model_zoo fetch hf:lmsys/vicuna-7b-delta-v1.1 weights="),
        (["v1.1", "llama={llama}", "delta={delta}"], "is the difference of Vicuna v0"),
        (["v0", "llama={delta}", "delta={delta}"], "are the two swapped, or was it added already?"),
        (["v0", "llama={weights}"], "Missing in {weights}: pytorch_model.bin"),
    ],
)
def test_a_wrong_folder_is_one_message_and_nothing_is_written(words, message, folders, capsys):
    weights, llama, _ = folders
    places = {"llama": llama, "weights": weights, "delta": weights / "lmsys/vicuna-7b-delta-v0"}
    assert main(["apply_delta", *(word.format(**places) for word in words), f"weights={weights}"]) == 2
    assert message.format(**places) in capsys.readouterr().err
    assert not (weights / VICUNA).exists()


def test_a_llama_of_another_size_is_refused_by_the_names_of_its_tensors(folders, capsys):
    weights, llama, expected = folders
    broken = dict(tensors(llama))
    broken["model.norm.weight"] = torch.ones(3)
    del broken["lm_head.weight"]
    write(llama, broken, shards=1)
    assert main(["apply_delta", "v0", f"llama={llama}", f"weights={weights}"]) == 2
    said = capsys.readouterr().err
    assert "lm_head.weight" in said and "model.norm.weight: (3,) instead of" in said
    assert not (weights / VICUNA).exists() and expected


def test_a_vicuna_that_is_there_is_not_replaced(folders, capsys):
    weights, llama, _ = folders
    (weights / VICUNA).mkdir()
    (weights / VICUNA / "mine").write_text("")
    assert main(["apply_delta", "v0", f"llama={llama}", f"weights={weights}"]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err


MEMORY = """
import sys
from pathlib import Path
from model_zoo.weights import delta
def memory(line):
    return int(Path("/proc/self/status").read_text().split(line + ":")[1].split()[0]) * 1024
delta.SHARD = 8 * 10**6
before = memory("VmRSS")
delta.apply_delta("v0", *map(Path, sys.argv[1:]))
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures by /proc")
def test_memory_is_a_few_shards_and_not_the_model(folders, tmp_path):
    weights, llama, _ = folders
    delta, size = weights / "lmsys/vicuna-7b-delta-v0", 0
    for folder in (llama, delta):
        content = tensors(folder)
        big = {f"model.layers.0.x{n}": torch.ones(4_000_000, dtype=torch.float16) for n in range(16)}
        for path in folder.glob("pytorch_model*"):
            path.unlink()
        where = {}
        for n, (key, value) in enumerate(big.items()):
            save_file({key: value} | (content if n == 0 else {}), folder / f"{n}.safetensors")
            where |= dict.fromkeys({key: value} | (content if n == 0 else {}), f"{n}.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
        size = sum(value.nbytes for value in big.values())
    command = [sys.executable, "-c", MEMORY, str(llama), str(delta), str(tmp_path / "to")]
    rise = int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    print(f"rise {rise / 1e6:.0f} MB of {size / 1e6:.0f} MB")
    assert rise < size  # one of the two folders alone has that much
