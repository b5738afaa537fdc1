"""Do the files of a published MLLM belong together? Told from headers, config.json, tokenizers; no weight is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from model_zoo.weights.catalogue import PUBLISHED, PublishedModel
from model_zoo.weights.headers import merged_headers
from model_zoo.weights.safe import Tensors
from model_zoo.weights.vicuna import LLMFingerprint, count_lines, read_llm_fingerprint, vicuna_version

OK, WRONG, MISSING, NOTE = "ok", "WRONG", "MISSING", "note"

TYPES = {"Blip2T5": "t5", "Blip2OPT": "opt", "VisualGLM": "chatglm"}
"""Adapter class -> model_type of the LLM it wraps; every other one wraps a LLaMA."""

INSTEAD = {
    "v0": "the Vicuna-7B v0 weights (lmsys/vicuna-7b-delta-v0 applied to LLaMA-7B)",
    "v1.1": "the Vicuna-7B v1.1 weights (lmsys/vicuna-7b-delta-v1.1 applied to LLaMA-7B)",
}
CANNOT_TELL = (
    "not told by structure: Vicuna v1.3 or plain LLaMA in place of v1.1, and a delta that was not added to LLaMA "
    "(generate a sentence to see); no published digest"
)
BASE_WIDTH = 768  # Q-Former width of every published BLIP-2
LLM_WIDTH_OF = {"blip2_pretrained_flant5xxl.pth": 4096, "blip2_pretrained_flant5xl.pth": 2048}
"""Width of the t5_proj inside LAVIS's BLIP-2 files: the two hold Q-Formers of one shape, trained apart."""


class WeightsFinding(NamedTuple):
    """One checked item. state: ok, WRONG, MISSING or note (cannot be told)."""

    state: str
    item: str
    text: str


def check_structure(name: str, root: Path) -> None:
    """Refuse an LLM that `name` was not trained with, and vision tower, Q-Former, projection and LLM that do not fit.

    Headers and JSON are read, no weights. Raises ValueError naming everything that is wrong, what it was told from and
    what to get.
    """
    findings = structure_findings(name, root)
    bad = [f"{found.item}: {found.text}" for found in findings if found.state in (WRONG, MISSING)]
    if bad:
        raise ValueError(f"These files do not make a {name}. " + "\n  ".join(bad))


def structure_findings(name: str, root: Path) -> list[WeightsFinding]:
    """Findings on the LLM folder and on how the parts fit."""
    known = PUBLISHED[name]
    findings, llm = llm_findings(known, root / known.llm.path)
    if known.vision is None or llm is None:
        return findings
    tensors = merged_headers(root / item.path for item in known.checkpoints)
    vision = merged_headers([root / known.vision.path])
    return [
        *findings,
        *_projection(known, tensors, llm),
        *_qformer(known, tensors, vision),
        *(_bert(known, tensors, root) if known.bert else ()),
    ]


def llm_findings(known: PublishedModel, folder: Path) -> tuple[list[WeightsFinding], LLMFingerprint | None]:
    """Findings on the LLM folder alone, and what it says about itself; None for an LLM of another kind."""
    found = read_llm_fingerprint(folder)
    expected = TYPES.get(known.adapter.split(":")[1], "llama")
    where = known.llm.path
    if found.model_type != expected:
        text = (
            f"config.json describes a {found.model_type} LLM. Expected {expected} ({known.llm.what.split(':')[0]}); "
            f"get {known.llm.source} and put it into {folder}"
        )
        return [WeightsFinding(WRONG, where, text)], None
    findings = [WeightsFinding(OK, where, found.line()), *_rows(where, found), *_tokenizer(where, found)]
    if known.vicuna:
        findings += [_vicuna(where, folder, known.vicuna, found), WeightsFinding(NOTE, where, CANNOT_TELL)]
    return findings, found


def _rows(where: str, found: LLMFingerprint) -> list[WeightsFinding]:
    if found.rows is None:
        return [WeightsFinding(WRONG, where, "no input embedding in the shards. Expected the LLM's own weight files")]
    if found.vocab_size not in (None, found.rows):
        text = f"config.json says vocab_size {found.vocab_size}, the shards hold {found.rows} embedding rows. "
        return [WeightsFinding(WRONG, where, f"{text}Expected both from one folder; get the folder again as a whole")]
    if found.rows != found.head_rows:
        text = f"{found.rows} embedding rows but {found.head_rows} in lm_head. Expected equal numbers"
        return [WeightsFinding(WRONG, where, f"{text}; get the folder again as a whole")]
    return []


