"""Write the parts of README, docs/ and cards that follow from data.

A test compares them. It also keeps a sweep's results and a prompt with us.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from datamodules.prepare.catalogue import PUBLISHED as PUBLISHED_DATA
from datamodules.registry import load_datamodule
from experiments.cli import markdown, parse_options, run_command
from experiments.costing.table import cost_markdown, plan_markdown
from experiments.embedded_zoo.gates_text import gates_markdown, read_gates, read_worlds
from experiments.kept import MATRIX, RESULTS, STATISTICS, packed
from experiments.report.kept_tables import (
    by_target_table,
    commands_table,
    directions_table,
    found_table,
    mapping_table,
    one_source_table,
    own_table,
    pairs_table,
    result_section,
    study_table,
    why_tables,
)
from experiments.tracking.keys import keys_table
from lightning_modules.atomic import replace_file
from model_zoo.hf.catalogue import HF_MODELS
from model_zoo.memory.need import source_need, target_need
from model_zoo.memory.sizes import PUBLISHED_SIZES
from model_zoo.registry import get_entry, load_mllm
from model_zoo.weights.catalogue import PUBLISHED

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PROMPT, PICTURE, SCENE = DOCS / "prompt", DOCS / "frame.png", DOCS / "scene.png"
REPORT = "report.md"
PAGE, PAGES = "report.html", ("fashion",)
"""Megabytes that repeat the tables: kept of the sweeps that docs send a reader to."""


@dataclass
class Options:
    """
    python -m experiments.write_docs [sweep=OUT] [prompt=DIR]

    Rewrites the generated parts of README.md, docs/ and the model cards.
    """

    sweep: Path | None = None
    """first copy what a finished sweep leaves there (report.md, of `fashion` report.html too; packed: matrix.csv,
    statistics.json) to experiments/results/sweep_NAME, which the results are made from"""
    prompt: Path | None = None
    """first copy that prompt artefact of exp=embedded to docs/prompt and draw README's picture with it"""


# ---- results ---------------------------------------------------------------------------------------------------------
def keep(out: Path) -> None:
    """Copy a finished sweep's small files into the repository; the numbers of single cells in matrix.csv alone.

    Raises:
        ValueError: cells are missing or failed.
    """
    from experiments.report.markdown import PAGE_LINE
    from experiments.sweep.folder import SweepFolder

    statistics = json.loads((out / "statistics.json").read_text())
    if statistics["missing"]:
        raise ValueError(f"{len(statistics['missing'])} cells of '{out}' have no result. Finish the sweep first.")
    name = SweepFolder(out).name
    folder = RESULTS / f"sweep_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / MATRIX, packed((out / "matrix.csv").read_bytes()))
    report = (out / REPORT).read_text()
    if name in PAGES:
        replace_file(folder / PAGE, (out / PAGE).read_bytes())
    else:
        report = report.replace(f"{PAGE_LINE}\n\n", "")
    replace_file(folder / REPORT, report.encode())
    told: set[tuple[str, str]] = set()
    for cell in statistics["cells"]:
        del cell["gains"]
        if (model := (cell["data"], cell["target"])) in told:  # what learned nothing is the same in every cell
            del cell["inputs"]
        told.add(model)
    replace_file(folder / STATISTICS, packed(json.dumps(statistics, separators=(",", ":")).encode() + b"\n"))


# ---- README's picture ------------------------------------------------------------------------------------------------
SHOWN = ("embedded_minigpt4", "embedded_blip2", "embedded_llava")
"""The source of exp=embedded, a target with the same vision tower, and one with another."""
SAMPLES = 2
TILE, GAP, LINE, MARGIN = 176, 10, 26, 200
ANSWERS = 2 * LINE + TILE + GAP


def picture_samples() -> list[tuple[Any, Any]]:
    """(row, 64 x 64 PIL scene) of the first test samples of emoji_recognition by id."""
    data = load_datamodule("emoji_recognition")
    rows = data.rows("test")[:SAMPLES]
    pixels = (data.original("test", place).permute(1, 2, 0).numpy() for place in range(SAMPLES))
    return [(row, Image.fromarray(scene)) for row, scene in zip(rows, pixels, strict=True)]


