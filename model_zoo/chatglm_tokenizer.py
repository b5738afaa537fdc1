"""The tokenizer of ChatGLM-6B v1 and VisualGLM-6B: a sentencepiece file with its own code for white space."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from model_zoo.weights.index import read_json

SPECIAL = {"unk": "<unk>", "bos": "<sop>", "eos": "<eop>", "pad": "<pad>", "mask": "[MASK]", "gmask": "[gMASK]"}
"""The published names; `<sop>` begins an answer, `<eop>` ends it."""
UNSPOKEN = ("<s>", "</s>", "[sMASK]", "<ENC>", "<dBLOCK>")
"""Further marks of the vocabulary that are no text."""
NEWLINE, TAB, BLANK = "<n>", "<|tab|>", "<|blank_{}|>"


def encode_spaces(text: str) -> str:
    """Newlines, tabs and runs of two and more blanks as the pieces that stand for them.

    >>> encode_spaces("a  b")
    'a<|blank_2|>b'
    """
    text = text.replace("\n", NEWLINE).replace("\t", TAB)
    return re.sub(r" {2,80}", lambda run: BLANK.format(len(run[0])), text)  # the vocabulary goes up to 80


def decode_spaces(text: str) -> str:
    """The inverse of `encode_spaces`."""
    text = text.replace(NEWLINE, "\n").replace(TAB, "\t")
    blank = re.escape(BLANK).replace(r"\{\}", r"(\d+)")
    return re.sub(blank, lambda run: " " * int(run[1]), text)


class ChatGLMTokenizer:
    """Text to ids and back; ids are those of the sentencepiece file plus `offset`.

    Args:
        vocab_file: `ice_text.model`.
        offset: how many image tokens come before the text in the vocabulary (20,000 in the first release of
            ChatGLM-6B, 0 since they were removed, and in VisualGLM-6B).
        names: piece of each special token, where it differs from `SPECIAL`.
        remove_space, lower_case: further preprocessing some configurations ask for; both off in the published ones.

    Raises ValueError when the file has no piece for a special token.
    """

    def __init__(
        self,
        vocab_file: str | Path,
        *,
        offset: int = 0,
        names: Mapping[str, str] | None = None,
        remove_space: bool = False,
        lower_case: bool = False,
    ) -> None:
        self.name_or_path = str(Path(vocab_file).parent)
        self.pieces = SentencePieceProcessor(model_file=str(vocab_file))
        self.offset, self.remove_space, self.lower_case = offset, remove_space, lower_case
        self.names = {**SPECIAL, **(names or {})}
        known: dict[str, Any] = {kind: self.piece_id(name) for kind, name in self.names.items()}
        if absent := [self.names[kind] for kind, number in known.items() if number is None]:
            raise ValueError(f"{vocab_file} has no piece {', '.join(absent)}. Expected VisualGLM-6B's ice_text.model.")
        self.unk_token_id, self.pad_token_id = known["unk"], known["pad"]
        self.bos_token_id, self.eos_token_id = known["bos"], known["eos"]
        self.sop_token_id, self.gmask_token_id = known["bos"], known["gmask"]  # `<sop>` is the BOS
        self.silent = {*known.values(), *map(self.piece_id, UNSPOKEN)} - {None}

    def piece_id(self, name: str) -> int | None:
        """The id of a piece, None if the vocabulary lacks it."""
        number = self.pieces.piece_to_id(name)
        return number + self.offset if self.pieces.id_to_piece(number) == name else None

    def __len__(self) -> int:
        return self.offset + self.pieces.get_piece_size()

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        """{"input_ids": [...]}; special tokens are `[gMASK]` `<sop>` at the end."""
        text = " ".join(text.split()) if self.remove_space else text
        ids = self.pieces.encode(encode_spaces(text.lower() if self.lower_case else text))
        end = [self.gmask_token_id, self.bos_token_id] if add_special_tokens else []
        return {"input_ids": [number + self.offset for number in ids] + end}

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of ids; ids of no piece (image tokens, padding rows of the model's vocabulary) are left out."""
        dropped = self.silent if skip_special_tokens else set()
        kept = [int(i) - self.offset for i in ids if int(i) not in dropped and self.offset <= int(i) < len(self)]
        return decode_spaces(self.pieces.decode(kept))


def load_tokenizer(folder: Path) -> ChatGLMTokenizer:
    """The tokenizer of a published folder: ice_text.model, tokenizer_config.json, and the ids in config.json.

    Raises ValueError when it and the model disagree about the ids of the special tokens.
    """
    settings, model = (read_json(folder / name, absent={}) for name in ("tokenizer_config.json", "config.json"))
    names = {kind: settings[f"{kind}_token"] for kind in SPECIAL if isinstance(settings.get(f"{kind}_token"), str)}
    options: dict[str, Any] = {
        "names": names,
        "remove_space": bool(settings.get("remove_space")),
        "lower_case": bool(settings.get("do_lower_case")),
    }
    offset = settings.get("num_image_tokens")
    if offset is None:  # then the model's own ids tell
        bare = ChatGLMTokenizer(folder / "ice_text.model", **options)
        offset = model.get("bos_token_id", bare.bos_token_id) - bare.bos_token_id
    tokenizer = ChatGLMTokenizer(folder / "ice_text.model", offset=offset, **options)
    for kind in ("bos", "eos", "pad", "gmask"):
        ours, theirs = getattr(tokenizer, f"{kind}_token_id"), model.get(f"{kind}_token_id")
        if theirs is not None and ours != theirs:
            raise ValueError(
                f"{folder}: {tokenizer.names[kind]} is {ours} in ice_text.model and {theirs} in config.json. "
                "Expected both from the same release; get the folder again."
            )
    return tokenizer
