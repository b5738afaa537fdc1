"""A prompt on the hub, or in a folder made for it, is the same prompt, with a card that says what it is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules import Prompt
from lightning_modules.artefact import read_manifest
from lightning_modules.prompts import PadPrompt

pytest_plugins = ["support.data_server", "support.hub_server"]
SHIPPED = Path(__file__).resolve().parents[1] / "docs" / "prompt"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_a_folder_is_read_back_bit_for_bit_with_everything_its_manifest_said(tmp_path):
    prompt = Prompt.from_pretrained(SHIPPED)
    folder = prompt.save_pretrained(tmp_path / "saved")
    assert torch.equal(Prompt.from_pretrained(folder).delta, prompt.delta)
    assert read_manifest(folder) == read_manifest(SHIPPED)
    assert prompt.save_pretrained(folder) == folder  # again, over itself


def test_the_card_has_metadata_picture_table_with_controls_licence_and_use(tmp_path):
    text = card(Prompt.load(SHIPPED).save_pretrained(tmp_path / "saved", name="user/border"))
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "transferable-visual-prompting" and "tvp" in head["tags"]
    scores = json.loads((SHIPPED / "manifest.json").read_text())["scores"]
    for name in (name for name in scores if name.startswith("embedded")):
        (row,) = re.findall(rf"^\| `{name}` \| (source|target) \|(.*)$", text, re.MULTILINE)
        assert row[0] == ("source" if name == "embedded_minigpt4" else "target")
        assert f"{scores[name]['replicate']['value']:.3f} [{scores[name]['replicate']['low']:.3f}, " in row[1]
    for word in (
        "![The prompt](prompt.png)",
        "replicate padding",
        'from_pretrained("user/border")',
        "emoji_recognition",
    ):
        assert word in text
    assert "The prompt inherits the terms of the data" in text and "Top1 on test, with 95 % intervals. The" in text


def test_the_code_of_the_card_runs(tmp_path, monkeypatch):
    folder = Prompt.load(SHIPPED).save_pretrained(tmp_path / "saved")
    (code,) = re.findall(r"```python\n(.*?)```", card(folder), re.DOTALL)
    shutil.copy(SHIPPED.parent / "scene.png", folder / "photo.jpg")
    monkeypatch.chdir(folder)
    assert len(code.splitlines()) == 5
    exec(code, {})
    assert (folder / "prompted.png").is_file()


def test_other_pixels_than_those_that_were_scored_carry_no_scores(tmp_path):
    prompt = Prompt.load(SHIPPED)
    prompt.delta.data = prompt.delta * 0.5
    folder = prompt.save_pretrained(tmp_path / "saved")
    assert "scores" not in read_manifest(folder) and "## Scores" not in card(folder)


def test_a_new_prompt_needs_no_manifest_and_words_of_one_cannot_break_the_metadata(tmp_path):
    folder = PadPrompt(frame=32, pad=4).save_pretrained(tmp_path / "one")
    assert "Not stated." in card(folder) and Prompt.from_pretrained(folder).frame == 32
    folder = PadPrompt(frame=32, pad=4).save_pretrained(tmp_path / "two", manifest={"method": "a: [b\n---\nc"})
    assert yaml.safe_load(card(folder).split("\n---\n")[0].removeprefix("---"))["tags"][2] == "a: [b\n---\nc"


def test_what_is_pushed_is_what_is_got_back_by_its_name(hub, cache, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.writer)
    prompt = Prompt.load(SHIPPED)
    assert prompt.push_to_hub("user/border") == f"{hub.url}/user/border"
    (pushed,) = hub.commits["user/border"].values()
    assert set(pushed) == {"README.md", "manifest.json", "prompt.png", "prompt.safetensors"}
    monkeypatch.delenv("HF_TOKEN")
    again = Prompt.from_pretrained("user/border")
    assert torch.equal(again.delta, prompt.delta) and again.manifest == prompt.manifest
    first = hub.branches["user/border"]["main"]
    other = PadPrompt(frame=32, pad=4).save_pretrained(cache / "other")
    hub.push("user/border", {path.name: path.read_bytes() for path in other.iterdir()})
    assert Prompt.from_pretrained("user/border").frame == 32
    assert torch.equal(Prompt.from_pretrained("user/border", revision=first).delta, prompt.delta)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Prompt.from_pretrained("user/border").frame == 32


def test_a_changed_file_on_the_hub_is_refused(hub, cache):
    files = {path.name: path.read_bytes() for path in SHIPPED.iterdir()}
    hub.push("user/border", files | {"prompt.safetensors": files["prompt.safetensors"][:-1] + b"?"})
    with pytest.raises(ValueError, match="sha256 differs"):
        Prompt.from_pretrained("user/border")


def test_what_the_hub_does_not_give_is_one_message(hub, cache, monkeypatch):
    with pytest.raises(ValueError, match="has no 'user/none', or it is private"):
        Prompt.from_pretrained("user/none")
    with pytest.raises(PermissionError, match="Nothing was pushed: no HF_TOKEN"):
        Prompt.load(SHIPPED).push_to_hub("user/border")
    monkeypatch.setenv("HF_TOKEN", "may read")
    with pytest.raises(PermissionError, match=r"refuses \(403\). Check HF_TOKEN"):
        Prompt.load(SHIPPED).push_to_hub("user/border")
    with pytest.raises(ValueError, match="cannot be the name of a repository"):
        Prompt.load(SHIPPED).push_to_hub("border")
    with pytest.raises(FileNotFoundError, match="No prompt folder 'border'"):
        Prompt.from_pretrained("border")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="the cache does not hold it"):
        Prompt.from_pretrained("user/border")
