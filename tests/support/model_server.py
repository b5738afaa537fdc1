"""A loopback server that speaks vLLM's and SGLang's protocols around one of our adapters, with their faults; no test.

Neither server can be installed here. Likelihoods come from the model's own forward over the whole conversation, one at
a time, so that they are an oracle for what the adapter packs.
"""

from __future__ import annotations

import io
import json
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from support.hf_folders import write_folder

MODEL = "tiny/qwen3_vl"


class ModelServer:
    """What is served and how. Set the attributes at any time.

    kind: `vllm`, `sglang`, or `openai`, which writes only. once: faults of the next requests that carry a picture:
    a status, `hang`, `truncated`, `bare` (no likelihoods), `null` (a message without text). always: one for all of
    them. refused: pictures (their mean pixel, 0 to 255) that are always answered with 500. shift: added to token ids,
    as another tokenizer would; merges: only where an answer follows. nats: added to the likelihood of each answer
    token, as other weights would. answers_as: the model's name in answers. version: of vLLM.
    requests: (path, body, key) of each.
    """

    def __init__(self, kind: str, adapter: Any) -> None:
        self.kind, self.adapter, self.lock = kind, adapter, threading.Lock()
        self.model, self.root, self.answers_as = MODEL, f"models/{MODEL}", MODEL
        self.once: list[int | str] = []
        self.always: int | str | None = None
        self.refused: set[int] = set()
        self.shift, self.nats, self.most_at_once = 0, 0.0, 0
        self.merges = False
        self.requests: list[tuple[str, Any, str | None]] = []
        self.url, self.version = "", "0.13.0"

    @property
    def name(self) -> str:
        return f"served:{self.model}@{self.url}"

    def posts(self) -> int:
        return sum(body is not None for _, body, _ in self.requests)

    @staticmethod
    def mean_pixel(body: dict[str, Any]) -> int:
        """Of the picture in a request, 0 to 255."""
        url = body["image_data"][0] if "image_data" in body else read_user(body["messages"][0])[0]
        return round(255 * float(read_picture(url).mean()))

    def get(self, path: str) -> Any:
        owner = self.kind if self.kind != "openai" else "somebody"
        model = {"id": self.model, "object": "model", "owned_by": owner, "root": self.root}
        known = {"/v1/models": {"object": "list", "data": [model]}}
        if self.kind == "vllm":
            known["/version"] = {"version": self.version}
        if self.kind == "sglang":
            known |= {"/get_model_info": {"model_path": self.root}, "/server_info": {"version": "0.5.6"}}
        return known.get(path)

    def chat(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        extra = {"prompt_logprobs", "return_token_ids", "chat_template_kwargs"} & set(body)
        if self.kind == "openai" and extra:
            return 400, {"error": f"unknown fields {extra}"}
        url, question = read_user(body["messages"][0])
        picture = read_picture(url)
        answer = body["messages"][1]["content"] if len(body["messages"]) > 1 else None
        text = self.adapter.prompter.text(question)
        if answer is not None:
            assert body["continue_final_message"] and not body["add_generation_prompt"] and body["max_tokens"] == 1
            text += self.adapter.prompter.lead + answer
        found: dict[str, Any] = {"model": self.answers_as, "choices": []}
        if body.get("return_token_ids"):
            ids, logp = self.read(text, picture)
            more = self.shift + (self.merges and answer is not None)
            found["prompt_token_ids"] = [i + more for i in ids]
            if "prompt_logprobs" not in body:
                return 200, found
            rows = [{str(i + self.shift): {"logprob": v, "rank": 1}} for i, v in zip(ids[1:], logp, strict=True)]
            found["prompt_logprobs"] = [None, *rows]
            return 200, found
        written = self.adapter.generate(picture, [question], max_new_tokens=body["max_tokens"], num_beams=1)[0]
        return 200, found | {"choices": [{"message": {"role": "assistant", "content": written}}]}

    def generate(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        assert body["return_logprob"] and body["logprob_start_len"] == 0
        assert body["sampling_params"]["max_new_tokens"] == 0
        ids, logp = self.read(body["text"], read_picture(body["image_data"][0]))
        table = [[v, i + self.shift, None] for v, i in zip([None, *logp], ids, strict=True)]
        return 200, {"text": "", "meta_info": {"prompt_tokens": len(ids), "input_token_logprobs": table}}

    def read(self, text: str, picture: torch.Tensor) -> tuple[list[int], list[float]]:
        """Token ids of a text around a picture, and the log-probability of each but the first."""
        adapter = self.adapter
        row = adapter.prompter._process(text, picture.shape[-1])
        tokens = adapter.encode_image(picture, [""]).tokens
        logits = adapter.doors.logits(adapter.doors.hidden(adapter._language_inputs([row], tokens))[0])
        table = logits.float().log_softmax(-1)
        return row.ids, [float(table[i, k]) + self.nats for i, k in enumerate(row.ids[1:])]


def read_user(message: dict[str, Any]) -> tuple[str, str]:
    image, text = message["content"]
    assert (message["role"], image["type"], text["type"]) == ("user", "image_url", "text")
    return image["image_url"]["url"], text["text"]


def read_picture(url: str) -> torch.Tensor:
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    picture = Image.open(io.BytesIO(b64decode(data)))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        served = self.server.served
        served.requests.append((self.path, None, self.headers.get("Authorization")))
        found = served.get(self.path)
        self._send(404 if found is None else 200, found or {})

    @torch.inference_mode()
    def do_POST(self) -> None:
        served = self.server.served
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        served.requests.append((self.path, body, self.headers.get("Authorization")))
        with self.server.counted():
            time.sleep(0.01)
            fault = served.once.pop(0) if served.once else served.always
            if isinstance(fault, int):
                return self._send(fault, {"error": "busy"})
            if fault == "hang":
                return self.server.stopped.wait(30)
            with served.lock:
                status, found = served.chat(body) if self.path.startswith("/v1") else served.generate(body)
        if served.refused and served.mean_pixel(body) in served.refused:
            status, found = 500, {"error": "no room for this picture"}
        if fault == "bare":
            found = {k: v for k, v in found.items() if k not in ("prompt_logprobs", "meta_info")}
        if fault == "null":
            found["choices"] = [{"message": {"role": "assistant", "content": None}}]
        return self._send(status, found, cut=fault == "truncated")

    def _send(self, status: int, found: Any, cut: bool = False) -> None:
        data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    served: ModelServer
    stopped: threading.Event
    now = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        self.now += 1
        self.served.most_at_once = max(self.served.most_at_once, self.now)
        yield
        self.now -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that goes away is what some tests are about


@contextmanager
def running(served: ModelServer) -> Iterator[ModelServer]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.served, server.stopped = served, threading.Event()
    served.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield served
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights root with the model that is served."""
    root = tmp_path_factory.mktemp("served")
    write_folder(MODEL.partition("/")[2], root / MODEL)
    return root


@pytest.fixture(scope="session")
def local(model_root: Path) -> Any:
    """The served model, here."""
    from model_zoo import load_mllm

    return load_mllm(f"hf:{MODEL}", weights=model_root, tiles="official")


@pytest.fixture
def serving(local: Any, no_waiting: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """serving(kind): a running `ModelServer`; caches of their own, no key."""
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TVP_SERVED_TIMEOUT", "20")
    monkeypatch.delenv("TVP_SERVED_KEY", raising=False)
    opened = []

    def start(kind: str) -> ModelServer:
        opened.append(running(ModelServer(kind, local)))
        return opened[-1].__enter__()

    yield start
    for one in opened:
        one.__exit__(None, None, None)
