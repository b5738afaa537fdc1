"""`python -m model_zoo list`: models, files, disk and memory as aligned text. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model_zoo.hf.catalogue import HF_MODELS, HubModel, named_entry
from model_zoo.hf.folder import folder_of
from model_zoo.memory.need import source_need, target_need
from model_zoo.memory.sizes import BYTES, PUBLISHED_SIZES, Sizes
from model_zoo.registry import canonical, contact_of, get_entry, list_mllms, missing_files, weight_files
from model_zoo.weights.catalogue import PUBLISHED, WeightFile
from model_zoo.weights.layouts import complete_layout, fetch_command

CHOICES = (("float32", None), ("bfloat16", None), ("bfloat16", "8bit"), ("bfloat16", "4bit"))
EVAL_BATCH = 64


def gib(count: float) -> str:
    """Bytes for people, always in a unit of their size."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size / 2:
            return f"{count / size:.1f} {unit}"
    return f"{int(count)} bytes"


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with their columns aligned, two blanks between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def show_all(weights: Path, batch: int | None) -> str:
    """One line per MLLM; batch: what a source needs at so many images is measured too, which takes seconds."""
    measured = [f"source, batch {batch}"] if batch else []
    rows: list[tuple[str, ...]] = [("name", "files", "on disk", "parameters", *measured, "target", "what it is")]
    for name in list_mllms():
        entry, sizes, official = get_entry(name), known_sizes(name, "one"), known_sizes(name, "official")
        source = [gib(source_need(sizes, batch, "bfloat16").total) if sizes else "small"] if batch else []
        target = gib(target_need(official, EVAL_BATCH, "bfloat16").total) if official else "small"
        count = f"{entry.parameters / 1e6:,.1f} M"
        rows.append((name, *_presence(name, weights), count, *source, target, entry.description))
    notes = [
        f"Files below '{weights}'. Memory is planned for bfloat16 on a GPU: a target scoring {EVAL_BATCH} images, and "
        f"with batch=N a source with gradients at N images.",
        "~ is expected from the published parameter counts, not measured. Details: python -m model_zoo list NAME",
    ]
    return "\n".join([*table(rows), "", *notes])


def known_sizes(name: str, tiles: str) -> Sizes | None:
    """The published sizes of a model, of the hub's with `one` or `official` tiles; None for small or unknown ones."""
    known = named_entry(name)
    return known.sizes(tiles) if known else PUBLISHED_SIZES.get(canonical(name))


def _presence(name: str, weights: Path) -> tuple[str, str]:
    """(complete or how much is missing, size on disk); a folder that belongs to another model does not stop a list."""
    try:
        missing = missing_files(name, weights)
        return f"{len(missing)} missing" if missing else "complete", disk(name, weights)
    except (ValueError, OSError):
        return "unusable", "see check"


def show_one(name: str, weights: Path, batch: int) -> str:
    """Files and memory of one MLLM. Raises ValueError for an unknown name."""
    entry = get_entry(name)
    name = canonical(name)
    if entry.served:
        return show_served(name, weights)
    lines = [f"{name}: {entry.description}", "", f"Files below '{weights}' ({disk(name, weights)}):"]
    if entry.embedded:
        lines = [lines[0], "", f"Ships with the package ({disk(name, weights)}); nothing to download."]
    if entry.hf:
        lines += hub_lines(name, weights)
    for item in entry.files:
        lines += [f"  {_state(item, weights):18} {item.path}: {item.what}"]
        lines += [f"  {'':18} published: {item.source}; licence: {item.licence}"]
    lines += _remarks(name, weights)
    if sizes := known_sizes(name, "one"):
        lines += ["", *memory_table(sizes, batch)]
    return "\n".join(lines)


def show_served(name: str, weights: Path) -> str:
    """Who answers for a served model and how it is read, or why nobody does."""
    head = f"{name}: {get_entry(name).description}\n\n  "
    if problem := "".join(missing_files(name, weights)):
        return head + problem
    found = contact_of(name, weights)
    return f"{head}{found.server}, read by {found.way}. {found.why}".rstrip()


