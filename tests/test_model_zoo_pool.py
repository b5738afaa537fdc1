"""The pool of weights: what models have in common is in memory once, read once, never changed, and goes with them."""

from __future__ import annotations

import gc
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import torch
from support.golden import HERE
from support.tiny_models import tiny_images
from torch import Tensor, nn

from lightning_modules.evaluation import ModelSpec
from model_zoo import layer_options
from model_zoo.embedded.config import embedded_files
from model_zoo.pool import POOL, WeightPool, sharing
from model_zoo.registry import load_clip, load_mllm
from model_zoo.weights import filling
from model_zoo.weights.convert import convert

QUESTION, ANSWERS = "What is in the picture?", ["cat", "dog", "slice of pizza"]
ON_VIT = ("embedded_minigpt4", "embedded_blip2")
GOLDEN = HERE / "data" / "golden" / "minigpt4" / "weights"


def load(name: str, **options: object):
    return ModelSpec(name, "heldout", **options).load("cpu")


def places(module: nn.Module) -> set[int]:
    """Where the weights of a module lie."""
    return {parameter.data_ptr() for parameter in module.parameters()}


def held(*models: nn.Module) -> int:
    """Bytes of the models' weights, each place once."""
    return sum({p.data_ptr(): p.numel() * p.element_size() for m in models for p in m.parameters()}.values())


def apart(*models: nn.Module) -> int:
    return sum(held(model) for model in models)


def scores(model) -> Tensor:
    images = tiny_images(2, 64)
    with torch.no_grad():
        return model.score(images, [QUESTION] * 2, ANSWERS)


