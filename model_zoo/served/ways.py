"""How a given answer's likelihood, or a written answer, is had from each kind of server.

Sources: vLLM's chat protocol (vllm/entrypoints/openai/protocol.py: `prompt_logprobs`, `return_token_ids`,
`continue_final_message`), SGLang's `/generate` (sglang's docs, sampling_params.md: `return_logprob`,
`logprob_start_len`, `image_data`), OpenAI's chat completions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from model_zoo.served.client import Client, UnansweredError
from model_zoo.served.picture import Picture

CHAT, GENERATE = "/v1/chat/completions", "/generate"
PROMPT, INPUT, WRITTEN = "prompt_logprobs", "input_token_logprobs", "generate"
"""The ways, best first: vLLM's field, SGLang's field, and texts alone."""
THINKING_OFF = {"chat_template_kwargs": {"enable_thinking": False}}


class LikelihoodMissingError(ValueError):
    """A server answered well and left out the likelihoods that were asked for."""


class OtherModelError(ValueError):
    """Another model stands behind an address than was asked for, or recorded."""


class Server(NamedTuple):
    """Who is asked. extras: fields beyond OpenAI's, which strict servers refuse."""

    client: Client
    model: str
    extras: dict[str, Any]


class Likelihood(NamedTuple):
    """nats: the log-likelihood of an answer, summed over its tokens. tokens: how many."""

    nats: float
    tokens: int


def write(server: Server, picture: Picture, question: str, most: int) -> str:
    """The model's own answer, decoded greedily, of at most so many tokens."""
    return _text(_chat(server, picture, question, max_tokens=most))


def prompt_ids(server: Server, picture: Picture, question: str) -> list[int]:
    """vLLM: token ids of the prompt that an answer follows, the picture's placeholders included."""
    return _ids(_chat(server, picture, question, max_tokens=1, return_token_ids=True))


def vllm_likelihood(server: Server, picture: Picture, question: str, answer: str, prompt: Sequence[int]) -> Likelihood:
    """The likelihood of an answer behind a prompt of these ids.

    Raises LikelihoodMissingError without likelihoods, ValueError where the tokenizer merges over the answer's border.
    """
    more = {"add_generation_prompt": False, "continue_final_message": True, "max_tokens": 1}
    found = _chat(server, picture, question, answer, prompt_logprobs=1, return_token_ids=True, **more)
    client, ids, table = server.client, _ids(found), found.get(PROMPT)
    if not isinstance(table, list) or len(table) != len(ids):
        raise LikelihoodMissingError(f"{client.url} answers 200 without the {PROMPT} of the {len(ids)} prompt tokens.")
    count = len(ids) - len(prompt)
    if count < 1 or ids[: len(prompt)] != list(prompt):
        raise _merged(client, answer)
    values = [(row or {}).get(str(i)) for i, row in zip(ids[-count:], table[-count:], strict=True)]
    return _summed(client, PROMPT, [value and value.get("logprob") for value in values])


def sglang_likelihood(
    client: Client, picture: Picture, text: str, answer: Sequence[int], before: Sequence[int]
) -> Likelihood:
    """The likelihood of a text's end, whose ids are `answer`; ids `before` stand in front of it.

    Asked from the first token and cut from the end: the server counts expanded picture tokens.
    Raises LikelihoodMissingError without likelihoods, OtherModelError where the server's tokens are not these.
    """
    sampling = {"temperature": 0, "max_new_tokens": 0}
    body = {"text": text, "image_data": [picture.url], "sampling_params": sampling}
    found = client.post(GENERATE, body | {"return_logprob": True, "logprob_start_len": 0})
    table = (found.get("meta_info") or {}).get(INPUT)
    if not isinstance(table, list) or not table:
        raise LikelihoodMissingError(f"{client.url} answers 200 without {INPUT}.")
    wanted = [*before, *answer]
    if [row[1] for row in table[-len(wanted) :]] != wanted:
        raise OtherModelError(
            f"{client.url} cuts the text's end into other tokens than the tokenizer in the weights folder: another "
            "model or version is served. Expected both to be of one model."
        )
    return _summed(client, INPUT, [row[0] for row in table[-len(answer) :]])


def _chat(server: Server, picture: Picture, question: str, answer: str | None = None, **more: Any) -> dict[str, Any]:
    """What the server answers, by the model that was asked: hosted ones add a date to its name."""
    content = [{"type": "image_url", "image_url": {"url": picture.url}}, {"type": "text", "text": question}]
    talk: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if answer is not None:
        talk.append({"role": "assistant", "content": answer})
    body = {"model": server.model, "messages": talk, "temperature": 0, "seed": 0}
    found = server.client.post(CHAT, body | server.extras | more)
    said = found.get("model")
    if isinstance(said, str) and not said.startswith(server.model):
        raise OtherModelError(
            f"{server.client.url} was asked '{server.model}', and '{said}' answered. Another model than recorded "
            "stands behind the address: name it, or serve the one that was asked."
        )
    return found


def _text(found: dict[str, Any]) -> str:
    try:
        text = found["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        raise UnansweredError("answered without a message") from None
    if not isinstance(text, str):
        raise UnansweredError("answered with a message that has no text")
    return text.strip()


def _ids(found: dict[str, Any]) -> list[int]:
    ids = found.get("prompt_token_ids")
    if not isinstance(ids, list) or not ids:
        raise LikelihoodMissingError("The server answers 200 without prompt_token_ids, so no answer's place is known.")
    return ids


def _summed(client: Client, field: str, values: Sequence[Any]) -> Likelihood:
    if any(not isinstance(value, int | float) for value in values):
        raise LikelihoodMissingError(f"{client.url} answers 200 with {field} that leave out tokens of the answer.")
    if not all(map(math.isfinite, values)):
        raise UnansweredError(f"answered with {field} that are no finite numbers")
    return Likelihood(float(sum(values)), len(values))


def _merged(client: Client, answer: str) -> ValueError:
    return ValueError(
        f"{client.url} writes the prompt with the answer {answer!r} behind it in tokens that do not begin with "
        "the prompt's, so the answer has no likelihood of its own. Expected a chat template and answers that go on."
    )
