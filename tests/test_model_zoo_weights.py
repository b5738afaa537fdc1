"""Loading: everything missing is listed at once, damage and code are refused, wrong keys are named."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from support.golden import golden_root

from model_zoo.registry import get_entry, load_mllm, missing_files, weight_files
from model_zoo.weights import filling
from model_zoo.weights.eva import convert_eva
from model_zoo.weights.headers import read_headers
from model_zoo.weights.index import shard_names, shard_paths
from model_zoo.weights.llm import load_tokenizer, plan_llm
from model_zoo.weights.safe import as_dtype, load_tensors

QFORMER = "hub/checkpoints/blip2_pretrained_flant5xxl.pth"
PROJECTION = "model_weights/prerained_minigpt4_7b.pth"
LLM = "model_weights/vicuna-7b-v0"


@pytest.fixture(scope="module")
def original() -> Path:
    root = golden_root()
    if root is None or not (root / "minigpt4" / "weights").is_dir():
        pytest.skip("no golden MiniGPT-4 weights here")
    return root / "minigpt4"


@pytest.fixture
def weights(original: Path, tmp_path: Path) -> Path:
    """A writable copy of the tiny MiniGPT-4 checkpoint files."""
    target = tmp_path / "weights"
    shutil.copytree(original / "weights", target)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


@pytest.fixture(scope="module")
def heads(original: Path) -> dict[str, int]:
    config = json.loads((original / "config.json").read_text())
    return {"vision_heads": config["vision"]["heads"], "qformer_heads": config["qformer"]["num_attention_heads"]}


def rewrite(path: Path, change) -> None:
    """Load a checkpoint, let `change` edit its tensors, save it again."""
    content = torch.load(path, weights_only=True)
    change(content.get("model", content))
    torch.save(content, path)


def test_all_missing_files_are_listed_in_one_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_mllm("minigpt4", weights=tmp_path)
    message = str(caught.value)
    for item in get_entry("minigpt4").files:
        assert item.path in message and item.what in message and item.source in message
    assert "See docs/models.md." in message


def test_missing_shards_are_listed_by_name(weights: Path) -> None:
    shards = shard_names(weights / LLM)
    assert len(shards) > 1
    for name in shards[:2]:
        (weights / LLM / name).unlink()
    lines = missing_files("minigpt4", weights)
    assert [line.split(":")[0] for line in lines] == [f"{LLM}/{name}" for name in shards[:2]]


def test_weight_files_are_the_tensor_files(weights: Path) -> None:
    files = weight_files("minigpt4", weights)
    assert {path.suffix for path in files} == {".pth", ".bin"}
    assert len(files) == 3 + len(shard_names(weights / LLM))
    assert missing_files("minigpt4", weights) == []


def test_a_truncated_file_is_named(weights: Path, heads: dict) -> None:
    path = weights / QFORMER
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"blip2_pretrained_flant5xxl.pth .* is damaged or cut short"):
        load_mllm("minigpt4", weights=weights, **heads)


def test_an_empty_file_is_named(weights: Path) -> None:
    (weights / PROJECTION).write_bytes(b"")
    with pytest.raises(ValueError, match="damaged or cut short"):
        load_tensors(weights / PROJECTION)


class Malicious:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path, protocol: str) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    if protocol == "torch":
        torch.save({"model": {"a": torch.zeros(1), "b": Malicious(trace)}}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    for read in (load_tensors, read_headers):
        with pytest.raises(ValueError, match="asks to run Python code while loading, so it was refused"):
            read(path)
    assert not trace.exists()


def test_code_in_an_llm_shard_is_refused_and_does_not_run(weights: Path, heads: dict, tmp_path: Path) -> None:
    shard, trace = weights / LLM / shard_names(weights / LLM)[-1], tmp_path / "trace"
    torch.save({**torch.load(shard, weights_only=True), "evil": Malicious(trace)}, shard)
    with pytest.raises(ValueError, match=rf"{shard.name} asks to run Python code"):
        load_mllm("minigpt4", weights=weights, **heads)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_failed_download_is_recognised(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "eva.pth").write_bytes(content * 9)
    with pytest.raises(ValueError, match=r"is no checkpoint file, .* means that the download failed"):
        load_tensors(tmp_path / "eva.pth")


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_a_cut_file_of_any_format_is_named_by_the_header_already(tmp_path: Path, kind: str, part: float) -> None:
    from safetensors.torch import save_file

    tensors, path = {f"w{n}": torch.randn(64, 64) for n in range(4)}, tmp_path / f"cut.{kind}"
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    for read in (load_tensors, read_headers):
        with pytest.raises(ValueError, match=rf"cut.{kind} \(\d+ bytes\) is damaged or cut short: .*Download it again"):
            read(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pt")
    for read in (load_tensors, read_headers):
        with pytest.raises(ValueError, match="TorchScript archive: it carries code and was refused"):
            read(tmp_path / "script.pt")


def test_a_file_that_holds_no_tensors_is_named(tmp_path: Path) -> None:
    torch.save({"model": {"a": 3}}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="does not hold a flat dictionary of tensors"):
        load_tensors(tmp_path / "odd.pth")


def test_the_old_torch_format_loads(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_tensors(tmp_path / "old.pth")["a"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (PROJECTION, lambda t: t.pop("llama_proj.bias"), "missing llama_proj.bias"),
        (PROJECTION, lambda t: t.update(surprise=torch.zeros(1)), "unexpected surprise"),
        (QFORMER, lambda t: t.pop("query_tokens"), "missing query_tokens"),
        (QFORMER, lambda t: t.update({"Qformer.bert.more": torch.zeros(1)}), "unexpected more"),
        (QFORMER, lambda t: t.update({"ln_vision.bias": torch.zeros(3)}), r"misshaped post_layernorm.bias: \(3,\)"),
    ],
)
def test_wrong_keys_are_named(weights: Path, heads: dict, file: str, change, message: str) -> None:
    rewrite(weights / file, change)
    with pytest.raises(ValueError, match=message):
        load_mllm("minigpt4", weights=weights, **heads)


def rewrite_llm(folder: Path, change) -> None:
    """Put the whole LLM into one changed shard."""
    tensors = {key: value for path in shard_paths(folder) for key, value in load_tensors(path).items()}
    for path in folder.glob("pytorch_model*"):
        path.unlink()
    change(tensors)
    torch.save(tensors, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "missing model.layers.1.mlp.up_proj.weight"),
        (lambda t: t.pop("lm_head.weight"), "missing lm_head.weight"),
        (lambda t: t.update(surprise=torch.zeros(1)), "unexpected surprise"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(5)}), r"misshaped model.norm.weight: \(5,\) instead of"),
    ],
)
def test_wrong_llm_keys_are_named_before_any_weight_is_read(
    weights: Path, change, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite_llm(weights / LLM, change)
    monkeypatch.setattr(filling, "load_tensors", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(ValueError, match=message):
        plan_llm(weights / LLM).fill(torch.float32)


def test_a_wrong_llm_is_named_before_the_vision_tower_is_read(
    weights: Path, heads: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite_llm(weights / LLM, lambda t: t.pop("model.norm.weight"))
    monkeypatch.setattr(filling, "load_tensors", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(ValueError, match=r"missing model\.norm\.weight"):
        load_mllm("minigpt4", weights=weights, **heads)


@pytest.mark.parametrize("name", ["../pytorch_model-1.bin", "/etc/passwd", "sub/model.bin", "", ".."])
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="Expected plain file names in the same folder"):
        shard_paths(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_without_a_weight_map_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index.json is no index of weight shards"):
        shard_paths(tmp_path)


def test_half_a_safetensors_download_beside_a_whole_bin_copy_is_ignored(weights: Path) -> None:
    folder = weights / LLM
    names = shard_names(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert shard_names(folder) == names
    (folder / names[0]).unlink()
    assert shard_names(folder) == ["model-00001-of-00002.safetensors"]  # both are incomplete: safetensors first


@pytest.mark.parametrize("kept", ["shared", "encoder.embed_tokens", "decoder.embed_tokens"])
def test_tied_weights_are_stored_once_whichever_name_the_file_kept(tmp_path: Path, kept: str) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(golden_root() / "blip2_t5/weights/google/flan-t5-xl", folder, copy_function=shutil.copyfile)
    expected = plan_llm(folder).fill(torch.float32).state_dict()
    names = {f"{name}.weight" for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens")}
    rewrite_llm(folder, lambda t: [t.pop(name) for name in names - {f"{kept}.weight"}])
    llm = plan_llm(folder).fill(torch.float32)
    assert all(torch.equal(value, expected[key]) for key, value in llm.state_dict().items())
    assert len({llm.get_parameter(name).data_ptr() for name in names}) == 1
    assert llm.lm_head.weight.data_ptr() != llm.shared.weight.data_ptr()
    llm.tie_weights()  # transformers 5 would tie every T5's head
    assert torch.equal(llm.lm_head.weight, expected["lm_head.weight"])


def test_a_loaded_model_does_not_need_its_files(weights: Path, heads: dict) -> None:
    model = load_mllm("minigpt4", weights=weights, **heads)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for path in weight_files("minigpt4", weights):
        path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_native_weights_keep_their_dtype_and_are_frozen(weights: Path) -> None:
    rewrite_llm(weights / LLM, lambda t: t.update({key: t[key].half() for key in t if "mlp" in key}))
    llm = plan_llm(weights / LLM).fill(None)
    assert {value.dtype for key, value in llm.state_dict().items() if "mlp" in key} == {torch.float16}
    assert llm.lm_head.weight.dtype == torch.float32 and not any(value.requires_grad for value in llm.parameters())


def test_unknown_head_counts_ask_for_the_option(weights: Path) -> None:
    with pytest.raises(ValueError, match="Pass vision_heads="):
        load_mllm("minigpt4", weights=weights)


def test_a_manifest_beside_the_weights_gives_the_head_counts(weights: Path, original: Path, heads: dict) -> None:
    shutil.copy(original / "config.json", weights / "config.json")
    model = load_mllm("minigpt4", weights=weights)
    assert model.connector.vision.config.num_attention_heads == heads["vision_heads"]
    assert model.connector.qformer.config.num_attention_heads == heads["qformer_heads"]


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(ValueError, match="Unknown dtype 'int3'"):
        as_dtype("int3")


def test_loaded_weights_have_the_asked_dtype_and_are_frozen(weights: Path, heads: dict) -> None:
    model = load_mllm("minigpt4", weights=weights, dtype="bfloat16", **heads)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_safetensors_folders_load_like_bin_folders(weights: Path) -> None:
    from safetensors.torch import save_file

    folder = weights / LLM
    before = plan_llm(folder).fill(torch.float32).state_dict()
    tensors = {}
    for name in shard_names(folder):
        tensors |= load_tensors(folder / name)
    for path in folder.glob("pytorch_model*"):
        path.unlink()
    save_file(tensors, folder / "model.safetensors")
    after = plan_llm(folder).fill(torch.float32).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_an_empty_tokenizer_is_refused(weights: Path) -> None:
    (weights / LLM / "tokenizer.model").unlink()
    with pytest.raises(Exception, match=r"empty|tokenizer"):
        load_tokenizer(weights / LLM)


@pytest.mark.parametrize("name", ["minigpt4", "instructblip", "blip2_t5", "blip2_opt"])
def test_the_listed_tokenizer_files_alone_give_the_same_ids(name: str, tmp_path: Path) -> None:
    """transformers 5 guesses wrongly without tokenizer_config.json, and says nothing."""
    root, known = golden_root() / name / "weights", get_entry(name).files
    if not root.is_dir():
        pytest.skip(f"no golden {name} here")
    sources = [(item.path, item.holds) for item in known if item.holds] + [
        (Path(item.path).parent, ("vocab.txt",)) for item in known if item.path.endswith("vocab.txt")
    ]
    for folder, files in sources:
        (bare := tmp_path / folder).mkdir(parents=True)
        for file in files:
            shutil.copyfile(root / folder / file, bare / file)
        ours, whole = load_tokenizer(bare), load_tokenizer(root / folder)
        for text in ("This is a photo of a cat.", "dog\n", " two  words", "###"):
            assert ours(text, add_special_tokens=False) == whole(text, add_special_tokens=False)
        assert (ours.bos_token_id, ours.eos_token_id) == (whole.bos_token_id, whole.eos_token_id)


def test_empty_special_tokens_of_vicuna_v0_are_llamas(weights: Path) -> None:
    path = weights / LLM / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "", "eos_token": "", "unk_token": ""}))
    (weights / LLM / "special_tokens_map.json").unlink(missing_ok=True)
    tokenizer = load_tokenizer(weights / LLM)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_eva_drops_the_last_block_and_builds_the_qkv_bias() -> None:
    def block(n: int) -> dict:
        return {
            f"blocks.{n}.attn.q_bias": torch.ones(2),
            f"blocks.{n}.attn.v_bias": torch.full((2,), 3.0),
            f"blocks.{n}.norm1.weight": torch.zeros(2),
        }

    state = convert_eva({**block(0), **block(1), "norm.weight": torch.zeros(2), "cls_token": torch.zeros(1, 1, 2)})
    assert sorted(state) == [
        "embeddings.class_embedding",
        "encoder.layers.0.layer_norm1.weight",
        "encoder.layers.0.self_attn.qkv.bias",
    ]
    assert state["encoder.layers.0.self_attn.qkv.bias"].tolist() == [1, 1, 0, 0, 3, 3]
