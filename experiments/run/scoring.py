"""A finished prompt scored on any MLLM, and the answers it writes there: what `python -m experiments.evaluate` does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from datamodules.registry import load_datamodule
from experiments.cli import markdown
from experiments.run.build import control_store
from experiments.run.preflight import report_left_out
from experiments.run.summary import show_mapped, show_records
from lightning_modules.answer_scoring import Answers, answer_metrics, generate_inputs
from lightning_modules.artefact import read_manifest
from lightning_modules.atomic import replace_file
from lightning_modules.evaluation import ModelSpec
from lightning_modules.metrics import Estimate, Scores
from lightning_modules.prompts import Prompt
from lightning_modules.records import ResultLog
from lightning_modules.result_rows import answer_rows, candidates_as_numbers, score_rows
from lightning_modules.scorer import PromptScorer
from lightning_modules.vocabulary import INPUT_NAMES, file_part
from model_zoo.registry import require_files, tile_options


def score_prompt(options: Any) -> None:
    """Print the table of a prompt on every model, and append its rows to DIR/results.jsonl where `out=DIR`.

    options: as `experiments.evaluate.Options`.
    """
    manifest, split = read_manifest(options.prompt), options.split
    specs = _specs(options, manifest)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    prompts = {"prompt": Prompt.load(options.prompt), "png": Prompt.load(options.prompt, reading="png")}
    prompts = {name: prompt.to(device) for name, prompt in prompts.items()}
    scorer = _scorer(options, manifest, prompts["prompt"], device)
    report_left_out(scorer.datamodule, [split], None)
    records, answers, context = {}, {}, _context(options, manifest)
    for spec in specs:
        model = spec.load(device) if options.scoring == "generate" else None
        records[spec.name] = own = scorer.score(spec, split, prompts, resident=model)
        rows = score_rows(scorer, spec, split, own, prompts, context)
        if model is not None:
            answers[spec.name] = written = write_answers(options, scorer, spec, model, own, prompts)
            rows += answer_rows(scorer, spec, split, written, own, prompts, context)
            keep_answers(options, scorer.datamodule, spec.name, written)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            ResultLog(options.out / "results.jsonl").append(rows)
    title = f"{options.prompt} on {scorer.datamodule.name} {split}, {scorer.metric} in %"
    roles = {spec.name: spec.role for spec in specs}
    show_records(title, scorer.metric, records, roles)
    show_mapped(scorer, split, roles)
    if answers:
        show_answers(scorer, split, answers, records)


def _specs(options: Any, manifest: dict) -> list[ModelSpec]:
    """Every model checked before the first is loaded. Raises FileNotFoundError listing all that is missing."""
    for name in options.mllm:
        require_files(name, options.weights)
    sources = manifest.get("source", [])
    roles = {name: "source" if name in sources else "heldout" for name in options.mllm}
    more = (str(options.weights), options.dtype, options.official)
    tiles = {name: tile_options(name, options.tiles) for name in options.mllm}
    return [ModelSpec(name, roles[name], *more, tiles[name], options.quant) for name in options.mllm]


def _scorer(options: Any, manifest: dict, prompt: Prompt, device: str) -> PromptScorer:
    name = options.data or manifest.get("data")
    if not name:
        raise ValueError("The artefact names no data set it was learned on. Give data=NAME.")
    datamodule = load_datamodule(
        name,
        root=str(options.root),
        image_size=prompt.image_size,
        eval_batch_size=options.batch_size,
        max_corrupt=options.max_corrupt,
        split_seed=options.split_seed,
        official=options.official,
        **{key: word for key in ("names", "corruption") if (word := getattr(options, key))},
    )
    datamodule.setup()
    controls = tuple(name for name in options.controls if name != "none")
    shape: dict[str, Any] = {"frame": prompt.frame, "pad": prompt.pad}
    sizes = dict.fromkeys(("val", "test"), options.n or None)
    shape |= {"label_mapping": options.label_mapping, "through": options.through}
    return PromptScorer(datamodule, control_store(), **shape, sizes=sizes, controls=controls, device=device)


def _context(options: Any, manifest: dict) -> dict:
    """What result rows say of the prompt's making."""
    return {
        "run": manifest.get("run", options.prompt.name),
        "seed": manifest.get("seed", 0),
        "method": manifest.get("method", "imported"),
        "source": "+".join(manifest.get("source", [])),
        "official": options.official,
        "bounds": manifest["bounds"],
        "epoch": 0,
        "step": manifest.get("steps", 0),
    }


def write_answers(
    options: Any, scorer: PromptScorer, spec: ModelSpec, model: Any, records: Mapping[str, Scores], prompts: Mapping
) -> dict[str, Answers]:
    """One answer for each row and input that was scored: the prompts, and the same controls."""
    decoding: dict[str, Any] = {"max_new_tokens": options.max_new_tokens}
    if options.beams:
        decoding["num_beams"] = options.beams
    inputs = scorer.to_frames(spec, records, prompts)
    where: dict[str, Any] = {"split": options.split, "n": scorer.sizes[options.split], "style": options.style}
    return generate_inputs(model, scorer.datamodule, inputs, **where, **decoding)


def keep_answers(options: Any, datamodule: Any, name: str, written: Mapping[str, Answers]) -> None:
    """`out=DIR`: DIR/answers/<split>_<mllm>_<input>.jsonl with id, text, what it was parsed as, right answer."""
    if not options.out:
        return
    rows = {row.id: row for row in datamodule.rows(options.split)}
    folder = options.out / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    for given, answers in written.items():
        lines = []
        for row_id, text, parsed in zip(answers.ids, answers.texts, answers.parsed.tolist(), strict=True):
            row = rows[row_id]
            said = None if parsed < 0 else (row.candidates or datamodule.candidates)[parsed]
            lines.append({"id": row_id, "text": text, "parsed": said, "answer": row.answer})
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        replace_file(folder / f"{options.split}_{file_part(name)}_{given}.jsonl", text.encode())


def show_answers(scorer: Any, split: str, answers: Mapping[str, Mapping], records: Mapping[str, Mapping]) -> None:
    """A table with a line for each model, input and group: every metric in %, mae as it is."""
    task, lines = scorer.datamodule.task, []
    header: list[str] = []
    for name, of_input in answers.items():
        for given, own in of_input.items():
            numbers = candidates_as_numbers(scorer.datamodule, split, own.ids)
            found = answer_metrics(task, own, records[name][given], numbers)
            for group, metrics in found.items():
                header = list(dict.fromkeys([*header, *metrics]))
                lines.append((f"{name}: {INPUT_NAMES[given]}{group and f', {group}'}", metrics))
    n = {next(iter(metrics.values())).n for _, metrics in lines}
    rows = [[label, *(_cell(metric, metrics.get(metric)) for metric in header)] for label, metrics in lines]
    print(f"Written answers, n = {', '.join(map(str, sorted(n)))}; in % with 95 % intervals")
    print(markdown(["answers of", *header], rows))


def _cell(metric: str, value: Estimate | None) -> str:
    if value is None:
        return "-"
    scale = 1 if metric == "gen_mae" else 100
    return f"{scale * value.value:.1f} [{scale * value.low:.1f}, {scale * value.high:.1f}]"
