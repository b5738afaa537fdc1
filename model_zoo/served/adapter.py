"""A model behind a server as a target: it is scored or asked, never learned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from model_zoo.base import MLLM, Visual
from model_zoo.generation import REFERENCE_DECODING
from model_zoo.hf.prompt import SHORT
from model_zoo.scoring.candidates import encode_candidates
from model_zoo.sequences import require_texts
from model_zoo.served.address import ONLY_SCORES
from model_zoo.served.client import Client, UnansweredError
from model_zoo.served.contact import Contact, contact, number_of, seconds
from model_zoo.served.picture import Picture, picture_of
from model_zoo.served.responses import Responses
from model_zoo.served.texts import Texts
from model_zoo.served.ways import (
    INPUT,
    WRITTEN,
    Likelihood,
    Server,
    prompt_ids,
    sglang_likelihood,
    vllm_likelihood,
    write,
)

REQUESTS = "TVP_SERVED_REQUESTS"
MOST_UNANSWERED, ALWAYS_ALLOWED = 0.05, 4  # share and number of pictures that may stay unanswered


class TooManyUnansweredError(ConnectionError):
    """So many pictures stayed unanswered that what is left says little."""


class ServedMLLM(MLLM):
    """One model of one server.

    Frames are sent as 8-bit PNGs. Answers that were given are kept (`Responses`); a picture without one is missing:
    `score` gives it a row of NaN, `written` None.

    Args:
        name: `served:MODEL@URL`.
        found: what the probe said.
        weights: see `Texts`.
        requests: pictures that are asked about at the same time.

    Attributes:
        asked, unanswered: pictures, since it was made.
    """

    def __init__(self, name: str, found: Contact, weights: str, *, requests: int = 8) -> None:
        super().__init__(name, 224)
        self.found, self.way, self.requests = found, found.way, requests
        self.server = Server(Client(found.url, timeout=seconds()), found.model, found.extras)
        self.responses = Responses([name, found.fingerprint, found.probe])
        self.texts = Texts(found.model, weights) if found.way == INPUT else None
        self.asked = self.unanswered = 0
        self._prompts: dict[tuple[str, int], list[int]] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Of frames and scores; what the server computes in is its own."""
        return torch.float32

    def score(
        self,
        images: Tensor,
        questions: Sequence[str],
        candidates: Sequence[str] | Sequence[Sequence[str]],
        *,
        visual: Visual | None = None,
        normalize: bool = True,
    ) -> Tensor:
        """See `MLLM`; a row of NaN for a picture the server left unanswered.

        Raises ValueError where the server gives no likelihoods, TooManyUnansweredError.
        """
        if self.way == WRITTEN:
            raise ValueError(
                f"'{self.name}' gives no likelihoods, so no candidate has a score. {self.found.why} Expected vLLM or "
                "SGLang behind the address, or ask for written answers."
            )
        require_texts("questions", questions, len(images))
        encode_candidates(candidates, lambda text: [0] * len(text.strip()), len(images))  # checks them
        lists: Sequence[Any] = [candidates] * len(images) if isinstance(candidates[0], str) else candidates
        rows: list[list[str]] = [list(texts) for texts in lists]
        pictures = pictures_of(images)

        def ask(b: int) -> list[Likelihood]:
            return [self._likelihood(pictures[b], questions[b], text) for text in rows[b]]

        def request(b: int) -> dict[str, Any]:
            return {"picture": pictures[b].digest, "question": questions[b], "candidates": rows[b], "way": self.way}

        found = self._each(len(images), ask, request)
        table = torch.full((len(images), max(map(len, rows))), float("-inf"))
        for b, row in enumerate(found):
            values = [nats / tokens if normalize else nats for nats, tokens in row or []]
            table[b, : len(rows[b])] = torch.tensor(values) if values else float("nan")
        return table.to(self.device)

    def generate(
        self,
        images: Tensor,
        questions: Sequence[str],
        *,
        style: str = "infer",
        visual: Visual | None = None,
        **decoding: object,
    ) -> list[str]:
        """See `MLLM`. Raises UnansweredError where a picture has no answer; `written` leaves those out."""
        texts = self.written(images, questions, style=style, **decoding)
        if None in texts:
            raise UnansweredError(f"'{self.name}' left {texts.count(None)} of {len(texts)} pictures unanswered.")
        return [text for text in texts if text is not None]

    def written(
        self, images: Tensor, questions: Sequence[str], *, style: str = "infer", **decoding: Any
    ) -> list[str | None]:
        """Greedy answers, None for a picture the server left unanswered."""
        require_texts("questions", questions, len(images))
        most = decoding.pop("max_new_tokens", REFERENCE_DECODING["max_new_tokens"])
        if decoding.pop("num_beams", 1) != 1 or decoding:
            raise ValueError(
                f"A server decodes greedily, got {', '.join(decoding) or 'beams'}. Expected max_new_tokens alone."
            )
        pictures = pictures_of(images)
        asked = [SHORT.replace("{question}", q) if style == "vqa" else q for q in questions]

        def request(b: int) -> dict[str, Any]:
            return {"picture": pictures[b].digest, "question": asked[b], "most": most, "way": WRITTEN}

        return self._each(len(images), lambda b: write(self.server, pictures[b], asked[b], most), request)

    def _likelihood(self, picture: Picture, question: str, answer: str) -> Likelihood:
        if self.texts is not None:
            return sglang_likelihood(self.server.client, picture, *self.texts.parts(question, answer))
        key = (question, picture.side)  # its placeholders are as many for every picture of a size
        if key not in self._prompts:
            self._prompts[key] = prompt_ids(self.server, picture, question)
        return vllm_likelihood(self.server, picture, question, answer, self._prompts[key])

    def _each(self, count: int, ask: Callable[[int], Any], request: Callable[[int], dict[str, Any]]) -> list[Any]:
        """What `ask` says of each picture, read from disk where it is kept; None where it stays unanswered."""
        reasons: list[str] = []

        def one(b: int) -> Any:
            if (known := self.responses.get(**request(b))) is not None:
                return known
            try:
                answer = ask(b)
            except UnansweredError as error:
                reasons.append(str(error))
                return None
            self.responses.put(answer, **request(b))
            return answer

        with ThreadPoolExecutor(self.requests) as pool:
            found = list(pool.map(one, range(count)))
        self._count(count, reasons)
        return found

    def _count(self, count: int, reasons: list[str]) -> None:
        """Say what stayed unanswered. Raises TooManyUnansweredError."""
        self.asked, self.unanswered = self.asked + count, self.unanswered + len(reasons)
        if not reasons:
            return
        said = (
            f"{self.name}: {self.unanswered} of {self.asked} pictures stay unanswered so far (the last one: "
            f"{reasons[-1]}). They are left out as missing, never counted as wrong"
        )
        allowed = max(ALWAYS_ALLOWED, MOST_UNANSWERED * self.asked)
        if self.unanswered > allowed or self.unanswered == self.asked:
            raise TooManyUnansweredError(
                f"{said}. That is more than {MOST_UNANSWERED:.0%}, so the run stops. Look at the server, allow fewer "
                f"requests at a time ({REQUESTS}={max(1, self.requests // 2)}), and start the command again: answers "
                "that were given are kept."
            )
        print(f"WARNING: {said}; the same command asks for them again.", flush=True)

    # ---- what no server can do -------------------------------------------------------------------------------------
    def _refuse(self) -> NoReturn:
        raise NotImplementedError(ONLY_SCORES.format(name=self.name))

    def encode_image(self, images: Tensor, questions: Sequence[str]) -> Visual:
        self._refuse()

    def answer_token_counts(self, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        self._refuse()

    def answer_loss(
        self, images: Tensor, questions: Sequence[str], answers: Sequence[str], *, visual: Visual | None = None
    ) -> tuple[Tensor, Tensor]:
        self._refuse()


def pictures_of(images: Tensor) -> list[Picture]:
    """Frames (B, 3, S, S) as the server is shown them."""
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [picture_of(frame) for frame in pixels]


def load_served(*, name: str, weights: Path, requests: int | None = None, **_: Any) -> ServedMLLM:
    """The adapter of `served:MODEL@URL`; dtype and modes are the server's own.

    requests: pictures asked about at the same time; None: TVP_SERVED_REQUESTS, or 8.
    """
    requests = requests or number_of(REQUESTS, 8)
    return ServedMLLM(name, contact(name, str(weights)), str(weights), requests=requests)
