"""Score a finished prompt on any MLLM."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from datamodules.writable import note_unwritable_caches, require_writable
from experiments.cli import parse_options, run_command, suggest
from lightning_modules.atomic import replace_file
from lightning_modules.records import ResultLog
from lightning_modules.vocabulary import CONTROLS, INPUT_NAMES
from model_zoo.registry import require_files

if TYPE_CHECKING:
    from lightning_modules.answer_scoring import Answers
    from lightning_modules.metrics import Estimate, Scores


@dataclass
class Options:
    """
    python -m experiments.evaluate prompt=DIR mllm=NAME[,NAME...] [key=value ...]

    Scores a prompt artefact, float and as the 8-bit PNG read back from disk, beside the controls, with n and intervals.
    """

    prompt: Path
    """a prompt artefact (the `prompt` folder of a run)"""
    mllm: tuple[str, ...]
    """one model or several, separated by commas"""
    data: str = ""
    """data set (default: the one the prompt was learned on)"""
    root: Path = Path("data")
    """folder of the data sets"""
    split: Literal["val", "test"] = "test"
    """the rows to score"""
    n: int = 0
    """size of a fixed sub-sample (0: all)"""
    controls: tuple[str, ...] = CONTROLS
    """any of these, or none"""
    weights: Path = Path("weights")
    """folder of published weights"""
    dtype: str = "float32"
    """of the models: float32, bfloat16 or float16"""
    quant: Literal["8bit", "4bit"] | None = None
    """the LLM's linear layers in 8 or 4 bits, CUDA only"""
    device: str = "auto"
    """auto is cuda where there is one, else cpu"""
    batch_size: int = 64
    """most images scored at a time"""
    official: bool = False
    """reproduce the reference's deviations in adapters and data"""
    split_seed: int = 42
    """chooses which rows are held out and sub-sampled"""
    names: str = ""
    """recognition: the words the classes are called by: clean, raw, clip, ..."""
    corruption: str = ""
    """recognition: corruption of the pictures and its severity, e.g. fog:3"""
    max_corrupt: int | float = 0
    """images that cannot be read and may be left out: a number, or a fraction below 1"""
    scoring: Literal["likelihood", "generate"] = "likelihood"
    """generate lets the model also write its answers and parses them (gen_accuracy, unparsable, ...)"""
    style: Literal["infer", "vqa"] | None = None
    """how it is asked to write (default: vqa, short answers, except for recognition)"""
    max_new_tokens: int = 16
    """most tokens of a written answer"""
    beams: int = 0
    """beams of the search (0: the model's own number)"""
    out: Path | None = None
    """append rows to DIR/results.jsonl"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv)
    if options is None:
        return 0
    controls = _controls(options.controls)
    from experiments.run.preflight import report_left_out
    from experiments.run.summary import show_records
    from lightning_modules.artefact import read_manifest
    from lightning_modules.prompts import Prompt
    from lightning_modules.result_rows import answer_rows, score_rows

    if options.out:
        require_writable(options.out, "the folder of the rows", "out=DIR", inside=True)
    note_unwritable_caches(("controls", "images"))
    manifest = read_manifest(options.prompt)
    specs = _specs(options, options.mllm, manifest)
    device = _device(options.device)
    prompts = {"prompt": Prompt.load(options.prompt), "png": Prompt.load(options.prompt, reading="png")}
    prompts = {name: prompt.to(device) for name, prompt in prompts.items()}
    scorer = _scorer(options, manifest, prompts["prompt"], controls, device)
    report_left_out(scorer.datamodule, [options.split], None)
    records, answers = {}, {}
    for spec in specs:
        model = spec.load(device) if options.scoring == "generate" else None
        records[spec.name] = scorer.score(spec, options.split, prompts, resident=model)
        rows = score_rows(scorer, spec, options.split, records[spec.name], prompts, _context(options, manifest))
        if model is not None:
            answers[spec.name] = written = write_answers(options, scorer, spec, model, records[spec.name], prompts)
            own = (records[spec.name], prompts, _context(options, manifest))
            rows += answer_rows(scorer, spec, options.split, written, *own)
            keep_answers(options, scorer.datamodule, spec.name, written)
        if options.out:
            _append(options.out, rows)
    title = f"{options.prompt} on {scorer.datamodule.name} {options.split}, {scorer.metric} in %"
    show_records(title, scorer.metric, records, {spec.name: spec.role for spec in specs})
    if answers:
        show_answers(scorer, options.split, answers, records)
    return 0


def _controls(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in (*CONTROLS, "none"):
            known = ", ".join(CONTROLS)
            raise ValueError(f"Unknown control '{name}'.{suggest(name, CONTROLS)} Available: {known}, none.")
    return tuple(name for name in names if name != "none")


def _specs(options: Options, names: Sequence[str], manifest: dict) -> list[Any]:
    """Every model checked before the first is loaded. Raises FileNotFoundError listing all that is missing."""
    from lightning_modules.evaluation import ModelSpec

    for name in names:
        require_files(name, options.weights)
    sources = manifest.get("source", [])
    return [
        ModelSpec(
            name,
            "source" if name in sources else "heldout",
            str(options.weights),
            options.dtype,
            options.official,
            quant=options.quant,
        )
        for name in names
    ]


def _device(wanted: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _scorer(options: Options, manifest: dict, prompt: Any, controls: tuple[str, ...], device: str) -> Any:
    from datamodules.registry import load_datamodule
    from experiments.run.build import control_store
    from lightning_modules.scorer import PromptScorer

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
    sizes = {"val": options.n or None, "test": options.n or None}
    return PromptScorer(
        datamodule,
        control_store(),
        frame=prompt.frame,
        pad=prompt.pad,
        sizes=sizes,
        controls=controls,
        device=device,
    )


def _append(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ResultLog(folder / "results.jsonl").append(rows)


def _context(options: Options, manifest: dict) -> dict:
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
    options: Options, scorer: Any, spec: Any, model: Any, records: Mapping[str, Scores], prompts: Mapping
) -> dict[str, Answers]:
    """One answer for each row and input that was scored: the prompts, and the same controls."""
    from lightning_modules.answer_scoring import generate_inputs

    decoding: dict[str, Any] = {"max_new_tokens": options.max_new_tokens}
    if options.beams:
        decoding["num_beams"] = options.beams
    inputs = scorer.to_frames(spec, records, prompts)
    where: dict[str, Any] = {"split": options.split, "n": scorer.sizes[options.split], "style": options.style}
    return generate_inputs(model, scorer.datamodule, inputs, **where, **decoding)


def keep_answers(options: Options, datamodule: Any, name: str, written: Mapping[str, Answers]) -> None:
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
        replace_file(folder / f"{options.split}_{name}_{given}.jsonl", text.encode())


def show_answers(scorer: Any, split: str, answers: Mapping[str, Mapping], records: Mapping[str, Mapping]) -> None:
    """A table with a line for each model, input and group: every metric in %, mae as it is."""
    from experiments.run.summary import markdown
    from lightning_modules.answer_scoring import answer_metrics
    from lightning_modules.result_rows import candidates_as_numbers

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


if __name__ == "__main__":
    run_command(main)
