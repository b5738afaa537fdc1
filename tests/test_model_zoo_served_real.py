"""The real `transformers serve` on loopback: what it writes is what the same folder writes here."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.hf_folders import write_folder
from transformers import AutoTokenizer

from experiments.evaluate import main as evaluate
from lightning_modules.records import read_rows
from model_zoo import load_mllm
from model_zoo.registry import server_facts
from model_zoo.served.client import Client, ServerGoneError
from model_zoo.served.contact import contact

pytestmark = pytest.mark.slow
PROMPT = Path(__file__).parents[1] / "docs" / "prompt"
READY = 600  # seconds, on a machine that is busy; idle it takes 15


@pytest.fixture(params=["qwen3_vl", "internvl", "smolvlm"])
def served(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str, Path]]:
    """(the served name, the local name, the weights root) of one tiny folder."""
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    folder = write_folder(request.param, tmp_path / "tiny" / request.param)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", server, tmp_path / "server.log")
            yield f"served:{folder}@http://127.0.0.1:{port}", f"hf:tiny/{request.param}", tmp_path
        finally:
            server.terminate()
            server.wait(30)


def wait_until_ready(url: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + READY
    while time.monotonic() < end:
        try:
            if server.poll() is None and Client(url, attempts=1).get("/health"):
                return
        except ServerGoneError:
            pass
        assert server.poll() is None, log.read_text()[-2000:]
        time.sleep(0.25)
    raise AssertionError(log.read_text()[-2000:])


def readable(text: str, special: list[str]) -> str:
    """What comes before the first sign that is no printable ASCII: a random model writes torn bytes, which the server
    holds back at the end of a text, and special tokens, which it shows."""
    for token in special:
        text = text.replace(token, "")
    return (re.match("[ -~]*", text) or [""])[0]


def test_the_real_server_writes_what_the_same_folder_writes_here(served, tmp_path):
    name, own, weights = served
    found = contact(name, str(weights))
    assert (found.server, found.way) == ("transformers serve", "generate") and "422" in found.why
    images = (torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    questions = ["what is it?", "a cat or a dog?", "how many dogs?"]
    model, here = load_mllm(name, weights=weights), load_mllm(own, weights=weights, tiles="official")
    special = AutoTokenizer.from_pretrained(weights / own.removeprefix("hf:"), local_files_only=True).all_special_tokens
    for style in ("infer", "vqa"):
        texts = here.generate(images, questions, style=style, max_new_tokens=12, num_beams=1)
        theirs = model.generate(images, questions, style=style, max_new_tokens=12)
        assert [readable(text, special) for text in theirs] == [readable(text, special) for text in texts]
        assert len({readable(text, special) for text in texts}) > 1
    with pytest.raises(ValueError, match="gives no likelihoods"):
        model.score(images, questions, ["a cat", "a dog"])
    with pytest.raises(ServerGoneError, match="not 'other'"):
        server_facts(name.replace(name.partition("@")[0], "served:other"), weights)
    evaluate([f"prompt={PROMPT}", f"mllm={name}", "n=3", "controls=black", "data=emoji_recognition", f"out={tmp_path}"])
    rows = read_rows(tmp_path / "results.jsonl")
    assert {(row["server"], row["way"], row["n"], row["unanswered"]) for row in rows} == {
        ("transformers serve", "generate", 3, 0)
    }
