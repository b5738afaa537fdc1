"""The zoo's byte-level BPEs, dressed for an LLM, a Q-Former or CLIP: `tokenizer.json` beside this file for the emoji
world, `tokenizer_lite.json` for the models on pretrained towers.

All 256 bytes are tokens, so any text can be asked; whole words exist for the instruction templates and the shorter
names, so that names are 1 to 7 tokens long (mean-per-token ranking has something to average).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

TOKENIZER = "tokenizer.json"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]")


def train_tokenizer(texts: Sequence[str], names: Sequence[str], path: Path, vocab: int) -> None:
    """Fit merges on instruction texts (heavily) and names (lightly) and write `path`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *texts, *texts, *names], trainer)
    tokenizer.save(str(path))


@lru_cache(maxsize=4)
def build_tokenizer(qformer: bool = False, file: str = TOKENIZER) -> Any:
    """A `PreTrainedTokenizerFast` of a file beside this one; `qformer=True` adds [CLS] text [SEP] as BERT's does."""
    backend = Tokenizer.from_file(str(Path(__file__).parent / file))
    if qformer:
        ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


class ClipTokenizer:
    """Texts to (B, context) int64: start, tokens, end, zeros; open_clip pools at the highest id, the end."""

    def __init__(self, context: int = 32, file: str = TOKENIZER) -> None:
        self.context_length = context
        self.tokenizer = build_tokenizer(file=file)
        self.end = len(self.tokenizer)
        self.vocab_size = self.end + 1

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        size = context_length or self.context_length
        rows = torch.zeros(1 if isinstance(texts, str) else len(texts), size, dtype=torch.long)
        for row, text in zip(rows, [texts] if isinstance(texts, str) else texts, strict=True):
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"][: size - 2]
            row[: len(ids) + 2] = torch.tensor([self.tokenizer.bos_token_id, *ids, self.end])
        return rows
