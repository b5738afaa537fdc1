"""The prompt exactly as the folder's chat template and processor make it, and where the answer stands in it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor
from transformers.image_processing_base import BatchFeature

from model_zoo.hf.doors import answering
from model_zoo.hf.pixels import run

TYPES = ("token_type_ids", "mm_token_type_ids")
QUESTION, ANSWER = "QUESTION", "REPLY"  # stand where a question and an answer will
THINKING_OFF = {"enable_thinking": False}
SHORT = "{question}\nAnswer the question using a single word or phrase."
SHORT_SUFFIX = "answer en {question}"


class Row(NamedTuple):
    """Token ids, pictures expanded to their placeholders, and the token types a family has."""

    ids: list[int]
    types: dict[str, list[int]]

    def then(self, ids: list[int], kind: int) -> Row:
        """The row with text of one token type behind it."""
        types = {key: [*values, *[kind] * len(ids)] for key, values in self.types.items()}
        return Row([*self.ids, *ids], types)


class Picture(NamedTuple):
    """What the official processor makes of a blank frame of one size, and the options it was called with."""

    inputs: dict[str, Any]
    options: dict[str, Any]


class _Recorder:
    """Stands for a processor's image processor: notes its options, or answers what is known already."""

    def __init__(self, inner: Any, known: Picture | None) -> None:
        self._inner, self.picture = inner, known

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        if self.picture is None:
            frame = images[0][0] if isinstance(images[0], list | tuple) else images[0]
            self.picture = Picture(run(self._inner, frame[None], options), options)
        return BatchFeature(dict(self.picture.inputs))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Prompter:
    """Texts to token ids for one processor.

    Args:
        processor: the folder's own.
        images: its image processor, made differentiable.
        options: for both, e.g. one tile.
        suffix: the family has no chat template, and answers are the tokenizer's second text.
        template_kwargs: what the chat template is given; `enable_thinking` is False unless given, where it knows it.

    Raises ValueError for a processor without a chat template, and for a template in which the answer has no place.
    """

    def __init__(
        self,
        processor: Any,
        images: Any,
        options: Mapping[str, Any],
        *,
        suffix: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.processor, self.images, self.options, self.suffix = processor, images, dict(options), suffix
        self.tokenizer = processor.tokenizer
        self._pictures: dict[int, Picture] = {}
        self._rows: dict[tuple[str, int], Row] = {}
        self._answers: dict[str, tuple[int, ...]] = {}
        self.template_kwargs: dict[str, Any] = {}
        self.more = self.lead = self.tail = self.end = ""
        if not suffix:
            self._find_answer(template_kwargs or {})

    def _find_answer(self, given: Mapping[str, Any]) -> None:
        # Folders of 2024 may hold it with the tokenizer alone.
        template = self.processor.chat_template = self.processor.chat_template or self.tokenizer.chat_template
        if not template:
            raise ValueError(
                f"{type(self.processor).__name__} has no chat template, so nobody knows how it asks. Expected "
                "chat_template.jinja (or chat_template.json) in the folder; get the instruction-tuned model."
            )
        self.template_kwargs = {k: v for k, v in THINKING_OFF.items() if k in str(template)} | dict(given)
        prompt, whole = self._rendered()
        lead, found, end = whole.removeprefix(prompt).partition(ANSWER)
        if not whole.startswith(prompt) or not found:
            raise ValueError(
                f"The chat template writes a finished conversation as {whole!r}, which does not go on from the prompt "
                f"{prompt!r} with the answer in it. Expected a template whose prompt is the conversation's beginning; "
                "see `template` options."
            )
        # White space is tokenised together with the answer; anything else was said before it.
        self.more, self.lead = (lead, "") if lead.strip() else ("", lead)
        self.tail = prompt.rpartition(QUESTION)[2] + self.more
        eos = self.tokenizer.eos_token
        self.end = end.partition(eos)[0] + eos if eos and eos in end else end.rstrip()

    def _rendered(self) -> tuple[str, str]:
        """A prompt, and the finished conversation.

        Templates expect what the assistant said as parts, as a plain text, or as either. One that expects a text fails
        on parts or prints them as Python writes them, which is longer; one that expects parts leaves a text out.
        """
        prompt = self._tried()
        wholes = [self._tried(form) for form in ([{"type": "text", "text": ANSWER}], ANSWER)]
        texts = [whole for whole in wholes if isinstance(whole, str)]
        if isinstance(prompt, str) and texts:
            return prompt, min(texts, key=lambda whole: (ANSWER not in whole, len(whole)))
        error = next(e for e in (prompt, *wholes) if not isinstance(e, str))
        raise ValueError(
            f"The chat template fails on a question about a picture: {error}. Expected one that takes messages with an "
            "image, a text and an answer; get the folder of the instruction-tuned model."
        )

    def _tried(self, answer: Any = None) -> str | Exception:
        """What the template writes, or why it does not."""
        try:
            return self._render(QUESTION, answer)
        except (TypeError, TemplateError) as error:
            return error

    def _render(self, question: str, answer: Any = None) -> str:
        talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        if answer is not None:
            talk.append({"role": "assistant", "content": answer})
        return self.processor.apply_chat_template(
            talk, add_generation_prompt=answer is None, tokenize=False, **self.template_kwargs
        )

    def text(self, question: str, style: str = "cls") -> str:
        """The whole prompt as text, the picture as its mark. Raises ValueError for an unknown style."""
        if style not in ("cls", "infer", "vqa"):
            raise ValueError(f"Unknown style {style!r}. Expected one of cls, infer, vqa.")
        if style == "vqa":
            question = (SHORT_SUFFIX if self.suffix else SHORT).replace("{question}", question)
        return self.processor.image_token + question if self.suffix else self._render(question) + self.more

    def picture(self, size: int) -> Picture:
        """A blank frame of this size as the official processor sees it."""
        if size not in self._pictures:
            self.row("", size)
        return self._pictures[size]

    def row(self, question: str, size: int, style: str = "cls") -> Row:
        """The prompt before the answer for a frame of this size; the image processor runs once a size."""
        text = self.text(question, style)
        if (text, size) not in self._rows:
            if len(self._rows) > 100_000:
                self._rows = {}
            self._rows[text, size] = self._process(text, size)
        return self._rows[text, size]

    def _process(self, text: str, size: int) -> Row:
        recorder = _Recorder(self.images, self._pictures.get(size))
        bos = self.tokenizer.bos_token
        plain = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
        blank = torch.full((3, size, size), 0.5)
        with answering(self.processor, "image_processor", recorder), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, where a processor hands it a tensor
            found = self.processor(text=[text], images=[[blank]], **self.options, **plain)
        assert recorder.picture is not None
        self._pictures[size] = recorder.picture
        return Row(list(found["input_ids"][0]), {key: list(found[key][0]) for key in TYPES if key in found})

    def answer(self, answer: str) -> list[int]:
        """Token ids of an answer behind the prompt; none for an empty one.

        Raises ValueError where the tokenizer merges the prompt's end with the answer's beginning.
        """
        return self._behind(answer, "") if answer else []

    def answer_and_end(self, answer: str) -> list[int]:
        """Token ids that enter the loss: the answer and what ends it."""
        return self._behind(answer, self.end) if self.end else [*self._behind(answer, ""), self.tokenizer.eos_token_id]

    def _behind(self, answer: str, end: str) -> list[int]:
        text = self.tail + self.lead + answer + end
        if text not in self._answers:
            if len(self._answers) > 100_000:
                self._answers = {}
            before, ids = self.ids(self.tail), self.ids(text)
            if ids[: len(before)] != before:
                raise ValueError(
                    f"The tokenizer merges the prompt's end {self.tail!r} with the beginning of the answer {answer!r}, "
                    "so the answer has no likelihood of its own. Expected answers that begin a new token."
                )
            self._answers[text] = tuple(ids[len(before) :])
        return list(self._answers[text])

    def ids(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def stack(rows: list[Row], device: torch.device, *, left: bool = False) -> dict[str, Tensor]:
    """Rows as padded tensors (B, L): `input_ids`, `attention_mask` (int64) and the token types."""
    length = max(len(row.ids) for row in rows)
    table: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": []}
    for row in rows:
        fill = [0] * (length - len(row.ids))
        whole = {"input_ids": row.ids, "attention_mask": [1] * len(row.ids), **row.types}
        for key, values in whole.items():
            table.setdefault(key, []).append([*fill, *values] if left else [*values, *fill])
    return {key: torch.tensor(values, device=device) for key, values in table.items()}