def hub_lines(name: str, weights: Path) -> list[str]:
    """Where a model of the hub lies, what of it is missing, and of a named entry what it shares with others."""
    try:
        missing = missing_files(name, weights)
    except ValueError as error:
        missing = [str(error)]
    lines = [f"  {folder_of(name, weights)}: {'complete' if not missing else 'NOT COMPLETE'}"]
    lines += [f"    {line}" for line in missing]
    if (known := named_entry(name)) is None:
        return lines
    one, official = known.tokens
    return [
        *lines,
        f"  published: {known.hub} (hub); licence: {known.licence}",
        f"  a frame of 224 pixels is {one} visual tokens with one tile, {official} with the official tiles",
        *(f"  {text}" for text in shared_with(known)),
    ]


def shared_with(known: HubModel) -> list[str]:
    """What a named entry's tower and LLM started from, and which other entries started there too."""
    lines = []
    for what, start in (("tower", known.tower), ("LLM", known.llm)):
        others = [name for name, other in HF_MODELS.items() if start in (other.tower, other.llm) and other != known]
        lines.append(f"{what} from {start}" + (f", as {', '.join(others)}" if others else ""))
    return lines


def _remarks(name: str, weights: Path) -> list[str]:
    """Which other layout is in use, or how to look closer at what is missing."""
    if not get_entry(name).files:
        return []
    layout = complete_layout(name, weights)
    if layout and layout.kind != "original":
        return [f"  All of it is there in the {layout.kind} layout: {layout.folder}"]
    lines = []
    if hub := PUBLISHED[name].hub:
        lines += [f"  Or, instead of all of these, the Hugging Face conversion {hub} (hub) in {weights / hub}"]
    if layout is None:
        lines += [f"  Get them with: {fetch_command(name, weights)}"]
        lines += [f"  Look closer with: python -m model_zoo check {name} weights={weights}"]
    return lines


def memory_table(sizes: Sizes, batch: int) -> list[str]:
    """Bytes by dtype and role."""
    source = f"source, gradients at batch {batch}"
    rows: list[tuple[str, ...]] = [
        ("weights as", "weights", source, "the same, checkpointing", f"target, scoring {EVAL_BATCH}")
    ]
    for dtype, quant in CHOICES:
        plain, kept = (source_need(sizes, batch, dtype, quant=quant, checkpointing=c) for c in (False, True))
        target = target_need(sizes, EVAL_BATCH, dtype, quant=quant)
        label = dtype if quant is None else f"{dtype}, LLM in {quant}"
        rows.append((label, gib(plain.weights), gib(plain.total), gib(kept.total), gib(target.total)))
    note = (
        "Planned, on a GPU: 32 text, 8 answer and 64 candidate tokens, 5 % allocator loss, 0.6 GiB for the driver. "
        "What autograd keeps was checked on CPU; 8bit and 4bit need the extra `quant` and were not measured."
    )
    return ["Memory:", *(f"  {line}" for line in table(rows)), note]


def _state(item: WeightFile, weights: Path) -> str:
    parts = [weights / part for part in item.parts(weights)]
    there = [part for part in parts if part.is_file()]
    if len(there) < len(parts):
        return "MISSING" if not there else f"{len(parts) - len(there)} of {len(parts)} MISSING"
    return f"present {gib(sum(part.stat().st_size for part in there))}"


def disk(name: str, weights: Path) -> str:
    """Size on disk: measured when complete, else expected and marked with ~."""
    if not missing_files(name, weights):
        return gib(sum(path.stat().st_size for path in weight_files(name, weights)))
    if known := named_entry(name):
        return f"~{gib(2 * known.parameters)}"  # bfloat16
    return f"~{gib(expected_bytes(PUBLISHED_SIZES[name]))}" if name in PUBLISHED_SIZES else "unknown"


def expected_bytes(sizes: Sizes) -> int:
    """Published files: EVA (with the block that is dropped) and LLMs in 16 bit, FlanT5 and Q-Formers in 32."""
    eva = sizes.vision._replace(layers=sizes.vision.layers + 1).parameters
    llm = sizes.llm.parameters * BYTES["float32" if sizes.llm.kind == "t5" else "float16"]
    return 2 * eva + llm + 4 * (sizes.connector - sizes.vision.parameters)
