"""Served models in the commands: targets of a run, evaluated, asked; what no server can do is refused."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from experiments.ask import main as ask
from experiments.evaluate import main as evaluate
from experiments.headroom import main as headroom
from experiments.run.folder import read_status
from experiments.statistics.sharing import NOTHING, shared
from experiments.train import main as train
from experiments.transfer_sweep import main as sweep
from lightning_modules.records import read_rows

pytest_plugins = ["support.data_server", "support.model_server"]
MODEL = "tiny/qwen3_vl"  # as support/model_server.py writes it
LOCAL, ABSENT = f"hf:{MODEL}", "served:a/b@http://127.0.0.1:1"
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


def smoke(out: Path, *words: str) -> list[str]:
    short = ("train.max_steps=2", "train.epochs=1", "data.n_train=8", "data.n_test=6", "targets.n=6")
    return ["exp=smoke", f"out={out}", *short, "targets.select=[]", "monitor=source", *words]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompt that was learned for two updates."""
    folder, before = tmp_path_factory.mktemp("runs") / "one", os.environ.get("TVP_CACHE")
    os.environ["TVP_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    train([*smoke(folder), "targets.heldout=[]", "targets.names=[]"])
    os.environ.pop("TVP_CACHE") if before is None else os.environ.update(TVP_CACHE=before)
    return folder


def found(folder: Path, **where: object) -> dict[str, float]:
    rows = [row for row in read_rows(folder / "results.jsonl") if where.items() <= row.items()]
    return {row["input"]: row["value"] for row in rows}


def test_a_run_scores_a_served_target_and_says_who_answered_how(serving, tmp_path: Path) -> None:
    server, out = serving("openai"), tmp_path / "run"
    train(smoke(out, f"targets.heldout=[{server.name}]", f"targets.names=[{server.name}]"))
    assert read_status(out)["state"] == "finished"
    rows = [row for row in read_rows(out / "results.jsonl") if row["mllm"] == server.name]
    assert {(row["server"], row["way"], row["dtype"], row["unanswered"]) for row in rows} == {
        ("unknown", "generate", "served", 0)
    }
    # a text has no order of candidates, and no features come through a server
    assert {row["metric"] for row in rows} == {"top1"} and all(math.isfinite(row["value"]) for row in rows)
    assert {row["input"] for row in rows} >= {"prompt", "png", "full", "black", "constant", "replicate"}
    assert all("server" not in row for row in read_rows(out / "results.jsonl") if row["mllm"] != server.name)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_served_model_is_evaluated_as_the_local_one_is(kind, serving, run, model_root, tmp_path) -> None:
    server = serving(kind)
    words = [f"prompt={run / 'prompt'}", f"weights={model_root}", "n=3", "controls=black", f"out={tmp_path}"]
    evaluate([*words, f"mllm={LOCAL},{server.name}"])
    for metric in ("top1", "top5"):
        own, served = (found(tmp_path, mllm=name, metric=metric) for name in (LOCAL, server.name))
        assert set(served) == {"black", "prompt", "png"} and served["png"] == own["png"]
    assert {row["way"] for row in read_rows(tmp_path / "results.jsonl") if row["mllm"] == server.name} == {
        {"vllm": "prompt_logprobs", "sglang": "input_token_logprobs"}[kind]
    }


def test_a_picture_without_an_answer_is_left_out_of_every_input_and_asked_again(
    serving, run, tmp_path, monkeypatch, capsys
) -> None:
    server = serving("openai")
    words = [f"prompt={run / 'prompt'}", "n=6", "controls=full,black", f"mllm={server.name}"]
    evaluate([*words, f"out={tmp_path / 'all'}"])
    full = next(body for _, body, _ in reversed(server.requests) if body and body["max_tokens"] == 16)
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "other"))
    server.refused = {server.mean_pixel(full)}
    evaluate([*words, f"out={tmp_path / 'some'}", "scoring=generate"])
    assert "stay unanswered" in capsys.readouterr().out
    rows = read_rows(tmp_path / "some" / "results.jsonl")
    (n,) = {row["n"] for row in rows if row["metric"] == "top1"}
    assert 0 < n < 6 and {row["unanswered"] for row in rows if row["metric"] == "top1"} == {6 - n}
    assert {row["n"] for row in rows if row["metric"] == "gen_top1"} == {n}
    server.refused = set()
    evaluate([*words, f"out={tmp_path / 'again'}"])
    assert {(r["n"], r["unanswered"]) for r in read_rows(tmp_path / "again" / "results.jsonl")} == {(6, 0)}
    for given, value in found(tmp_path / "all", metric="top1").items():
        assert found(tmp_path / "again", metric="top1")[given] == value


def test_a_served_model_is_asked_for_texts_and_for_likelihoods(serving, run, model_root, capsys) -> None:
    words = [f"prompt={run / 'prompt'}", f"image={run / 'prompt' / 'prompt.png'}", "question=what is it?"]
    words.append(f"weights={model_root}")
    name = serving("vllm").name
    ask([*words, f"mllm={name}", "max_new_tokens=4"])
    ask([*words, f"mllm={name}", "candidates=a cat,a dog"])
    said = capsys.readouterr().out
    assert "full picture" in said and "mean log-likelihood" in said and said.count("*") >= 3
    with pytest.raises(ValueError, match="gives no likelihoods"):
        ask([*words, f"mllm={serving('openai').name}", "candidates=a cat,a dog"])


def test_headroom_needs_likelihoods(serving, tmp_path) -> None:
    words = ["data=emoji_recognition", "n=4", "n_val=4", "n_probe=0", "frame=64", "pad=8"]
    with pytest.raises(ValueError, match="gives no likelihoods, and headroom"):
        headroom([*words, f"mllm={serving('openai').name}"])


def test_a_served_model_is_refused_as_a_source_before_anything_is_made(serving, tmp_path) -> None:
    name, out = serving("vllm").name, tmp_path / "run"
    with pytest.raises(ValueError, match="only scores"):
        train(smoke(out, f"source.name={name}"))
    with pytest.raises(ValueError, match="only scores"):
        sweep(["sweep=embedded_smoke", f"sources={name}", f"out={out}"])
    assert not out.exists()


def test_a_server_that_is_away_stops_a_run_before_anything_is_made(no_waiting, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"
    words = smoke(out, f"targets.heldout=[{ABSENT}]", f"targets.names=[{ABSENT}]")
    with pytest.raises(FileNotFoundError, match=f"No answer of {ABSENT}. Expected:\n.*does not answer"):
        train(words)
    assert not out.exists()
    assert train([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "it only scores" in said and "MISSING http://127.0.0.1:1 does not answer" in said


def test_nothing_is_known_of_what_a_served_model_shares() -> None:
    assert shared("embedded_llava", ABSENT) == NOTHING
