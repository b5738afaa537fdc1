"""Prompts as text, for a server that takes no messages: rendered here from the model's own processor."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


class Texts:
    """The chat template and tokenizer in `weights/MODEL`; of the model's files only the small ones are needed.

    Raises FileNotFoundError that says which where the folder is not there, ValueError for one without a template.
    """

    def __init__(self, model: str, weights: str) -> None:
        folder = Path(weights).expanduser() / model
        if not folder.is_dir():
            raise FileNotFoundError(
                f"SGLang's /generate takes no messages, so the prompt is written here, and '{folder}' is not there. "
                "Expected tokenizer, processor and chat template of the model in it (no weights)."
            )
        from transformers import AutoProcessor

        from model_zoo.hf.prompt import Prompter

        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.prompter = Prompter(processor, processor.image_processor, {})
        tokenizer = processor.tokenizer
        bos, first = tokenizer.bos_token, tokenizer("a")["input_ids"][:1]
        self.bos = bos if bos and first == [tokenizer.bos_token_id] else ""  # the server's tokenizer adds it

    def parts(self, question: str, answer: str) -> tuple[str, list[int], list[int]]:
        """(the prompt with the answer behind it, token ids of the answer, those of the prompt's end before it)."""
        p = self.prompter
        text = p.text(question).removeprefix(self.bos) + p.lead + answer
        return text, p.answer(answer), p.ids(p.tail)

    def digest(self, question: str) -> str:
        """sha256 over a prompt's text and the tokens of its end."""
        p = self.prompter
        return hashlib.sha256(json.dumps([p.text(question), p.ids(p.tail)]).encode()).hexdigest()