def gradient(model) -> Tensor:
    """Of the answers' likelihood in the frames."""
    frames = tiny_images(2, 64).requires_grad_()
    nats, _ = model.answer_loss(frames, [QUESTION] * 2, ["cat", "dog"])
    return torch.autograd.grad(nats.sum(), frames)[0]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each file is read for its weights; headers and fingerprints are not counted."""
    count: Counter = Counter()

    def counted(path: Path, read=filling.load_tensors):
        count[path] += 1
        return read(path)

    monkeypatch.setattr(filling, "load_tensors", counted)
    monkeypatch.setattr("model_zoo.embedded.build.load_tensors", counted)
    monkeypatch.setattr("model_zoo.embedded.efficientnet.load_tensors", counted)
    return count


# ---- the embedded families ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("names", [ON_VIT, ("lite0_llava", "lite0_minigpt4"), ("web_llava", "web_llava_other")])
def test_embedded_models_on_one_tower_hold_and_read_it_once(names: tuple[str, str], reads: Counter) -> None:
    alone = [load_mllm(name) for name in names]
    reads.clear()
    models = [load(name) for name in names]
    first, second = (list(map(places, model.tower_parts())) for model in models)
    assert first == second
    assert held(*models) < apart(*models) == apart(*alone)
    files = {path for name in names for path in embedded_files(name)}
    assert {path: reads[path] for path in files} == dict.fromkeys(files, 1) and len(files) == 3


@pytest.mark.parametrize("name", [*ON_VIT, "web_visualglm", "lite0_minigpt4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shared_model_is_the_same_to_the_bit(name: str, dtype: str) -> None:
    other = load("embedded_instructblip", dtype=dtype)
    shared, alone = load(name, dtype=dtype), load_mllm(name, dtype=dtype)
    for (key, mine), (same, theirs) in zip(shared.state_dict().items(), alone.state_dict().items(), strict=True):
        assert key == same and torch.equal(mine, theirs) and mine.stride() == theirs.stride()
    assert [key for key, _ in shared.named_parameters()] == [key for key, _ in alone.named_parameters()]  # ties
    assert torch.equal(scores(shared), scores(alone))
    assert torch.equal(gradient(shared), gradient(alone)) and gradient(alone).abs().max() > 0
    del other


def test_without_sharing_nothing_is_shared() -> None:
    assert not places(load_mllm(ON_VIT[0])) & places(load_mllm(ON_VIT[1]))


def test_clip_is_held_once() -> None:
    with sharing() as pool:
        one, two = (pool.place_(load_clip("embedded")) for _ in range(2))
    assert places(one) == places(two)


# ---- immutable ------------------------------------------------------------------------------------------------------
def test_moving_or_casting_a_model_leaves_the_others_weights() -> None:
    moved, other = map(load, ON_VIT)
    before = scores(other)
    moved.to(torch.float64)
    assert {p.dtype for p in other.parameters()} == {torch.float32} and not places(moved) & places(other)
    moved.to("meta")
    assert torch.equal(scores(other), before)


def test_another_dtype_is_another_entry() -> None:
    whole, half = load(ON_VIT[0]), load(ON_VIT[1], dtype="bfloat16")
    assert not places(whole) & places(half)
    assert {entry.tensor.dtype for entry in POOL.entries() if entry.tensor is not None} >= {
        torch.float32,
        torch.bfloat16,
    }


def test_what_is_done_to_the_layers_of_one_model_is_not_done_to_another() -> None:
    plain, options = load("embedded_minigpt4"), [{"checkpointing": True}, {"compile": True}]
    for option in options:
        other = load("embedded_minigpt4", **option)
        assert places(other) == places(plain)
        assert all("forward" in vars(layer) for layer in layer_options.stacked_layers(other))
        assert not any("forward" in vars(layer) for layer in layer_options.stacked_layers(plain))


def bits(model) -> tuple[list[Tensor], Tensor, Tensor]:
    """Copies of all weights, scores, and the gradient in the frames."""
    return [parameter.detach().clone() for parameter in model.parameters()], scores(model), gradient(model)


CHANGES = {
    "checkpointed": layer_options.checkpoint_layers_,
    "compiled": layer_options.compile_layers_,
    "quantised": lambda model: layer_options.quantise_(model, "8bit"),
    "cast to bfloat16": lambda model: model.to(torch.bfloat16),
    "cast to float64": lambda model: model.to(torch.float64),
    "moved": lambda model: model.to("meta"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_to_one_holder_leaves_weights_scores_and_gradients_of_the_other(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_options, "require_compiler", lambda: None)
    monkeypatch.setattr(layer_options, "_compiled", lambda kind: kind.forward)
    monkeypatch.setattr(layer_options, "_quantised", lambda modules, layer, kind: layer.to(torch.bfloat16))
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", type("fake", (), {"nn": None}))
    changed, other = load("embedded_minigpt4"), load("embedded_minigpt4")
    weights, *before = bits(other)
    assert places(changed) == places(other)
    CHANGES[change](changed)
    if change in ("checkpointed", "compiled"):  # computes the same, in its own way
        assert all(map(torch.equal, bits(changed)[1:], before)) and places(changed) == places(other)
    again, *after = bits(other)
    assert all(map(torch.equal, (*again, *after), (*weights, *before))) and after[1].abs().max() > 0


def test_quantised_layers_are_another_model_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = load("embedded_minigpt4"), load("embedded_minigpt4")
    monkeypatch.setattr(layer_options, "_quantised", lambda modules, layer, kind: nn.Identity())
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", type("fake", (), {"nn": None}))
    before = scores(plain)
    layer_options.quantise_(other, "8bit")
    assert any(isinstance(module, nn.Identity) for module in other.llm.modules())
    assert torch.equal(scores(plain), before)


def test_a_weight_that_learns_is_never_shared() -> None:
    learns, pool = nn.Linear(3, 3), WeightPool()
    pool.place_(learns)
    assert pool.entries() == []


def test_only_equal_bits_are_one() -> None:
    pool = WeightPool()
    one, close = torch.zeros(1000), torch.zeros(1000)
    close[777] = -0.0  # equal as a number, and not one of the sampled
    assert pool.once(one).data_ptr() == pool.once(one.clone()).data_ptr() == one.data_ptr()
    assert pool.once(close).data_ptr() == close.data_ptr()
    assert pool.once(one.view(10, 100)).shape == (10, 100)
    columns = torch.arange(6.0).view(2, 3).t()
    assert pool.once(columns) is columns  # not dense: left alone


# ---- what nothing holds ---------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_after_five_loads_and_unloads_nothing_is_left() -> None:
    names = (*ON_VIT, "embedded_llava", "web_visualglm", "lite0_llava", "lite0_minigpt4")
    gc.collect()
    start = POOL.bytes
    for _ in range(5):
        models = [load(name) for name in names]
        entries = [entry for entry in POOL.entries() if entry.bytes]
        assert POOL.bytes - start >= held(models[0])
        del models
        gc.collect()
        assert POOL.bytes == start
        assert start or all(entry.tensor is None for entry in entries)


def test_a_part_lives_as_long_as_one_model_holds_it() -> None:
    first, second = map(load, ON_VIT)
    tower = [p.detach().clone() for part in second.tower_parts() for p in part.parameters()]
    del first
    gc.collect()
    assert all(map(torch.equal, tower, (p for part in second.tower_parts() for p in part.parameters())))


def test_what_is_gone_is_read_again(reads: Counter) -> None:
    file = embedded_files("web_llava_cnn2")[1]
    for n in (1, 2):
        model = load("web_llava_cnn2")
        assert reads[file] == n
        del model
        gc.collect()


def test_a_changed_file_is_read_again(tmp_path: Path, reads: Counter) -> None:
    from safetensors.torch import load_file, save_file

    from model_zoo.embedded.build import load_embedded

    for path in embedded_files("embedded_llava"):
        shutil.copyfile(path, tmp_path / path.name)
    with sharing():
        first = load_embedded("embedded_llava", folder=tmp_path)
        own = tmp_path / "embedded_llava.safetensors"
        save_file({key: value + 1 for key, value in load_file(own).items()}, own)
        second = load_embedded("embedded_llava", folder=tmp_path)
    assert reads[own] == 2 and not torch.equal(first.llm.lm_head.weight, second.llm.lm_head.weight)


# ---- threads --------------------------------------------------------------------------------------------------------
def test_a_thread_that_loads_what_another_is_loading_waits_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    count: Counter = Counter()

    def slowly(path: Path, read=filling.load_tensors):
        count[path.name] += 1
        time.sleep(0.05)
        return read(path)

    monkeypatch.setattr("model_zoo.embedded.build.load_tensors", slowly)
    with ThreadPoolExecutor(2) as threads:
        one, two = threads.map(load, ON_VIT)
    assert set(count.values()) == {1} and len(count) == 3
    assert places(one.tower_parts()[0]) == places(two.tower_parts()[0])


def test_what_one_thread_shares_another_that_asks_for_nothing_shared_keeps_apart() -> None:
    first, inside, done = load(ON_VIT[0]), Event(), Event()

    def share() -> None:
        with sharing():
            inside.set()
            done.wait(10)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(share)
        inside.wait(10)
        alone = load_mllm(ON_VIT[0])
        done.set()
    assert not places(alone) & places(first)


def test_scores_stay_the_same_bits_while_another_thread_loads_and_drops_models() -> None:
    model = load("embedded_minigpt4")
    before = scores(model)

    def load_others() -> None:
        for name in ("embedded_blip2", "embedded_llava", "embedded_blip2"):
            load(name, dtype="bfloat16" if name == "embedded_llava" else "float32")
            POOL.entries()

    with ThreadPoolExecutor(1) as threads:
        others = threads.submit(load_others)
        while not others.done():
            assert torch.equal(scores(model), before)
        others.result()


# ---- published models -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Original files of MiniGPT-4 and of a VPGTrans with the same tower and LLM: the published pattern, tiny."""
    weights = tmp_path_factory.mktemp("weights") / "weights"
    shutil.copytree(GOLDEN, weights)
    shutil.copyfile(GOLDEN.parent / "config.json", weights / "config.json")
    former, ends = (
        torch.load(weights / path, weights_only=True)["model"]
        for path in ("hub/checkpoints/blip2_pretrained_flant5xxl.pth", "model_weights/prerained_minigpt4_7b.pth")
    )
    both = {key: value + 0.01 for key, value in (former | ends).items() if not key.startswith("t5_proj.")}
    torch.save({"model": both}, weights / "hub/checkpoints/vl-vicuna.pth")
    return weights