def picture_inputs(scene: Any) -> tuple[list[str], Any]:
    """Names and frames of a scene: the full picture, in a black border, with the learned frame."""
    from experiments.run.asking import build_inputs
    from lightning_modules.prompts import Prompt

    return build_inputs(Prompt.load(PROMPT, reading="png"), scene, fit="crop")


def picture_answers() -> dict[str, list[list[str]]]:
    """Model -> for each sample its answers to the full picture, the black border and the learned frame.

    They are what `python -m experiments.ask` stars: the candidate with the highest mean log-likelihood.
    """
    from datamodules.emoji.questions import DOWNSTREAM_NAMES, RECOGNITION
    from experiments.run.asking import ask_candidates

    frames = [picture_inputs(scene)[1] for _, scene in picture_samples()]
    answers: dict[str, list[list[str]]] = {}
    for name in SHOWN:
        mllm = load_mllm(name)
        scores = [ask_candidates(mllm, of_sample, RECOGNITION, DOWNSTREAM_NAMES) for of_sample in frames]
        answers[name] = [[DOWNSTREAM_NAMES[row.index(max(row))] for row in of_sample] for of_sample in scores]
    return answers


def answers_text() -> str:
    """The picture's answers in words, for those who cannot see it (and for the test that asks the models again)."""
    answers, truths = picture_answers(), [row.answer for row, _ in picture_samples()]
    parts = []
    for i, truth in enumerate(truths):
        said = "; ".join(f"{name} {', '.join(of_model[i])}" for name, of_model in answers.items())
        parts.append(f"Scene {i + 1} ({truth}): {said}.")
    return " ".join(parts)


def draw_picture() -> None:
    """docs/frame.png: each scene in full, in a black border and in the learned frame; three models' answers below."""
    samples, answers = picture_samples(), picture_answers()
    width, height = MARGIN + SAMPLES * (3 * (TILE + GAP) + GAP), TILE + (2 + len(SHOWN)) * LINE + 2 * GAP
    sheet, font = Image.new("RGB", (width, height), "white"), ImageFont.load_default(18)
    for line, name in enumerate(SHOWN):
        ImageDraw.Draw(sheet).text((GAP, ANSWERS + line * LINE), name, "black", font)
    for i, (row, scene) in enumerate(samples):
        left = MARGIN + i * (3 * (TILE + GAP) + GAP)
        ImageDraw.Draw(sheet).text((left, 4), f"scene {i + 1}: {row.answer}", "black", font)
        _draw_scene(sheet, font, left, scene, row.answer, [answers[name][i] for name in SHOWN])
    sheet.quantize(128).save(PICTURE, optimize=True)
    samples[0][1].save(SCENE)


def _draw_scene(sheet: Any, font: Any, left: int, scene: Any, truth: str, answers: Sequence[Sequence[str]]) -> None:
    """One scene's three pictures side by side, each with a line for every model's answer."""
    from lightning_modules.drawing import RIGHT, WRONG, magnify

    draw = ImageDraw.Draw(sheet)
    names, frames = picture_inputs(scene)
    for column, (name, frame) in enumerate(zip(names, frames, strict=True)):
        x = left + column * (TILE + GAP)
        draw.text((x, LINE), name.replace("prompted", "learned frame"), "black", font)
        sheet.paste(magnify(frame, TILE), (x, 2 * LINE))
        for line, of_model in enumerate(answers):
            colour = RIGHT if of_model[column] == truth else WRONG
            draw.text((x, ANSWERS + line * LINE), of_model[column], colour, font)


def keep_prompt(folder: Path) -> None:
    """Copy a prompt artefact to docs/prompt (unless it is that one) and draw the picture with it."""
    if folder.resolve() != PROMPT:
        shutil.copytree(folder, PROMPT, dirs_exist_ok=True)
    draw_picture()


