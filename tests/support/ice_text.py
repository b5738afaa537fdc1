"""A tiny `ice_text.model`, trained in process: ChatGLM's special pieces around a small byte-fallback vocabulary."""

from __future__ import annotations

import io
from pathlib import Path

MARKS = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>", "<n>", "<|tab|>"]
BLANKS = [f"<|blank_{n}|>" for n in range(2, 81)]
TEXT = "a photo of a red car and the cat in the image what is it this is a photo of the dog question answer"


def write_ice_text(folder: Path, marks: list[str] = MARKS) -> Path:
    """Write FOLDER/ice_text.model; <unk>, <s>, </s>, <pad> are 0 to 3, the marks follow."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=4 + len(marks) + len(BLANKS) + 256 + 40,
        byte_fallback=True,
        user_defined_symbols=[*marks, *BLANKS],
        pad_id=3,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ice_text.model"
    path.write_bytes(model.getvalue())
    return path