def test_published_models_read_and_hold_tower_and_llm_once(root: Path, reads: Counter) -> None:
    one, two = (load(name, weights=str(root)) for name in ("minigpt4", "vpgtrans"))
    assert places(one.llm) == places(two.llm)
    for mine, theirs in zip(one.tower_parts(), two.tower_parts(), strict=True):
        assert places(mine) == places(theirs)
    assert not places(one.connector.projection) & places(two.connector.projection)
    # The layer norm after the tower comes with the Q-Former.
    assert not places(one.connector.vision.post_layernorm) & places(two.connector.vision.post_layernorm)
    assert set(reads.values()) == {1} and len(reads) == 7
    for model in (one, two):
        alone = load_mllm(model.name, weights=root)
        assert torch.equal(scores(model), scores(alone))


def test_converted_folders_of_models_with_one_tower_hold_it_once(root: Path, tmp_path: Path) -> None:
    names = ("minigpt4", "vpgtrans")
    for name in names:
        convert(name, root, tmp_path / name)
    one, two = (load(name, weights=str(tmp_path)) for name in names)
    assert places(one.llm) == places(two.llm) and places(one.tower_parts()[1]) == places(two.tower_parts()[1])


def test_an_extra_row_of_the_vocabulary_is_no_one_else_s(root: Path) -> None:
    plain = load("minigpt4", weights=str(root))
    width = plain.llm.config.hidden_size
    grown = load("minigpt4", weights=str(root), options={"extra_rows": (torch.ones(1, width), torch.ones(1, width))})
    assert len(grown.llm.lm_head.weight) == len(plain.llm.lm_head.weight) + 1
    assert places(grown.llm.model.layers) == places(plain.llm.model.layers)


