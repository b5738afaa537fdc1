"""Models behind servers: likelihoods equal to the local model's, and what is said when a server fails.

vLLM and SGLang are a stand-in of ours, tests/support/model_server.py.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from model_zoo import load_mllm
from model_zoo.__main__ import main as zoo
from model_zoo.registry import get_entry, missing_files, model_fingerprint, require_files, server_facts
from model_zoo.served.adapter import TooManyUnansweredError
from model_zoo.served.address import address_of
from model_zoo.served.client import ServerGoneError
from model_zoo.served.contact import contact
from model_zoo.served.responses import Responses
from model_zoo.served.ways import LikelihoodMissingError, OtherModelError

pytest_plugins = ["support.data_server", "support.model_server"]
MODEL = "tiny/qwen3_vl"  # as support/model_server.py writes it
KINDS = ("vllm", "sglang")
QUESTIONS = ["what is it?", "a cat or a dog?", "what is it?"]
CANDIDATES = ["a cat", "a dog", "two big dogs", "7"]


def frames(n: int = 3) -> torch.Tensor:
    """Frames (n, 3, 64, 64) that an 8-bit PNG holds exactly."""
    return (torch.rand(n, 3, 64, 64) * 255).round() / 255


@pytest.mark.parametrize("kind", KINDS)
def test_served_scores_are_the_local_models(kind, serving, local, model_root):
    server, images = serving(kind), frames()
    model = load_mllm(server.name, weights=model_root)
    for normalize in (True, False):
        own = local.score(images, QUESTIONS, CANDIDATES, normalize=normalize)
        assert (model.score(images, QUESTIONS, CANDIDATES, normalize=normalize) - own).abs().max() < 1e-4
    own_lists = [["a cat", "a dog"], ["yes", "no", "maybe"], ["3"]]
    found, own = model.score(images, QUESTIONS, own_lists), local.score(images, QUESTIONS, own_lists)
    assert torch.equal(found.isinf(), own.isinf()) and (found - own)[own.isfinite()].abs().max() < 1e-4
    assert (
        model.score(1 - images, QUESTIONS, CANDIDATES) - model.score(images, QUESTIONS, CANDIDATES)
    ).abs().max() > 0.1


def test_a_served_model_writes_what_the_local_one_writes(serving, local, model_root):
    model, images = load_mllm(serving("openai").name, weights=model_root), frames()
    for style in ("infer", "vqa"):
        own = local.generate(images, QUESTIONS, style=style, max_new_tokens=6, num_beams=1)
        assert model.generate(images, QUESTIONS, style=style, max_new_tokens=6) == own
    with pytest.raises(ValueError, match="decodes greedily, got beams"):
        model.generate(images, QUESTIONS, num_beams=5)


def test_a_frame_is_sent_as_the_png_that_would_be_written(serving, local, model_root):
    model = load_mllm(serving("vllm").name, weights=model_root)
    images = torch.rand(2, 3, 64, 64) * 1.4 - 0.2
    shown = (images.clamp(0, 1) * 255).round() / 255
    own = local.score(shown, QUESTIONS[:2], CANDIDATES)
    assert (model.score(images, QUESTIONS[:2], CANDIDATES) - own).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "way", "server"),
    [
        ("vllm", "prompt_logprobs", "vllm 0.13.0"),
        ("sglang", "input_token_logprobs", "sglang 0.5.6"),
        ("openai", "generate", "unknown"),
    ],
)
def test_the_best_way_is_chosen_once_and_said(kind, way, server, serving, model_root, capsys):
    served = serving(kind)
    facts = server_facts(served.name, model_root)
    assert facts["way"] == way and facts["server"] == server
    assert facts["served_model"] == f"models/{MODEL}" and "8-bit" in facts["pictures"]
    assert ("only answers it writes can be read" in capsys.readouterr().out) == (kind == "openai")
    before = len(served.requests)
    load_mllm(served.name, weights=model_root)
    assert len(model_fingerprint(served.name, model_root)) == 64 and missing_files(served.name, model_root) == []
    assert len(served.requests) == before


def test_a_server_that_shows_no_likelihoods_is_not_scored(serving, model_root):
    model = load_mllm(serving("openai").name, weights=model_root)
    with pytest.raises(ValueError, match=r"gives no likelihoods, so no candidate has a score.*Expected vLLM or SGLang"):
        model.score(frames(1), QUESTIONS[:1], CANDIDATES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_answers_200_without_the_likelihoods_is_read_by_what_it_writes(kind, serving, model_root, capsys):
    server = serving(kind)
    server.always = "bare"
    assert contact(server.name, str(model_root)).way == "generate"
    assert "answers 200 without" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_that_are_missing_later_stop_the_run(kind, serving, model_root):
    server = serving(kind)
    model = load_mllm(server.name, weights=model_root)
    server.always = "bare"
    with pytest.raises(LikelihoodMissingError, match="answers 200 without"):
        model.score(frames(), QUESTIONS, CANDIDATES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [429, 500, 503, "truncated"])
def test_a_passing_fault_changes_no_score(kind, fault, serving, local, model_root):
    server, images = serving(kind), frames()
    model = load_mllm(server.name, weights=model_root)
    server.once = [fault] * 4
    own = local.score(images, QUESTIONS, CANDIDATES)
    assert (model.score(images, QUESTIONS, CANDIDATES) - own).abs().max() < 1e-4
    assert not server.once and model.unanswered == 0


def test_a_request_without_an_answer_in_time_is_asked_again(serving, local, model_root, monkeypatch):
    server, images = serving("vllm"), frames(1)
    model = load_mllm(server.name, weights=model_root)
    model.server.client.timeout = 0.5
    server.once = ["hang"]
    own = local.score(images, QUESTIONS[:1], CANDIDATES)
    assert (model.score(images, QUESTIONS[:1], CANDIDATES) - own).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_without_an_answer_is_missing_and_asked_again_later(kind, serving, local, model_root, capsys):
    server, images = serving(kind), frames()
    images[1] = 10 / 255
    model = load_mllm(server.name, weights=model_root)
    server.refused = {10}
    found, own = model.score(images, QUESTIONS, CANDIDATES), local.score(images, QUESTIONS, CANDIDATES)
    assert found[1].isnan().all() and (found - own)[[0, 2]].abs().max() < 1e-4
    assert (model.asked, model.unanswered) == (3, 1)
    said = capsys.readouterr().out
    assert "1 of 3 pictures stay unanswered" in said and "no room for this picture" in said
    server.refused, before = set(), server.posts()
    assert (model.score(images, QUESTIONS, CANDIDATES) - own).abs().max() < 1e-4
    assert server.posts() - before <= len(CANDIDATES) + 1  # the others' answers were kept


def test_a_written_answer_that_is_missing_is_no_text(serving, model_root):
    server, images = serving("openai"), frames()
    images[2] = 10 / 255
    model = load_mllm(server.name, weights=model_root)
    server.refused = {10}
    texts = model.written(images, QUESTIONS, max_new_tokens=4)
    assert texts[2] is None and all(isinstance(text, str) for text in texts[:2])
    with pytest.raises(OSError, match="left 1 of 3 pictures unanswered"):
        model.generate(images, QUESTIONS, max_new_tokens=4)
    server.refused, server.once = set(), ["null"]
    assert model.written(images, QUESTIONS, max_new_tokens=4)[2] is None


def test_too_many_pictures_without_an_answer_stop_the_run(serving, model_root, monkeypatch):
    server = serving("openai")
    model = load_mllm(server.name, weights=model_root)
    server.always = 500
    with pytest.raises(TooManyUnansweredError, match=r"6 of 6 pictures stay unanswered.*never counted as wrong.*stops"):
        model.written(frames(6), ["what is it?"] * 6)


def test_answers_are_kept_by_picture_question_and_candidates(serving, model_root):
    server, images = serving("vllm"), frames()
    first = load_mllm(server.name, weights=model_root).score(images, QUESTIONS, CANDIDATES)
    before = server.posts()
    again = load_mllm(server.name, weights=model_root)
    assert torch.equal(again.score(images, QUESTIONS, CANDIDATES), first) and server.posts() == before
    for changed in (
        (1 - images, QUESTIONS, CANDIDATES),
        (images, ["why?"] * 3, CANDIDATES),
        (images, QUESTIONS, ["a"]),
    ):
        again.score(*changed)
        assert server.posts() > before
        before = server.posts()


def test_threads_that_keep_the_answer_of_one_picture_do_not_disturb_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path))
    kept = Responses("model")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: kept.put(["answer"], picture="one"), range(400)))
    assert kept.get(picture="one") == ["answer"] and capsys.readouterr().out == ""
    assert kept.get(picture="other") is None and Responses("another").get(picture="one") is None


def test_no_more_requests_run_at_a_time_than_were_allowed(serving, model_root, monkeypatch):
    server = serving("vllm")
    monkeypatch.setenv("TVP_SERVED_REQUESTS", "3")
    load_mllm(server.name, weights=model_root).score(frames(12), ["what is it?"] * 12, ["a cat", "a dog"])
    assert 1 < server.most_at_once <= 3


def test_the_key_goes_to_the_server_and_nowhere_else(serving, model_root, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TVP_SERVED_KEY", "SECRETKEY")
    server = serving("vllm")
    model = load_mllm(server.name, weights=model_root)
    model.score(frames(), QUESTIONS, CANDIDATES)
    assert {key for _, _, key in server.requests} == {"Bearer SECRETKEY"}
    server.always = 401
    with pytest.raises(ServerGoneError, match=r"refuses with 401.*TVP_SERVED_KEY") as caught:
        model.score(1 - frames(), QUESTIONS, CANDIDATES)
    kept = "".join(path.read_text() for path in (tmp_path / "cache").rglob("*.json"))
    assert kept and "SECRETKEY" not in kept + str(caught.value) + capsys.readouterr().out
    assert "SECRETKEY" not in json.dumps(server_facts(server.name, model_root))


def test_a_server_that_is_not_there_is_said_before_anything_is_loaded(serving, model_root):
    name = f"served:{MODEL}@http://127.0.0.1:1"
    with pytest.raises(ServerGoneError, match=r"127.0.0.1:1 does not answer"):
        require_files(name, model_root)
    assert "does not answer" in missing_files(name, model_root)[0]


def test_a_model_the_server_does_not_list_is_refused_with_those_it_lists(serving, model_root):
    with pytest.raises(ServerGoneError, match=f"lists '{MODEL}' at /v1/models, not 'other'"):
        load_mllm(serving("vllm").name.replace(MODEL, "other"), weights=model_root)


def swap_root(server):
    server.root = "models/other"


def swap_tokenizer(server):
    server.shift = 1


def swap_weights(server):
    server.nats = -0.4


@pytest.mark.parametrize(
    ("swap", "what"),
    [(swap_root, "loaded something else"), (swap_tokenizer, "tokens of the same"), (swap_weights, "answers the same")],
)
def test_another_model_behind_the_address_than_recorded_is_refused(swap, what, serving, model_root):
    server = serving("vllm")
    first = contact(server.name, str(model_root))
    contact.cache_clear()
    assert contact(server.name, str(model_root)) == first
    contact.cache_clear()
    swap(server)
    with pytest.raises(OtherModelError, match=f"Another model stands behind.*than recorded on.*{what}") as caught:
        load_mllm(server.name, weights=model_root)
    Path(str(caught.value).split(" in ")[1].split(":")[0]).unlink()
    assert contact(server.name, str(model_root)).way == "prompt_logprobs"


def test_another_version_may_answer_otherwise_of_the_model_it_had_loaded_and_of_no_other(serving, model_root):
    server = serving("vllm")
    contact(server.name, str(model_root))
    contact.cache_clear()
    server.version = "0.14.0"
    swap_weights(server)
    assert contact(server.name, str(model_root)).server == "vllm 0.14.0"
    contact.cache_clear()
    server.version = "0.15.0"
    swap_root(server)
    with pytest.raises(OtherModelError, match="loaded something else"):
        contact(server.name, str(model_root))


@pytest.mark.parametrize("variable", ["TVP_SERVED_REQUESTS", "TVP_SERVED_TIMEOUT"])
@pytest.mark.parametrize("said", ["many", "0", "-2", "inf"])
def test_a_setting_that_is_no_positive_number_is_named(variable, said, serving, model_root, monkeypatch):
    server = serving("openai")
    monkeypatch.setenv(variable, said)
    with pytest.raises(ValueError, match=f"{variable}={said}: expected a .*number above 0, such as (8|120)"):
        load_mllm(server.name, weights=model_root)


def test_a_model_that_answers_for_another_is_refused(serving, model_root):
    server = serving("vllm")
    model = load_mllm(server.name, weights=model_root)
    server.answers_as = "somebody/else"
    with pytest.raises(OtherModelError, match=f"was asked '{MODEL}', and 'somebody/else' answered"):
        model.score(frames(), QUESTIONS, CANDIDATES)


def test_an_answer_that_merges_with_the_prompt_has_no_likelihood(serving, model_root):
    server = serving("vllm")
    model = load_mllm(server.name, weights=model_root)
    server.merges = True
    with pytest.raises(ValueError, match="in tokens that do not begin with the prompt's"):
        model.score(frames(1), QUESTIONS[:1], CANDIDATES)


def test_a_tokenizer_other_than_the_servers_is_refused(serving, model_root):
    server = serving("sglang")
    server.shift = 1
    with pytest.raises(OtherModelError, match="other tokens than the tokenizer in the weights folder"):
        load_mllm(server.name, weights=model_root)


def test_sglang_without_the_models_template_is_read_by_what_it_writes(serving, tmp_path, capsys):
    assert contact(serving("sglang").name, str(tmp_path)).way == "generate"
    assert "tokenizer, processor and chat template" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    ["served:", "served:a", "served:@http://h", "served:a@ftp://h", "served:a@http://", "served:a@http://h:x"],
)
def test_a_malformed_name_says_what_one_looks_like(name):
    with pytest.raises(ValueError, match=r"names no model behind a server. Expected served:MODEL@URL"):
        get_entry(name)


def test_a_password_in_a_name_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="TVP_SERVED_KEY only") as caught:
        get_entry("served:a@http://me:hunter2@host:1")
    assert "hunter2" not in str(caught.value)


def test_a_name_holds_any_model_id_and_an_address_with_or_without_its_v1():
    assert address_of("served:/tmp/a@b@http://h:1/v1") == ("/tmp/a@b", "http://h:1")
    assert address_of("served:a/b@https://h/x/") == ("a/b", "https://h/x")


def test_a_served_model_is_no_source_and_shows_no_features(serving, model_root):
    from lightning_modules.evaluation import ModelSpec

    server = serving("vllm")
    with pytest.raises(ValueError, match="only scores: no gradient and no features"):
        ModelSpec(server.name, "source")
    model = load_mllm(server.name, weights=model_root)
    for call in (model.encode_image, model.answer_token_counts):
        with pytest.raises(NotImplementedError, match="only scores"):
            call(frames(1), ["?"])
    with pytest.raises(NotImplementedError, match="only scores"):
        model.answer_loss(frames(1), ["?"], ["a"])


def test_the_zoo_says_who_answers_and_has_nothing_to_fetch_or_convert(serving, model_root, capsys):
    name, weights = serving("vllm").name, f"weights={model_root}"
    assert zoo(["check", name, weights]) == 0 and zoo(["list", name, weights]) == 0
    said = capsys.readouterr().out
    assert said.count("vllm 0.13.0") == 2 and said.count("prompt_logprobs") == 2
    assert zoo(["fetch", name, weights]) == 2 and zoo(["convert", name, weights, "to=x"]) == 2
    said = capsys.readouterr().err
    assert "nothing to fetch" in said and "no weights of it are here" in said
    assert zoo(["list", f"served:{MODEL}@http://127.0.0.1:1", weights]) == 0
    assert "does not answer" in capsys.readouterr().out