def _tokenizer(where: str, found: LLMFingerprint) -> list[WeightsFinding]:
    if found.pieces is None:
        text = "no tokenizer vocabulary. Expected tokenizer.model, spiece.model or vocab.json"
        return [WeightsFinding(MISSING, where, text)]
    if found.pieces < 10:
        text = f"its tokenizer is empty ({found.pieces} pieces). Expected the published vocabulary; get it again"
        return [WeightsFinding(WRONG, where, text)]
    largest = max([found.pieces - 1, *found.added.values()])
    if found.rows is not None and largest >= found.rows and "[PAD]" not in found.added:
        text = f"the tokenizer has {largest + 1} entries, more than the {found.rows} embedding rows. "
        return [WeightsFinding(WRONG, where, f"{text}Expected tokenizer and weights of one LLM; get the folder again")]
    return []


def _vicuna(where: str, folder: Path, wanted: str, found: LLMFingerprint) -> WeightsFinding:
    version, how = vicuna_version(found)
    if version == wanted:
        return WeightsFinding(OK, where, f"Vicuna {version} ({how})")
    held = f"looks like Vicuna {version}" if version != "unknown" else "is neither Vicuna v0 nor v1.1"
    text = (
        f"the LLM in {folder} {held}, but this model was trained with Vicuna {wanted}; the wrong one gives garbage "
        f"without an error. Recognised by: {how} (v0: [PAD] added, rows = pieces + 1; v1.1: no [PAD], rows = pieces). "
        f"Get {INSTEAD[wanted]} instead"
    )
    return WeightsFinding(WRONG, where, text)


def _projection(known: PublishedModel, tensors: Tensors, llm: LLMFingerprint) -> list[WeightsFinding]:
    findings = []
    for name in filter(None, (known.projection, known.patch_projection)):
        if f"{name}.weight" not in tensors:
            continue  # the key check names it
        rows = tensors[f"{name}.weight"].shape[0]
        text = f"{name} leads to width {rows}, the LLM in {known.llm.path} has width {llm.width}"
        fits = WeightsFinding(OK, name, text)
        hint = f"{text}. Expected equal widths: one of the two belongs to another model (or another size of this one)"
        findings.append(fits if rows == llm.width else WeightsFinding(WRONG, name, hint))
    return findings


def _qformer(known: PublishedModel, tensors: Tensors, vision: Tensors) -> list[WeightsFinding]:
    key, queries = "Qformer.bert.encoder.layer.0.crossattention.self.key.weight", "query_tokens"
    if not {key, queries} <= tensors.keys() or "cls_token" not in vision:
        return []
    assert known.vision is not None  # the caller has read it
    (width, reads), tower = tensors[key].shape, vision["cls_token"].shape[-1]
    text = f"width {width}, {tensors[queries].shape[1]} queries, reads a vision tower of width {reads}"
    columns = tensors[f"{known.projection}.weight"].shape[1] if f"{known.projection}.weight" in tensors else width
    if reads != tower:
        but = f"{known.vision.path} has width {tower}"
    elif tensors[queries].shape[-1] != width:
        but = f"its query tokens have width {tensors[queries].shape[-1]}"
    elif columns != width:
        but = f"{known.projection} expects width {columns}"
    else:
        return [WeightsFinding(OK, "Q-Former", text), *_same_shape_other_training(known, tensors, width)]
    files = " and ".join(item.path for item in known.checkpoints)
    hint = f"Expected the Q-Former of {files}; another BLIP-2 has other sizes"
    return [WeightsFinding(WRONG, "Q-Former", f"{text}, but {but}. {hint}")]


def _same_shape_other_training(known: PublishedModel, tensors: Tensors, width: int) -> list[WeightsFinding]:
    wanted = LLM_WIDTH_OF.get(Path(known.checkpoints[0].path).name)
    rows = tensors["t5_proj.weight"].shape[0] if "t5_proj.weight" in tensors else wanted
    if width != BASE_WIDTH or wanted is None or rows == wanted:
        return []
    text = f"its t5_proj leads to width {rows}, the published file's to {wanted}: the Q-Former of another BLIP-2"
    return [WeightsFinding(WRONG, known.checkpoints[0].path, f"{text}. Get {known.checkpoints[0].source}")]


def _bert(known: PublishedModel, tensors: Tensors, root: Path) -> list[WeightsFinding]:
    key = "Qformer.bert.embeddings.word_embeddings.weight"
    if key not in tensors:
        return []
    assert known.bert is not None
    lines, rows = count_lines(root / known.bert.path), tensors[key].shape[0]
    text = f"{lines} entries, the Q-Former has {rows} word embeddings"
    if rows == lines + 1:
        return [WeightsFinding(OK, known.bert.path, f"{text} ([DEC] is the last)")]
    text += f". Expected {rows - 1} entries (published: 30,522, and [DEC] appended); get bert-base-uncased's vocab.txt"
    return [WeightsFinding(WRONG, known.bert.path, text)]


def guarded(item: str, look: Callable[[], list[WeightsFinding]]) -> list[WeightsFinding]:
    """`look()`, or one finding that says why it could not look: the files are damaged, missing or unreadable."""
    try:
        return look()
    except FileNotFoundError as error:
        return [WeightsFinding(MISSING, item, str(error))]
    except (ValueError, OSError) as error:
        return [WeightsFinding(WRONG, item, str(error))]
