"""`python -m model_zoo fetch`: weights arrive whole, right and recorded, whatever hub, disk or user do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import datamodules.whole_files.disk
from model_zoo.__main__ import main
from model_zoo.fetch.record import RECORD, FetchRecord
from model_zoo.fetch.selection import text_files, weights_entry
from model_zoo.registry import REGISTRY, find_clip, get_entry, load_mllm, missing_files
from model_zoo.weights import catalogue
from model_zoo.weights.catalogue import CLIPS, PUBLISHED, missing_lines
from model_zoo.weights.origins import ByHand, HubOrigin, UrlOrigin

pytest_plugins = ["support.data_server", "support.hub_server"]
ROOT = Path(__file__).resolve().parents[1]
REPO = "org/tiny-vlm"
SHARDS = {f"model-0000{n}-of-00002.safetensors": hashlib.shake_256(b"%d" % n).digest(300_000) for n in (1, 2)}
INDEX = {"weight_map": {name: name for name in SHARDS}}
TEXTS = {
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.json": b"{}",
    "preprocessor_config.json": b"{ }",
    "chat_template.jinja": b"{{ messages }}",
    "LICENSE": b"free",
    "qformer_tokenizer/vocab.txt": b"a\n",
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
}
UNWANTED = {
    name: b"x"
    for name in (
        *("README.md", "modeling_tiny.py", "pytorch_model.bin", "pytorch_model.bin.index.json", "flax_model.msgpack"),
        *("onnx/config.json", "onnx/model.onnx", "tiny.gguf", "tf_model.h5", "consolidated.safetensors", "logo.png"),
    )
}
MODEL = {**TEXTS, **SHARDS}


@pytest.fixture
def model(hub):
    """The commit of the model the hub has."""
    return hub.push(REPO, MODEL | UNWANTED)


def run(capsys, weights: Path, *words: str, code: int = 0) -> str:
    """The output of `fetch`, whose exit code must be `code`."""
    capsys.readouterr()
    assert main(["fetch", *words, f"weights={weights}"]) == code, capsys.readouterr()
    return "".join(capsys.readouterr())


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_there(weights: Path, wanted: dict[str, bytes] = MODEL) -> bool:
    there = files(weights / REPO)
    there.pop(RECORD)
    return there == wanted


def test_a_model_of_the_hub_arrives_with_what_is_read_and_nothing_else(hub, model, tmp_path, capsys):
    said = run(capsys, tmp_path, f"hf:{REPO}")
    assert is_there(tmp_path) and f"{REPO} (hub) at {model}" in said and "To fetch: 8 files, 0.6 MB" in said


def test_the_record_names_commit_sizes_and_digests_and_is_the_same_every_time(model, tmp_path, capsys):
    records = []
    for place in ("one", "two"):
        run(capsys, tmp_path / place, f"hf:{REPO}")
        records.append((tmp_path / place / REPO / RECORD).read_bytes())
    record = json.loads(records[0])
    assert records[0] == records[1] and (record["repo"], record["revision"]) == (REPO, model) and record["complete"]
    assert record["files"] == {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "source": f"hf:{REPO}@{model}"}
        for name, data in MODEL.items()
    }


def test_a_second_fetch_asks_nobody_and_changes_nothing(hub, model, tmp_path, capsys):
    run(capsys, tmp_path, f"hf:{REPO}")
    before, times = len(hub.requests), {path: path.stat().st_mtime_ns for path in (tmp_path / REPO).rglob("*")}
    assert "complete below" in run(capsys, tmp_path, f"hf:{REPO}")
    assert len(hub.requests) == before
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / REPO).rglob("*")}


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x" * path.stat().st_size), Path.unlink])
@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "tokenizer.json", "model.safetensors.index.json"])
def test_only_what_is_damaged_is_fetched_again_and_of_the_recorded_commit(damage, name, hub, model, tmp_path, capsys):
    run(capsys, tmp_path, f"hf:{REPO}")
    hub.push(REPO, MODEL | {name: b"another version"})
    damage(tmp_path / REPO / name)
    hub.requests.clear()
    assert f"{name}' is" in run(capsys, tmp_path, f"hf:{REPO}")
    assert is_there(tmp_path) and {path for path in hub.asked("resolve")} == {f"{REPO}/resolve/{model}/{name}"}


def test_another_revision_is_fetched_when_asked_for_and_the_record_follows(hub, model, tmp_path, capsys):
    run(capsys, tmp_path, f"hf:{REPO}")
    newer = {name: data for name, data in MODEL.items() if name != "LICENSE"} | {"config.json": b'{"new": 1}'}
    commit = hub.push(REPO, newer)
    assert "nothing was fetched" in run(capsys, tmp_path, f"hf:{REPO}")
    assert "LICENSE' belonged to another revision" in run(capsys, tmp_path, f"hf:{REPO}", "revision=main")
    assert is_there(tmp_path, newer) and FetchRecord(tmp_path / REPO).revision == commit
    assert "config.json" in run(capsys, tmp_path, f"hf:{REPO}", f"revision={model}") and is_there(tmp_path)


def test_a_broken_connection_is_resumed_where_it_broke(hub, model, tmp_path, capsys):
    hub.cdn.break_after = [100_000, 50_000]
    run(capsys, tmp_path, f"hf:{REPO}")
    assert is_there(tmp_path)
    assert [asked for _, asked in hub.cdn.requests] == [None, "bytes=100000-", "bytes=150000-", None]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again(status, hub, model, tmp_path, capsys):
    hub.once, hub.cdn.once = [status, status], [status]
    said = run(capsys, tmp_path, f"hf:{REPO}")
    assert is_there(tmp_path) and f"answered {status}. Attempt 3 of 5" in said


def test_a_hub_that_stays_busy_is_one_message(hub, model, tmp_path, capsys):
    hub.once = [500] * 5
    said = run(capsys, tmp_path, f"hf:{REPO}", code=2)
    assert "it answered 500" in said and "Check the network and try again" in said and "Traceback" not in said


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "config.json"])
def test_wrong_bytes_get_no_name_and_the_next_fetch_gets_the_right_ones(name, hub, model, tmp_path, capsys):
    right = MODEL[name]
    wrong = right[:-1] + b"?"
    where = hub.cdn.files if name in SHARDS else hub.commits[REPO][model]
    key = hashlib.sha256(right).hexdigest() if name in SHARDS else name
    listed = dict(hub.commits[REPO][model])
    hub.listing[REPO] = listed
    where[key] = wrong
    said = run(capsys, tmp_path, f"hf:{REPO}", code=2)
    assert "the hub states" in said and not list(tmp_path.rglob(f"{name}*"))
    where[key] = right
    run(capsys, tmp_path, f"hf:{REPO}")
    assert is_there(tmp_path)


def test_a_fetch_killed_at_any_moment_goes_on_and_is_not_loaded_before_it_is_whole(hub, tmp_path, capsys):
    shards = {name: data * 20 for name, data in SHARDS.items()}
    hub.push(REPO, MODEL | shards)
    hub.cdn.pause = 0.02
    part = tmp_path / REPO / "model-00002-of-00002.safetensors.part"
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    command = [sys.executable, "-m", "model_zoo", "fetch", f"hf:{REPO}", f"weights={tmp_path}"]
    for stop in (1_000_000, 4_000_000):
        child = subprocess.Popen(command, cwd=ROOT, env=environment)
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > stop):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        item = catalogue.WeightFile(REPO, "a model", HubOrigin(REPO), "free", ("config.json",))
        (line,) = missing_lines([item], tmp_path)
        assert line.startswith(f"{REPO}/ (its fetch was interrupted)")
    hub.cdn.pause = 0.0
    run(capsys, tmp_path, f"hf:{REPO}")
    assert is_there(tmp_path, MODEL | shards)
    starts = [int(asked.strip("bytes=-")) for _, asked in hub.cdn.requests if asked]
    assert len(starts) == 2 and 1_000_000 < starts[0] < 4_000_000 < starts[1]


def test_a_damaged_record_says_what_to_do(model, tmp_path, capsys):
    run(capsys, tmp_path, f"hf:{REPO}")
    for content in ("{", '{"files": {"config.json": 3}}'):
        (tmp_path / REPO / RECORD).write_text(content)
        said = run(capsys, tmp_path, f"hf:{REPO}", code=2)
        assert f"{RECORD}' is damaged" in said and "delete it and fetch again" in said
    (tmp_path / REPO / RECORD).unlink()
    run(capsys, tmp_path, f"hf:{REPO}")
    assert is_there(tmp_path)


def test_two_fetches_at_once_are_refused(model, tmp_path, capsys):
    with datamodules.whole_files.disk.locked(tmp_path / ".fetch.lock", "fetch", tmp_path, "weights=DIR"):
        assert "Another `fetch` (process" in run(capsys, tmp_path, f"hf:{REPO}", code=2)


def test_too_little_room_is_said_before_a_weight_is_fetched(hub, model, tmp_path, monkeypatch, capsys):
    usage = datamodules.whole_files.disk.shutil
    monkeypatch.setattr(usage, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 1000))
    said = run(capsys, tmp_path, f"hf:{REPO}", code=2)
    assert "about 0.6 MB are needed and 0.0 MB are free" in said and "another weights=DIR" in said
    assert not hub.cdn.requests


def test_a_gated_model_says_where_its_terms_are_and_the_token_stays_with_the_hub(
    hub, model, tmp_path, monkeypatch, capsys
):
    hub.gated[REPO] = "secret"
    said = run(capsys, tmp_path, f"hf:{REPO}", code=2)
    assert f"open {hub.url}/{REPO}, accept them, then make a token" in said and "set HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", "of another account")
    assert "with the account whose token HF_TOKEN holds" in run(capsys, tmp_path, f"hf:{REPO}", code=2)
    monkeypatch.setenv("HF_TOKEN", "secret")
    said = run(capsys, tmp_path, f"hf:{REPO}")
    assert is_there(tmp_path) and "secret" not in said and hub.cdn.tokens == [None, None]
    assert b"secret" not in (tmp_path / REPO / RECORD).read_bytes()


def test_a_token_kept_in_the_users_files_is_not_sent(hub, model, tmp_path, monkeypatch, capsys):
    (tmp_path / "token").write_text("secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    run(capsys, tmp_path / "weights", f"hf:{REPO}")
    assert {token for _, _, token in hub.requests} == {None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hf:org/none"], "has no 'org/none', or it is private. Expected ORG/MODEL"),
        ([f"hf:{REPO}", "revision=v9"], "has no revision 'v9'. Expected a branch, a tag or a commit"),
        (["hf:tiny"], "Expected hf:ORG/MODEL"),
        (["hf:../../etc"], "Expected hf:ORG/MODEL"),
        (["blip2", "revision=main"], "revision= is for hf:ORG/MODEL"),
        (["blip3"], "Unknown MLLM 'blip3'. Did you mean 'blip2'?"),
        (["hf:org/gguf"], "has no weights in a form that is read (it has .gguf)"),
        (["hf:org/adapter"], "it is an adapter to another model"),
        (["hf:org/bare"], "has no config.json. Expected a model in Hugging Face's format"),
        (["hf:org/torn"], "lacks model-00002-of-00002.safetensors, which its model.safetensors.index.json names"),
    ],
)
def test_what_cannot_be_fetched_is_one_message(words, message, hub, model, tmp_path, capsys):
    hub.push("org/gguf", {"config.json": b"{}", "tiny.gguf": b"x"})
    hub.push("org/adapter", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"})
    hub.push("org/bare", {"model.safetensors": b"x"})
    hub.push("org/torn", {name: data for name, data in MODEL.items() if "00002-of" not in name})
    assert message in run(capsys, tmp_path, *words, code=2)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_no_network_is_one_message(tmp_path, monkeypatch, hub, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        said = run(capsys, tmp_path, f"hf:{REPO}", code=2)
    assert "cannot be reached" in said and "Check the network" in said and "Attempt 5 of 5" in said


def test_offline_mode_is_said(tmp_path, monkeypatch, hub, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = run(capsys, tmp_path, f"hf:{REPO}", code=2)
    assert "forbids asking the hub" in said and "Attempt" not in said and not hub.requests


def test_files_that_were_there_are_kept_where_right_and_never_overwritten(hub, model, tmp_path, capsys):
    folder = tmp_path / REPO
    folder.mkdir(parents=True)
    first = "model-00001-of-00002.safetensors"
    (folder / first).write_bytes(MODEL[first])
    (folder / "tokenizer.json").write_bytes(b"mine")
    said = run(capsys, tmp_path, f"hf:{REPO}", code=2)
    assert "was not fetched by this command" in said and (folder / "tokenizer.json").read_bytes() == b"mine"
    (folder / "tokenizer.json").unlink()
    run(capsys, tmp_path, f"hf:{REPO}")
    assert is_there(tmp_path) and not [path for path in hub.asked(first) if "resolve" in path]


def test_safetensors_are_preferred_and_bin_is_taken_where_there_is_nothing_else():
    single, index = "model.safetensors", "model.safetensors.index.json"
    assert weights_entry({"pytorch_model.bin", single}, REPO) == single
    assert weights_entry({single, index, "pytorch_model.bin"}, REPO) == index
    assert weights_entry({"pytorch_model.bin.index.json", "flax_model.msgpack"}, REPO) == "pytorch_model.bin.index.json"


def test_no_name_leads_out_of_the_folder():
    assert text_files(["../evil.json", "/etc/evil.json", "a/b/c.json", "config.json"]) == ["config.json"]


@pytest.fixture
def published(hub, mirror, monkeypatch):
    """A published model of tiny files: two at an address, a file and a folder of the hub, one by hand."""
    mirror.files |= {"tower.pth": b"tower" * 1000, "qformer.pth": b"qformer" * 1000}
    hub.push("org/bert", {"vocab.txt": b"a\n", "model.safetensors": b"unwanted"})
    hub.push("org/llm", {"config.json": b"{}", "spiece.model": b"pieces", "pytorch_model.bin": b"weights", "x.py": b""})
    item = catalogue.WeightFile
    known = PUBLISHED["blip2"]._replace(
        vision=item("hub/checkpoints/tower.pth", "the tower", UrlOrigin(mirror["tower.pth"]), "MIT"),
        checkpoints=(item("hub/checkpoints/qformer.pth", "the Q-Former", UrlOrigin(mirror["qformer.pth"]), "MIT"),),
        llm=item("org/llm", "the LLM", HubOrigin("org/llm"), "MIT", ("config.json", "spiece.model")),
        bert=item("bert/vocab.txt", "the tokenizer", HubOrigin("org/bert", "vocab.txt"), "MIT"),
        hub=None,
    )

    def use(**changes):
        model = known._replace(**changes)
        monkeypatch.setitem(PUBLISHED, "blip2", model)
        monkeypatch.setitem(REGISTRY, "blip2", get_entry("blip2")._replace(files=model.files))
        return model

    use()
    return use


def test_every_file_of_a_published_model_arrives_where_it_is_looked_for(published, tmp_path, capsys):
    assert missing_files("blip2", tmp_path)
    assert "python -m model_zoo check blip2" in run(capsys, tmp_path, "blip2")
    assert missing_files("blip2", tmp_path) == []
    record = json.loads((tmp_path / "hub/checkpoints" / RECORD).read_text())["files"]
    assert record["tower.pth"]["sha256"] == hashlib.sha256(b"tower" * 1000).hexdigest() and len(record) == 2
    assert files(tmp_path / "org/llm").keys() == {"config.json", "spiece.model", "pytorch_model.bin", RECORD}
    assert "complete below" in run(capsys, tmp_path, "blip2_t5")


def test_a_damaged_file_of_an_address_is_mended_and_a_replaced_one_is_refused(published, mirror, tmp_path, capsys):
    run(capsys, tmp_path, "blip2")
    path = tmp_path / "hub/checkpoints/tower.pth"
    path.write_bytes(b"damaged")
    mirror.requests.clear()
    run(capsys, tmp_path, "blip2")
    assert path.read_bytes() == b"tower" * 1000 and {name for name, _ in mirror.requests} == {"tower.pth"}
    path.write_bytes(b"damaged")
    mirror.files["tower.pth"] = b"other" * 1000
    said = run(capsys, tmp_path, "blip2", code=2)
    assert "the copy fetched before had" in said and "If its authors replaced it" in said
    assert path.read_bytes() == b"damaged"


def test_a_file_brought_by_hand_is_kept_and_one_of_another_size_refused(published, mirror, tmp_path, capsys):
    path = tmp_path / "hub/checkpoints/tower.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    assert "was not fetched by this command" in run(capsys, tmp_path, "blip2", code=2)
    path.write_bytes(b"tower" * 1000)
    assert "its size is the published one" in run(capsys, tmp_path, "blip2")


def test_what_is_got_by_hand_is_said_after_the_rest_was_fetched(published, tmp_path, capsys):
    published(
        checkpoints=(catalogue.WeightFile("model_weights/q.pth", "Q", ByHand("a drive", "Save it as {path}."), "MIT"),)
    )
    said = run(capsys, tmp_path, "blip2", code=1)
    assert f"To do by hand:\n\nmodel_weights/q.pth: Save it as {tmp_path}/model_weights/q.pth." in said
    assert (tmp_path / "hub/checkpoints/tower.pth").is_file()
    (tmp_path / "model_weights").mkdir()
    (tmp_path / "model_weights/q.pth").write_bytes(b"q")
    run(capsys, tmp_path, "blip2")


def test_the_conversion_is_fetched_where_a_file_may_not_be(published, hub, tmp_path, capsys):
    hub.push("org/conversion", MODEL)
    published(
        llm=catalogue.WeightFile("llm", "LLM", ByHand("a licence", "Ask."), "own", ("config.json",)),
        hub="org/conversion",
    )
    run(capsys, tmp_path, "blip2")
    assert missing_files("blip2", tmp_path) == [] and not (tmp_path / "hub").exists()
    record = FetchRecord(tmp_path / "org/conversion")
    record.complete = False
    record.write()
    assert "without the rest of an interrupted fetch" in missing_files("blip2", tmp_path)[-1]
    run(capsys, tmp_path, "blip2")
    assert "complete below" in run(capsys, tmp_path, "blip2")


def test_the_clip_is_fetched_by_its_name_and_found(hub, tmp_path, monkeypatch, capsys):
    hub.push("timm/vit_base_patch32_clip_224.openai", {"open_clip_model.safetensors": b"clip", "config.json": b"{}"})
    run(capsys, tmp_path, "ViT-B-32")
    assert find_clip("ViT-B-32", tmp_path).read_bytes() == b"clip"
    assert files(tmp_path / "clip").keys() == {Path(CLIPS["ViT-B-32"].path).name, RECORD}


def test_a_model_that_ships_needs_no_fetch(tmp_path, capsys):
    assert "complete without a download" in run(capsys, tmp_path, "embedded_blip2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", PUBLISHED)
def test_missing_weights_name_the_command(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"Get them with: python -m model_zoo fetch {name} weights={tmp_path}"):
        load_mllm(name, weights=tmp_path)


def test_a_missing_clip_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"python -m model_zoo fetch ViT-B-32 weights={tmp_path}"):
        find_clip("ViT-B-32", tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_file_has_an_origin_that_can_be_used(name, tmp_path):
    for item in PUBLISHED[name].files:
        if isinstance(item.origin, ByHand):
            text = item.origin.instructions(tmp_path, item.path)
            assert str(tmp_path / item.path) in text and "{" not in text and "https://" in text
        elif isinstance(item.origin, UrlOrigin):
            assert item.origin.url.startswith("https://")
        else:
            assert bool(item.origin.file) != bool(item.holds)