# ---- models of the hub ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of one family whose towers are the same and whose language models are not."""
    from safetensors.torch import load_file, save_file

    from model_zoo.hf.tiny.write import write_tiny

    root = tmp_path_factory.mktemp("hub")
    write_tiny("llava", root / "tiny" / "one")
    shutil.copytree(root / "tiny" / "one", root / "tiny" / "two")
    (file,) = (root / "tiny" / "two").glob("*.safetensors")
    grown = {key: value if "vision" in key else value + 0.01 for key, value in load_file(file).items()}
    save_file(grown, file, metadata={"format": "pt"})
    return root


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_hub_folders_with_one_tower_hold_it_once_and_score_as_apart(hub: Path, dtype: str) -> None:
    names = ("hf:tiny/one", "hf:tiny/two")
    alone = [load_mllm(name, weights=hub, dtype=dtype) for name in names]
    shared = [load(name, weights=str(hub), dtype=dtype) for name in names]
    towers = [{n: p.data_ptr() for n, p in m.named_parameters() if "vision_tower" in n} for m in shared]
    assert towers[0] == towers[1] and len(towers[0]) > 10
    assert held(*shared) == apart(*shared) - held(shared[0].model.model.vision_tower)
    assert not places(shared[0].llm) & places(shared[1].llm) and held(*alone) == apart(*alone)
    results = [[(m.score(tiny_images(2, 28), [QUESTION] * 2, ANSWERS)) for m in each] for each in (alone, shared)]
    assert all(map(torch.equal, *results)) and not torch.equal(*results[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_weights_are_there_once_and_are_not_read_again(reads: Counter) -> None:
    before = torch.cuda.memory_allocated()
    models = [ModelSpec(name, "heldout").load("cuda") for name in ON_VIT]
    assert places(models[0].tower_parts()[1]) == places(models[1].tower_parts()[1])
    assert reads[embedded_files(ON_VIT[0])[0]] == 1
    assert torch.cuda.memory_allocated() - before < 0.9 * apart(*models)
