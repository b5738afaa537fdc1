"""Which LLM a folder holds, and whether a model's files belong together, is told from headers and small JSON files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from support.golden import golden_root
from support.real_keys import LLMS, write_llm

from model_zoo.weights.catalogue import PUBLISHED
from model_zoo.weights.headers import merged_headers, read_headers
from model_zoo.weights.index import shard_paths
from model_zoo.weights.structure import NOTE, OK, WRONG, check_structure, llm_findings, structure_findings
from model_zoo.weights.vicuna import PAD, LLMFingerprint, read_llm_fingerprint, vicuna_version

LLM = "model_weights/vicuna-7b-v0"
LAST = "model_weights/prerained_minigpt4_7b.pth"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A writable copy of the tiny MiniGPT-4 files."""
    root = golden_root()
    if root is None or not (root / "minigpt4" / "weights").is_dir():
        pytest.skip("no golden MiniGPT-4 weights here")
    shutil.copytree(root / "minigpt4" / "weights", tmp_path / "weights")
    for path in [tmp_path / "weights", *(tmp_path / "weights").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "weights"


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def make_v11(folder: Path) -> None:
    """Turn a Vicuna v0 folder into what v1.1 looks like: one row less, no added token."""
    (folder / "added_tokens.json").unlink()
    rows = json.loads((folder / "config.json").read_text())["vocab_size"] - 1
    edit_config(folder, vocab_size=rows)
    for path in folder.glob("*.bin"):
        tensors = torch.load(path, weights_only=True)
        for key in ("model.embed_tokens.weight", "lm_head.weight"):
            if key in tensors:
                tensors[key] = tensors[key][:rows].clone()
        torch.save(tensors, path)


def test_headers_hold_names_shapes_and_dtypes_and_no_data(weights: Path) -> None:
    headers = read_headers(weights / LAST)
    tensors = torch.load(weights / LAST, weights_only=True)["model"]
    assert {k: (v.shape, v.dtype) for k, v in headers.items()} == {k: (v.shape, v.dtype) for k, v in tensors.items()}
    assert all(value.is_meta for value in headers.values())


def test_headers_of_safetensors_equal_those_of_the_same_pickle(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(4, dtype=torch.int64)}
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.bin")
    one, other = (read_headers(tmp_path / name) for name in ("x.safetensors", "x.bin"))
    assert {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in other.items()}


def test_only_the_shards_of_the_named_keys_are_opened(weights: Path) -> None:
    folder = weights / LLM
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text())["weight_map"]
    key = "model.embed_tokens.weight"
    for path in folder.glob("*.bin"):
        if path.name != index[key]:
            path.write_bytes(b"not a checkpoint")
    assert key in merged_headers(shard_paths(folder, key))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("opt", "decoder.embed_tokens.weight"),
        ("opt", "model.decoder.embed_tokens.weight"),
        ("t5", "shared.weight"),
        ("t5", "encoder.embed_tokens.weight"),
        ("llama", "model.embed_tokens.weight"),
    ],
)
def test_the_embedding_is_found_by_every_name_published_folders_use(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    torch.save({name: torch.zeros(70, 4)}, tmp_path / "pytorch_model.bin")
    found = read_llm_fingerprint(tmp_path)
    assert (found.rows, found.head_rows) == (70, 70)


def test_a_padded_vocabulary_is_v0_and_a_plain_one_v1_1(weights: Path) -> None:
    found = read_llm_fingerprint(weights / LLM)
    assert found.rows == found.pieces + 1 and PAD in found.added
    assert vicuna_version(found)[0] == "v0"
    make_v11(weights / LLM)
    assert vicuna_version(read_llm_fingerprint(weights / LLM))[0] == "v1.1"


def test_v1_1_given_to_a_v0_model_is_refused_with_the_way_out(weights: Path) -> None:
    make_v11(weights / LLM)
    with pytest.raises(ValueError) as caught:
        check_structure("minigpt4", weights)
    message = str(caught.value)
    for part in ("looks like Vicuna v1.1", "trained with Vicuna v0", "Recognised by", "vicuna-7b-delta-v0"):
        assert part in message


def test_v0_given_to_a_v1_1_model_is_refused_with_the_way_out(weights: Path) -> None:
    findings, _ = llm_findings(PUBLISHED["instructblip"], weights / LLM)
    text = " ".join(found.text for found in findings if found.state == WRONG)
    assert re.search(r"looks like Vicuna v0, .* trained with Vicuna v1.1.*vicuna-7b-delta-v1.1", text)


def test_rows_of_v0_without_its_added_token_are_neither(weights: Path) -> None:
    (weights / LLM / "added_tokens.json").unlink()
    with pytest.raises(ValueError, match=r"neither Vicuna v0 nor v1\.1.*not in added_tokens\.json"):
        check_structure("minigpt4", weights)


@pytest.mark.parametrize(
    ("width", "context", "rows", "version"),
    [
        (4096, 4096, 32000, "v1.5"),
        (5120, 4096, 32000, "v1.5"),
        (4096, 2048, 32000, "v1.1"),
        (4096, None, 32000, "v1.1"),
        (96, 4096, 32000, "v1.1"),
        (4096, 2048, 32001, "unknown"),
    ],
)
def test_llama_2_is_told_by_its_context_length_at_its_published_widths(width, context, rows, version) -> None:
    found = LLMFingerprint("llama", width, 32, rows, context, rows, rows, 32000, {}, {})
    assert vicuna_version(found)[0] == version


@pytest.mark.parametrize("kind", ["t5", "opt", "gpt2"])
def test_an_llm_of_another_architecture_is_refused_by_its_config(weights: Path, kind: str) -> None:
    edit_config(weights / LLM, model_type=kind)
    with pytest.raises(ValueError, match=f"config.json describes a {kind} LLM. Expected llama"):
        check_structure("minigpt4", weights)


def test_an_llm_of_another_width_does_not_fit_the_projection(weights: Path) -> None:
    edit_config(weights / LLM, hidden_size=112)
    with pytest.raises(ValueError, match=r"llama_proj leads to width \d+, the LLM in .* has width 112"):
        check_structure("minigpt4", weights)


def test_a_tokenizer_larger_than_the_embedding_is_refused(weights: Path) -> None:
    make_v11(weights / LLM)
    rows = json.loads((weights / LLM / "config.json").read_text())["vocab_size"]
    (weights / LLM / "added_tokens.json").write_text(json.dumps({"<extra>": rows}))
    with pytest.raises(ValueError, match=f"has {rows + 1} entries, more than the {rows} embedding rows"):
        check_structure("minigpt4", weights)


def test_a_q_former_for_another_vision_tower_is_refused(weights: Path) -> None:
    path = weights / "hub/checkpoints/blip2_pretrained_flant5xxl.pth"
    content = torch.load(path, weights_only=True)
    key = "Qformer.bert.encoder.layer.0.crossattention.self.key.weight"
    content["model"][key] = torch.zeros(content["model"][key].shape[0], 40)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"reads a vision tower of width 40, but hub/.* has width"):
        check_structure("minigpt4", weights)


