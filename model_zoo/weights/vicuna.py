"""The structural fingerprint of an LLM folder: what its headers, config.json and tokenizer say, and which LLM that is.

Vicuna v0 and v1.1 have the same shapes but for one row, and the wrong one answers with garbage instead of an error
(LAVIS #297, MiniGPT-4 #12). v0 was trained with a `[PAD]` token appended to LLaMA's pieces, v1.1 without it. That, the
architecture, width and context length are all that structure can tell:

* v1.1 and v1.3, or a plain LLaMA, look alike; so do a delta that was never added to LLaMA and the applied weights.
* There is no published digest to compare with: the licence allowed only deltas, each user wrote the shards anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sentencepiece import SentencePieceProcessor

from model_zoo.weights.headers import merged_headers
from model_zoo.weights.index import read_json, shard_paths

PAD = "[PAD]"
EMBEDDINGS = {
    "llama": ("model.embed_tokens.weight",),
    "opt": ("model.decoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    "t5": ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    "chatglm": ("transformer.word_embeddings.weight",),
}
"""config.json's model_type -> names the input embedding may have: OPT's hub folders hold the base model only,
safetensors keep any one of T5's tied copies."""
HEAD = "lm_head.weight"

LLAMA_2_CONTEXT, LLAMA_2_WIDTHS = 4096, (4096, 5120)
"""max_position_embeddings and hidden sizes (7B, 13B) of Llama 2, on which Vicuna v1.5 is built; LLaMA has 2,048."""


class LLMFingerprint(NamedTuple):
    """What an LLM folder says about itself; None where it does not say.

    rows, head_rows: rows of the input embedding and of the output head, from headers.
    pieces: entries of the tokenizer's own vocabulary, without added_tokens.json; added: token -> id beside them.
    special: bos, eos, pad, unk of config.json.
    """

    model_type: str
    width: int | None
    layers: int | None
    vocab_size: int | None
    context: int | None
    rows: int | None
    head_rows: int | None
    pieces: int | None
    added: dict[str, int]
    special: dict[str, int | None]

    def line(self) -> str:
        """One line for people."""
        added = ", ".join(f"{token}={number}" for token, number in list(self.added.items())[:4]) or "none"
        special = ", ".join(f"{name} {number}" for name, number in self.special.items() if number is not None)
        return (
            f"{self.model_type}, width {self.width}, {self.layers} layers, context {self.context}, "
            f"{self.rows} embedding rows, {self.pieces} tokenizer pieces, added tokens: {added}; {special}"
        )


def read_llm_fingerprint(folder: Path) -> LLMFingerprint:
    """The fingerprint of a Hugging Face folder; only headers and small JSON files are read.

    Raises FileNotFoundError or ValueError (broken JSON, damaged shards, unreadable tokenizer).
    """
    config = read_json(folder / "config.json")
    kind = str(config.get("model_type", "unknown"))
    names = EMBEDDINGS.get(kind, ())
    headers = merged_headers(shard_paths(folder, *names, HEAD)) if names else {}
    rows = next((headers[name].shape[0] for name in names if name in headers), None)
    head_rows = headers[HEAD].shape[0] if HEAD in headers else rows  # a tied head is not stored
    return LLMFingerprint(
        kind,
        config.get("hidden_size", config.get("d_model")),
        config.get("num_hidden_layers", config.get("num_layers")),
        config.get("vocab_size"),
        config.get("max_position_embeddings", config.get("max_sequence_length")),
        rows,
        head_rows,
        count_pieces(folder),
        added_tokens(folder),
        {name: config.get(f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")},
    )


def count_pieces(folder: Path) -> int | None:
    """Entries of the tokenizer's own vocabulary, from whichever file it has; None without one.

    Raises ValueError for a vocabulary file that cannot be read.
    """
    for name in ("tokenizer.model", "spiece.model", "ice_text.model"):
        if (folder / name).exists():
            return _sentencepiece_size(folder / name)
    if (folder / "vocab.json").exists():
        return len(read_json(folder / "vocab.json"))
    if (folder / "tokenizer.json").exists():
        return len(read_json(folder / "tokenizer.json").get("model", {}).get("vocab", ()))
    if (folder / "vocab.txt").exists():
        return count_lines(folder / "vocab.txt")
    return None


def count_lines(path: Path) -> int:
    """Entries of a BERT vocab.txt."""
    return sum(1 for line in path.read_text(encoding="utf-8").split("\n") if line)


def _sentencepiece_size(path: Path) -> int:
    content = path.read_bytes()
    if not content:
        raise ValueError(f"The tokenizer {path} is empty (0 bytes). Expected the published file; get it again.")
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise ValueError(
            f"The tokenizer {path} cannot be read ({error}). Expected a sentencepiece model; get it again."
        ) from error
    return processor.get_piece_size()


def added_tokens(folder: Path) -> dict[str, int]:
    """Token -> id of tokens appended to the vocabulary: added_tokens.json, or what newer folders keep elsewhere."""
    if (folder / "added_tokens.json").exists():
        return dict(read_json(folder / "added_tokens.json"))
    if not (folder / "tokenizer_config.json").exists():
        return {}
    listed = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    return {entry["content"]: int(number) for number, entry in listed.items() if entry.get("content") == PAD}


def vicuna_version(found: LLMFingerprint) -> tuple[str, str]:
    """(version, how it was recognised); version is v0, v1.1, v1.5 or `unknown`."""
    padded = PAD in found.added
    tokens = f"[PAD] is {'' if padded else 'not '}in added_tokens.json"
    how = f"{found.rows} embedding rows, {found.pieces} tokenizer pieces, {tokens}"
    if found.context == LLAMA_2_CONTEXT and found.width in LLAMA_2_WIDTHS:
        return "v1.5", f"max_position_embeddings {found.context}, which is Llama 2"
    if found.rows is None or found.pieces is None:
        return "unknown", how
    if padded and found.rows == found.pieces + 1:
        return "v0", how
    if not padded and found.rows == found.pieces:
        return "v1.1", how
    return "unknown", how