# ---- tables of the reference -----------------------------------------------------------------------------------------
def key_tables() -> str:
    """Every key a run and a sweep log."""
    return f"{keys_table('run').strip()}\n\nA sweep's own run:\n\n{keys_table('sweep').strip()}"


def models_table() -> str:
    """Every published model with its two commands."""
    rows = []
    for name in PUBLISHED:
        sizes, entry = PUBLISHED_SIZES[name], get_entry(name)
        source = source_need(sizes, 16, "bfloat16", clip=True).total / 2**30
        target = target_need(sizes, 32, "bfloat16").total / 2**30
        numbers = (f"{sizes.parameters / 1e6:,.1f} M", f"{source:.0f} / {target:.0f}")
        commands = (f"`python -m model_zoo check {name} weights=weights`", f"`make train EXP=cifar10_{name}`")
        rows.append((f"`{name}`", entry.description, *numbers, *commands))
    header = ["name", "what", "parameters", "GiB as source / target", "check the files", "train on it"]
    return markdown(header, rows).strip()


def hub_table() -> str:
    """Every named entry among the models of the hub."""
    rows = []
    for name, known in HF_MODELS.items():
        source = source_need(known.sizes("one"), 16, "bfloat16", clip=True).total / 2**30
        target = target_need(known.sizes("official"), 32, "bfloat16").total / 2**30
        tokens = " / ".join(f"{count:,}" for count in known.tokens)
        numbers = (f"{known.parameters / 1e6:,.1f} M", tokens, f"{source:.0f} / {target:.0f}")
        rows.append((f"`{name}`", f"`{known.hub}`", known.tower, known.llm, *numbers, known.licence))
    header = ["name", "hub", "tower from", "LLM from", "parameters", "visual tokens, one tile / official"]
    return markdown([*header, "GiB as source / target", "licence"], rows).strip()


def files_table() -> str:
    """Every published file once, with who needs it."""
    users: dict[str, list[str]] = {}
    items = {}
    for name, known in PUBLISHED.items():
        for item in known.files:
            items[item.path] = item
            users.setdefault(item.path, []).append(name)
    rows = []
    for path, item in items.items():
        place = f"`{path}{'/' if item.holds else ''}`"
        rows.append((place, item.what, str(item.source), item.licence, ", ".join(users[path])))
    return markdown(["below `weights/`", "what", "published", "licence", "needed by"], rows).strip()


CHOSEN = ("svhn", "eurosat", "oxford_pets", "dtd", "fashion_mnist")
"""Not named by the paper: our choice (docs/method.md#data-sets)."""


def data_table() -> str:
    """The published data sets: task, size, licence, where from, and the command that gets them."""
    rows = []
    for name, known in PUBLISHED_DATA.items():
        size = sum(max(archive.size or 0 for archive in part) for part in known.parts())
        amount = f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB" if size else "by hand"
        mark = " (our choice)" if name in CHOSEN else ""
        facts = (known.task, known.what, amount, known.licence, known.homepage)
        rows.append((f"`{name}`{mark}", *facts, f"`python -m datamodules prepare {name}`"))
    return markdown(["name", "task", "what", "to get", "licence", "publisher", "command"], rows).strip()


# ---- gates -----------------------------------------------------------------------------------------------------------
def gates_of(*names: str) -> str:
    """Gates of the worlds named, or of all, and the numbers they are judged by, from the committed gates.json."""
    found = read_gates()
    return gates_markdown({name: of for name, of in found.items() if name in (names or found)}, read_worlds())


# ---- cost ------------------------------------------------------------------------------------------------------------
def cost_section(name: str, table: Callable[[Any], str]) -> str:
    """Tables of a committed comparison of costs, measured or planned."""
    return table(json.loads((RESULTS / f"{name}.json").read_text())).strip()


