"""Peak host memory of loading stays within 1.2 x (largest shard + model in its target dtype), measured on 1 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.2

BUILD = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

kind, folder = sys.argv[1], Path(sys.argv[2])
folder.mkdir()
config = LlamaConfig(
    vocab_size=12000, hidden_size=2048, intermediate_size=5504, num_hidden_layers=4, num_attention_heads=16,
    architectures=["LlamaForCausalLM"],
)
config.save_pretrained(folder)
with torch.device("meta"):
    shapes = {key: value.shape for key, value in LlamaForCausalLM(config).state_dict().items()}
ends = {"model.embed_tokens.weight": 0, "model.norm.weight": 3, "lm_head.weight": 3}
where = {key: ends[key] if key in ends else int(key.split(".")[2]) for key in shapes}
name = ("model-{:05d}.safetensors" if kind == "safetensors" else "pytorch_model-{:05d}.bin").format
for n in range(4):
    part = {key: torch.full(shape, 0.01) for key, shape in shapes.items() if where[key] == n}
    if kind == "safetensors":
        save_file(part, folder / name(n), metadata={"format": "pt"})
    else:
        torch.save(part, folder / name(n), _use_new_zipfile_serialization=kind == "bin")
index = "model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json"
(folder / index).write_text(json.dumps({"weight_map": {key: name(n) for key, n in where.items()}}))
"""

LOAD = """
import json, sys
from pathlib import Path
import torch
from transformers import LlamaForCausalLM
from model_zoo.weights.llm import plan_llm

def memory(line):
    status = Path("/proc/self/status").read_text()
    return int(status.split(line + ":")[1].split()[0]) * 1024

folder, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
before = memory("VmRSS")
llm = plan_llm(folder).fill(dtype)
total = sum(float(value.sum(dtype=torch.float64)) for value in llm.parameters())  # every page is touched
model = sum(value.nbytes for value in llm.parameters())
shard = max(path.stat().st_size for path in folder.iterdir())
print(json.dumps({"before": before, "peak": memory("VmHWM"), "model": model, "shard": shard, "total": total}))
"""


def run(code: str, *arguments: object) -> str:
    """What a fresh Python process prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module", params=["bin", "safetensors", "old"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A synthetic LLaMA of 1.0 GB in float32, four shards of 200 to 300 MB; `old` is the format before torch 1.6."""
    folder = tmp_path_factory.mktemp("synthetic") / request.param
    run(BUILD, request.param, folder)
    yield folder
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures by /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory_is_one_shard_and_the_model(folder: Path, dtype: str) -> None:
    figures = json.loads(run(LOAD, folder, dtype))
    rise, need = figures["peak"] - figures["before"], figures["shard"] + figures["model"]
    mega = {key: round(value / 1e6) for key, value in {**figures, "rise": rise}.items() if key != "total"}
    print(f"{folder.name} -> {dtype}: {mega} MB, rise / (shard + model) = {rise / need:.2f}")
    assert figures["model"] > (0.9e9 if dtype == "float32" else 0.45e9)
    assert figures["model"] <= rise <= LIMIT * need