def test_the_q_former_of_flan_t5_xl_is_told_from_that_of_xxl_at_published_width() -> None:
    from model_zoo.weights.structure import _same_shape_other_training

    known, xl = PUBLISHED["minigpt4"], {"t5_proj.weight": torch.empty(2048, 768, device="meta")}
    (found,) = _same_shape_other_training(known, xl, 768)
    assert found.state == WRONG and "2048" in found.text and "4096" in found.text
    assert _same_shape_other_training(known, {"t5_proj.weight": torch.empty(4096, 768, device="meta")}, 768) == []


def test_the_published_layouts_of_every_golden_folder_pass() -> None:
    root, aliases = golden_root(), {"blip2_t5": "blip2"}
    folders = [path for path in sorted(root.iterdir()) if (path / "weights").is_dir()] if root else []
    for folder in folders:
        findings = structure_findings(aliases.get(folder.name, folder.name), folder / "weights")
        assert {found.state for found in findings} <= {OK, NOTE}, folder.name
        assert findings


@pytest.mark.parametrize("path", LLMS)
def test_the_embedding_is_found_under_its_published_name(path: str, tmp_path: Path) -> None:
    """OPT's hub folders hold the base model only, without `model.` in front and without the tied head."""
    write_llm(tmp_path, LLMS[path])
    found = read_llm_fingerprint(tmp_path)
    assert (found.rows, found.head_rows) == (LLMS[path]["vocab_size"],) * 2
