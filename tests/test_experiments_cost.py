"""A transferred prompt against tuned weights: what learns, what stays, what is stored, and sums that add up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.saved_bytes import SavedBytes
from support.tiny_models import ANSWERS, CANDIDATES, QUESTIONS, tiny_images, tiny_mllm

from experiments import cost
from experiments.costing import ways
from experiments.costing.measure import Rows
from experiments.costing.plan import Shapes, plan_entries
from experiments.costing.summary import summarise
from experiments.costing.table import amount, cost_markdown, plan_markdown, size
from experiments.costing.tuning import load_own, open_, read_weights_, update_, write_weights
from experiments.costing.ways import TUNED, learned_shapes, lora_layers, stored_bytes
from experiments.kept import RESULTS
from experiments.recipes import load_experiment
from lightning_modules.evaluation import ModelSpec
from lightning_modules.metrics import Scores
from lightning_modules.optim import build_optimizer
from model_zoo.memory.activations import kept_bytes
from model_zoo.memory.sizes import Workload, sizes_of

LLMS = ("llava", "blip2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("blip2_opt", "visualglm")))
"""A model of each kind of language model: LLaMA, T5, OPT, ChatGLM."""
BATCH = SimpleNamespace(images=tiny_images(), questions=QUESTIONS, answers=ANSWERS, ids=["0", "1", "2"])
MEASURED = ("seconds", "process_seconds", "search_process_seconds", "peak_bytes")


def scores_of(mllm) -> torch.Tensor:
    with torch.inference_mode():
        return mllm.score(BATCH.images, QUESTIONS, CANDIDATES)


def opened(name: str, way: str, seed: int = 3):
    mllm = tiny_mllm(name)
    return mllm, open_(mllm, way, rank=2, alpha=4, seed=seed)


def train_(mllm, learned, updates: int = 2) -> float:
    optimizer = build_optimizer("adam", learned.values(), lr=1e-2)
    return [update_(mllm, learned, BATCH, optimizer) for _ in range(updates)][-1]


# ---- what learns -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", LLMS)
def test_lora_changes_no_score_until_it_has_learned_and_then_nothing_but_itself(name: str) -> None:
    plain = tiny_mllm(name)
    before, weights = scores_of(plain), list(plain.named_parameters())
    mllm, learned = opened(name, "lora")
    assert torch.equal(scores_of(mllm), before)
    train_(mllm, learned)
    assert not torch.equal(scores_of(mllm), before)
    after = {key.replace(".base_layer", ""): value for key, value in mllm.named_parameters() if ".lora_" not in key}
    assert all(torch.equal(after[key], value) for key, value in weights)
    assert len(after) == len(weights) and all(".lora_" in key for key in learned)
    # It lies on every linear layer of the language model but its head.
    linear = [n for n, m in plain.llm.named_modules() if type(m) is torch.nn.Linear and not n.endswith("lm_head")]
    assert [n for n, _ in lora_layers(plain)] == [f"llm.{n}" for n in linear] and 2 * len(linear) == len(learned) > 12


@pytest.mark.parametrize("way", TUNED)
def test_only_what_a_way_learns_changes(way: str) -> None:
    mllm, learned = opened("minigpt4", way)
    before = {key: value.detach().clone() for key, value in mllm.named_parameters()}
    train_(mllm, learned)
    moved = {key for key, value in mllm.named_parameters() if not torch.equal(value, before[key])}
    assert moved and moved <= set(learned)
    if way == "connector":
        assert all(key.startswith("connector.") and "vision.e" not in key for key in learned)
    if way == "full":
        assert set(learned) == set(before)


def test_the_same_seed_starts_lora_alike_and_leaves_the_global_draws_alone() -> None:
    models = [tiny_mllm("llava") for _ in range(3)]
    state = torch.get_rng_state()
    first, second, other = (
        open_(mllm, "lora", rank=2, alpha=4, seed=seed) for mllm, seed in zip(models, (3, 3, 4), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


def test_a_model_that_is_tuned_leaves_other_holders_of_its_weights_as_they_are() -> None:
    spec = ModelSpec("embedded_llava", "heldout")
    held = spec.load("cpu")
    before = [parameter.clone() for parameter in held.parameters()]
    mllm = load_own(spec)
    learned = open_(mllm, "full", rank=1, alpha=1, seed=0)
    train_(mllm, learned, 1)
    later = spec.load("cpu")
    for kept, first, again, own in zip(before, held.parameters(), later.parameters(), mllm.parameters(), strict=True):
        assert torch.equal(first, kept) and again.data_ptr() == first.data_ptr() != own.data_ptr()
        assert not first.requires_grad
    assert any(not torch.equal(kept, own) for kept, own in zip(before, mllm.parameters(), strict=True))


def test_without_peft_one_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[cost\]".*ways=prompt,connector,full'):
        opened("llava", "lora")


# ---- what is stored and planned --------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", TUNED)
def test_stored_weights_come_back_and_their_bytes_follow_from_shapes(way: str, tmp_path: Path) -> None:
    mllm, learned = opened("blip2", way)
    train_(mllm, learned)
    write_weights(tmp_path / "a" / "weights.safetensors", learned)
    path = tmp_path / "a" / "weights.safetensors"
    other = tiny_mllm("blip2")
    shapes = learned_shapes(other, way, 2)
    assert stored_bytes(shapes, "float32", 4) == path.stat().st_size
    assert {key: tuple(value.shape) for key, value in load_file(path).items()} == shapes
    places = open_(other, way, rank=2, alpha=4, seed=9)
    read_weights_(path, places)
    assert torch.equal(scores_of(other), scores_of(mllm))


@pytest.mark.parametrize("name", ["minigpt4", "bliva", *LLMS[1:]])
def test_a_plan_counts_what_a_real_model_learns(name: str) -> None:
    mllm = tiny_mllm(name)
    planned = Shapes(sizes_of(mllm))
    for way in TUNED:
        assert learned_shapes(planned, way, 2) == learned_shapes(mllm, way, 2), way
    for way in ("full", "connector", "lora"):  # the same model opened anew; LoRA last, as it stays
        shapes = {key: tuple(p.shape) for key, p in open_(mllm, way, rank=2, alpha=4, seed=0).items()}
        assert shapes == learned_shapes(planned, way, 2), way


@pytest.mark.parametrize(("way", "tolerance"), [("full", 0.02), ("connector", 0.05), ("lora", 0.1)])
def test_a_plan_knows_what_autograd_keeps_of_what_learns(way: str, tolerance: float) -> None:
    mllm, answers, images = tiny_mllm("minigpt4"), [ANSWERS[1]] * 3, tiny_images()
    longest = max(len(mllm.prefix_ids(question, 0, ranking=False)) for question in QUESTIONS)
    load = Workload(longest, int(mllm.answer_token_counts(QUESTIONS, answers).max()))
    planned = kept_bytes(sizes_of(mllm), 3, "float32", load=load, learned=way)
    planned -= 0 if way == "full" else images.nbytes  # frames are held, but not by autograd
    open_(mllm, way, rank=1, alpha=1, seed=0)
    with SavedBytes(mllm) as saved:
        mllm.answer_loss(images, QUESTIONS, answers)
    assert planned == pytest.approx(saved.total, rel=tolerance)


@pytest.mark.slow
def test_the_committed_plan_is_what_shapes_say() -> None:
    kept = json.loads((RESULTS / "cost_plan.json").read_text())
    asked = kept["asked"]
    found = plan_entries(load_experiment([("exp", asked["exp"])]), asked["mllm"], tuple(ways.WAYS), asked["rank"])
    assert found["asked"] | {"device": asked["device"]} == asked
    if found["asked"]["device"] == asked["device"]:
        assert found == kept


# ---- sums ------------------------------------------------------------------------------------------------------------
def fake_rows(right: dict[tuple[str, str], int]) -> tuple[list[dict], dict]:
    """Rows of two models with one seed; right: (way, model) -> how many of ten pictures it gets right."""
    records = {}
    for key, hits in right.items():
        table = np.zeros((10, 2), np.float32)
        table[hits:, 1] = 1
        records[key] = Scores([f"{i:02d}" for i in range(10)], np.zeros(10, np.int64), table, [""] * 10)
    common = {"seed": 0, "metric": "top1", "n": 10, "lr": 1.0, "step": 5, "updates": 5, "seconds": 4.0}
    rows = [{"way": "learned", "seed": 0}, {"trial": "full", "mllm": "a", "seed": 0}]
    for way, mllm in right:
        if way != "plain":
            cost_of = {"parameters": 7, "bytes": 70, "process_seconds": 3.0, "peak_bytes": 100 if mllm == "a" else 200}
            rows.append({"way": way, "mllm": mllm, "role": "source" if mllm == "a" else "heldout"} | common | cost_of)
    return rows, records


def test_a_prompt_is_paid_once_and_tuning_for_each_model() -> None:
    right = {("plain", "a"): 4, ("plain", "b"): 4, ("prompt", "a"): 8, ("prompt", "b"): 3}
    rows, records = fake_rows(right | {("full", "a"): 9, ("full", "b"): 7})
    found = summarise(rows, lambda way, name, seed: records[way, name])
    of = {(entry["models"], entry["way"]): entry for entry in found["by_n"]}
    for n in (1, 2):
        assert [of[n, "prompt"][key] for key in ("parameters", "bytes", "process_seconds")] == [7, 70, 3.0]
        assert [of[n, "full"][key] for key in ("parameters", "bytes", "process_seconds")] == [7 * n, 70 * n, 3.0 * n]
    assert [of[n, "full"]["peak_bytes"] for n in (1, 2)] == [100, 200]
    assert [round(of[n, "prompt"]["gain"]["value"], 6) for n in (1, 2)] == [0.4, 0.15]
    assert [round(of[n, "full"]["gain"]["value"], 6) for n in (1, 2)] == [0.5, 0.4]
    assert [round(entry["gain"]["value"], 6) for entry in found["others"]] == [-0.1, 0.3]
    text = cost_markdown(found)
    assert "| 2 | 7 / 14 | 70 B / 140 B | 3 / 6 |" in text and "a (the prompt's source) | 40.0 | +40.0" in text


def test_amounts_read_as_people_write_them() -> None:
    assert [amount(n) for n in (7, 69840, 7.83e9)] == ["7", "69.8 k", "7.83 G"]
    assert [size(n) for n in (70, 34567)] == ["70 B", "34.6 kB"]


def test_the_committed_plan_reads_as_a_table() -> None:
    text = plan_markdown(json.loads((RESULTS / "cost_plan.json").read_text()))
    assert "| minigpt4 | 20 M" in text and "| 6 | 69.8 k / 112 M" in text


# ---- the command -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ways=prompt,lore", "Did you mean 'lora'"),
        ("ways=lora", "lacks prompt"),
        ("rank=0", "Expected rank >= 1"),
        ("lr_full=0", "Expected lr_full above 0"),
        ("seeds=1,1", "each once"),
        ("seed=1", "decided by the comparison"),
        ("data.n_test=0", "leaves test unread"),
        ("exp=smoke", "Missing out=DIR"),
    ],
)
def test_words_without_a_meaning_are_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost.main([word])


def test_models_without_published_shapes_have_no_plan() -> None:
    with pytest.raises(ValueError, match="'embedded_llava' has no plan"):
        cost.main(["exp=smoke", "plan=true", "mllm=embedded_llava", "ways=prompt,lora"])


def stable(out: Path) -> list[dict]:
    """Rows without what a clock and a machine say, in the order of their names."""
    rows = Rows(out / "cost.jsonl").read()
    plain = [{key: value for key, value in row.items() if key not in (*MEASURED, "bytes")} for row in rows]
    return sorted(plain, key=lambda row: json.dumps(row, sort_keys=True))


@pytest.mark.slow
def test_a_comparison_that_was_killed_goes_on_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    words = ["exp=smoke", "mllm=embedded_llava,embedded_minigpt4", "seeds=0", "ways=prompt,lora", "lr_lora=1e-3,1e-2"]
    words += ["train.max_steps=4", f"out={tmp_path / 'out'}"]
    cost.main(words)
    whole, rows = stable(tmp_path / "out"), (tmp_path / "out" / "cost.jsonl").read_text().splitlines()
    assert len(whole) == 1 + 2 + 2 * 3 and {row.get("way", "trial") for row in whole} == {
        *("learned", "prompt", "lora", "trial")
    }
    assert not list((tmp_path / "out" / "weights").iterdir())  # kept on demand alone
    # The last model's rows are lost, one of them half written.
    (tmp_path / "out" / "cost.jsonl").write_text("\n".join([*rows[:-3], rows[-3][:40]]))
    cost.main(words)
    assert stable(tmp_path / "out") == whole
    with pytest.raises(ValueError, match=r"holds a comparison of other settings \(different: rank\)"):
        cost.main([*words, "rank=4"])