# ---- writing them ----------------------------------------------------------------------------------------------------
SECTIONS: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "answers"): answers_text,
    ("README.md", "found"): partial(found_table, "fashion"),
    ("docs/results.md", "fashion"): partial(result_section, "fashion"),
    ("docs/results.md", "two_sources"): partial(pairs_table, "fashion_two_sources", unseen=True),
    ("docs/results.md", "web"): partial(found_table, "web"),
    ("docs/results.md", "web_own"): partial(own_table, "web"),
    ("docs/results.md", "web_two_sources"): partial(pairs_table, "web_two_sources", unseen=True),
    ("docs/results.md", "web_presence"): partial(found_table, "web_presence"),
    ("docs/results.md", "web_one_source"): partial(one_source_table, "web_one_source"),
    ("docs/results.md", "web_directions"): partial(directions_table, "web"),
    ("docs/results.md", "fashion_directions"): partial(directions_table, "fashion"),
    ("docs/results.md", "web_far"): partial(pairs_table, "web_far"),
    ("docs/results.md", "web_families"): partial(mapping_table, "web_families"),
    ("docs/results.md", "web_families_own"): partial(own_table, "web_families"),
    ("docs/results.md", "fashion_sources"): partial(pairs_table, "fashion_sources"),
    ("docs/results.md", "fashion_shots"): partial(study_table, "fashion_shots"),
    ("docs/results.md", "fashion_long"): partial(pairs_table, "fashion_long"),
    ("docs/results.md", "fashion_length"): partial(study_table, "fashion_length"),
    ("docs/results.md", "fashion_weight"): partial(study_table, "fashion_weight"),
    ("docs/results.md", "web_off_task"): partial(study_table, "web_off_task"),
    ("docs/results.md", "web_off_task_models"): partial(by_target_table, "web_off_task"),
    ("docs/results.md", "fashion_codecs"): partial(study_table, "fashion_codecs"),
    ("docs/results.md", "web_texts"): partial(study_table, "web_texts"),
    ("docs/results.md", "web_frames"): partial(study_table, "web_frames"),
    ("docs/results.md", "web_captions"): partial(study_table, "web_captions"),
    ("docs/results.md", "fashion_anchors"): partial(study_table, "fashion_anchors"),
    ("docs/results.md", "web_anchors"): partial(study_table, "web_anchors"),
    ("docs/results.md", "commands"): commands_table,
    ("docs/cost.md", "cost"): partial(cost_section, "cost_fashion", cost_markdown),
    ("docs/cost.md", "cost_plan"): partial(cost_section, "cost_plan", plan_markdown),
    ("docs/why.md", "why_fashion"): partial(why_tables, "fashion"),
    ("docs/why.md", "why_web"): partial(why_tables, "web"),
    ("docs/headroom.md", "gates"): gates_of,
    ("model_zoo/embedded/MODEL_CARD.md", "gates"): partial(gates_of, "emoji"),
    ("model_zoo/embedded/MODEL_CARD_LITE.md", "gates"): partial(gates_of, "fashion"),
    ("model_zoo/embedded/MODEL_CARD_WEB.md", "gates"): partial(gates_of, "web"),
    ("docs/logging.md", "keys"): key_tables,
    ("docs/models.md", "models"): models_table,
    ("docs/models.md", "hub"): hub_table,
    ("docs/models.md", "files"): files_table,
    ("docs/data.md", "data"): data_table,
}
"""(file, mark) -> what makes the text between `<!-- mark -->` and `<!-- /mark -->`."""


def replace(text: str, mark: str, section: str) -> str:
    """`text` with what lies between `<!-- mark -->` and `<!-- /mark -->` replaced. Raises ValueError without marks."""
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    if start not in text or end not in text:
        raise ValueError(f"The page has no '{start}' ... '{end}'. Expected both marks; put them back.")
    before, after = text.split(start)[0], text.split(end)[1]
    return f"{before}{start}\n{section}\n{end}{after}"


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv)
    if options is None:
        return 0
    if options.sweep:
        keep(options.sweep)
    if options.prompt:
        keep_prompt(options.prompt)
    for (name, mark), make in SECTIONS.items():
        page = ROOT / name
        page.write_text(replace(page.read_text(), mark, make()))
        print(f"Wrote {mark} of {name}.")
    return 0


if __name__ == "__main__":
    run_command(main)
