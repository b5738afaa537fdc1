"""Score a finished prompt on any MLLM: `python -m experiments.evaluate prompt=DIR mllm=NAME[,NAME] [key=value ...]`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import flat_options, run_command
from lightning_modules.answer_scoring import Answers, answer_metrics, generate_inputs
from lightning_modules.atomic import replace_file
from lightning_modules.metrics import Estimate, Scores

USAGE = """
python -m experiments.evaluate prompt=DIR mllm=NAME[,NAME...] [key=value ...]

Scores a prompt artefact, float and as the 8-bit PNG read back from disk, beside the controls, with n and intervals.

  prompt=DIR       a prompt artefact (the `prompt` folder of a run)
  mllm=NAME        one model or several, separated by commas
  data=NAME        data set (default: the one the prompt was learned on)    root=data
  split=test       or val        n=       size of a fixed sub-sample (default: all)
  controls=full,black,constant,replicate      any of these, or none
  weights=weights  folder of published weights    dtype=float32    device=auto    batch_size=64
  quant=           8bit or 4bit: the LLM's linear layers, CUDA only
  corruption=      fog:3 and the like on the pictures (recognition only)    names=  clean, raw, clip: the class names
  official=false   the reference's deviations in the adapters
  split_seed=42    which rows are held out and sub-sampled     out=DIR   append rows to DIR/results.jsonl
  max_corrupt=0    images that cannot be read and may be left out: a number, or a fraction below 1
  scoring=likelihood   or generate: let the model also write its answers and parse them (gen_accuracy, unparsable, ...)
  style=           infer or vqa, how it is asked to write (default: vqa, short answers, except for recognition)
  max_new_tokens=16  beams=0     length of a written answer in tokens; beams (0: the model's own number)
"""
DEFAULTS: dict[str, Any] = {
    "prompt": ...,
    "mllm": ...,
    "data": "",
    "root": "data",
    "split": "test",
    "n": 0,
    "controls": "full,black,constant,replicate",
    "weights": "weights",
    "dtype": "float32",
    "quant": "",
    "device": "auto",
    "batch_size": 64,
    "official": False,
    "split_seed": 42,
    "names": "",
    "corruption": "",
    "max_corrupt": 0.0,
    "scoring": "likelihood",
    "style": "",
    "max_new_tokens": 16,
    "beams": 0,
    "out": "",
}
SCORINGS, STYLES = ("likelihood", "generate"), ("", "infer", "vqa")


def main(argv: Sequence[str]) -> int:
    options: Any = flat_options(argv, DEFAULTS, usage=USAGE)
    if options is None:
        return 0
    controls = _controls(options["controls"])
    for key, known in (("split", ("val", "test")), ("scoring", SCORINGS), ("style", STYLES)):
        if options[key] not in known:
            raise ValueError(f"Unknown {key} '{options[key]}'. Available: {', '.join(filter(None, known))}.")
    from experiments.run.preflight import report_left_out
    from experiments.run.summary import show_records

    pass
    from lightning_modules.artefact import read_manifest
    from lightning_modules.prompts import Prompt

    manifest = read_manifest(options["prompt"])
    names = [name for name in options["mllm"].split(",") if name]
    specs = _specs(options, names, manifest)
    device = _device(options["device"])
    prompts = {"prompt": Prompt.load(options["prompt"]), "png": Prompt.load(options["prompt"], reading="png")}
    prompts = {name: prompt.to(device) for name, prompt in prompts.items()}
    scorer = _scorer(options, manifest, prompts["prompt"], controls, device)
    report_left_out(scorer.datamodule, [options["split"]], None)
    records, answers = {}, {}
    for spec in specs:
        model = spec.load(device) if options["scoring"] == "generate" else None
        records[spec.name] = scorer.score(spec, options["split"], prompts, resident=model)
        rows = scorer.rows(spec, options["split"], records[spec.name], prompts, _context(options, manifest))
        if model is not None:
            answers[spec.name] = written = write_answers(options, scorer, spec, model, records[spec.name], prompts)
            own = (records[spec.name], prompts, _context(options, manifest))
            rows += scorer.answer_rows(spec, options["split"], written, *own)
            keep_answers(options, scorer.datamodule, spec.name, written)
        if options["out"]:
            _append(options, rows)
    title = f"{options['prompt']} on {scorer.datamodule.name} {options['split']}, {scorer.metric} in %"
    show_records(title, scorer.metric, records, {spec.name: spec.role for spec in specs})
    if answers:
        show_answers(scorer, options["split"], answers, records)
    return 0


def _controls(text: str) -> tuple[str, ...]:
    from experiments.cli import suggest

    known = ("full", "black", "constant", "replicate")
    names = tuple(name for name in text.split(",") if name and name != "none")
    for name in names:
        if name not in known:
            raise ValueError(f"Unknown control '{name}'.{suggest(name, known)} Available: {', '.join(known)}, none.")
    return names


def _specs(options: dict, names: Sequence[str], manifest: dict) -> list[Any]:
    """Every model checked before the first is loaded. Raises FileNotFoundError listing all that is missing."""
    from lightning_modules.evaluation import ModelSpec
    from model_zoo.registry import require_files

    for name in names:
        require_files(name, options["weights"])
    sources = manifest.get("source", [])
    return [
        ModelSpec(
            name,
            "source" if name in sources else "heldout",
            options["weights"],
            options["dtype"],
            options["official"],
            quant=options["quant"] or None,
        )
        for name in names
    ]


def _device(wanted: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _scorer(options: dict, manifest: dict, prompt: Any, controls: tuple[str, ...], device: str) -> Any:
    from datamodules.registry import load_datamodule
    from experiments.run.build import control_store
    from lightning_modules.scorer import PromptScorer

    name = options["data"] or manifest.get("data")
    if not name:
        raise ValueError("The artefact names no data set it was learned on. Give data=NAME.")
    datamodule = load_datamodule(
        name,
        root=options["root"],
        image_size=prompt.image_size,
        eval_batch_size=options["batch_size"],
        max_corrupt=_count_or_fraction(options["max_corrupt"]),
        split_seed=options["split_seed"],
        official=options["official"],
        **{key: options[key] for key in ("names", "corruption") if options[key]},
    )
    datamodule.setup()
    sizes = {"val": options["n"] or None, "test": options["n"] or None}
    return PromptScorer(
        datamodule,
        control_store(),
        frame=prompt.frame,
        pad=prompt.pad,
        sizes=sizes,
        controls=controls,
        device=device,
    )


def _count_or_fraction(value: float) -> int | float:
    """3.0 -> 3; 0.1 stays."""
    return int(value) if value == int(value) else value


def _append(options: dict, rows: list[dict]) -> None:
    from lightning_modules.records import ResultLog

    folder = Path(options["out"])
    folder.mkdir(parents=True, exist_ok=True)
    ResultLog(folder / "results.jsonl").append(rows)


def _context(options: dict, manifest: dict) -> dict:
    """What result rows say of the prompt's making."""
    return {
        "run": manifest.get("run", Path(options["prompt"]).name),
        "seed": manifest.get("seed", 0),
        "method": manifest.get("method", "imported"),
        "source": "+".join(manifest.get("source", [])),
        "official": options["official"],
        "bounds": manifest["bounds"],
        "epoch": 0,
        "step": manifest.get("steps", 0),
    }


def write_answers(
    options: Mapping, scorer: Any, spec: Any, model: Any, records: Mapping[str, Scores], prompts: Mapping
) -> dict[str, Answers]:
    """One answer for each row and input that was scored: the prompts, and the same controls."""
    decoding = {"max_new_tokens": options["max_new_tokens"]}
    if options["beams"]:
        decoding["num_beams"] = options["beams"]
    inputs = scorer.to_frames(spec, records, prompts)
    where = {"split": options["split"], "n": scorer.sizes[options["split"]], "style": options["style"] or None}
    return generate_inputs(model, scorer.datamodule, inputs, **where, **decoding)


def keep_answers(options: Mapping, datamodule: Any, name: str, written: Mapping[str, Answers]) -> None:
    """`out=DIR`: DIR/answers/<split>_<mllm>_<input>.jsonl with id, text, what it was parsed as, right answer."""
    if not options["out"]:
        return
    rows = {row.id: row for row in datamodule.rows(options["split"])}
    folder = Path(options["out"], "answers")
    folder.mkdir(parents=True, exist_ok=True)
    for given, answers in written.items():
        lines = []
        for row_id, text, parsed in zip(answers.ids, answers.texts, answers.parsed.tolist(), strict=True):
            row = rows[row_id]
            said = None if parsed < 0 else (row.candidates or datamodule.candidates)[parsed]
            lines.append({"id": row_id, "text": text, "parsed": said, "answer": row.answer})
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        replace_file(folder / f"{options['split']}_{name}_{given}.jsonl", text.encode())


def show_answers(scorer: Any, split: str, answers: Mapping[str, Mapping], records: Mapping[str, Mapping]) -> None:
    """A table with a line for each model, input and group: every metric in %, mae as it is."""
    from experiments.run.summary import NAMES, markdown

    task, lines, header = scorer.datamodule.task, [], []
    for name, of_input in answers.items():
        for given, own in of_input.items():
            found = answer_metrics(task, own, records[name][given], scorer.numbers(split, own.ids))
            for group, metrics in found.items():
                header = list(dict.fromkeys([*header, *metrics]))
                lines.append((f"{name}: {NAMES[given]}{group and f', {group}'}", metrics))
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
