"""`experiments.evaluate scoring=generate`: what models write, parsed, beside what they find likely."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules.atomic import replace_file
from lightning_modules.generation import Answers, answer_metrics, generate_inputs
from lightning_modules.metrics import Estimate, Scores


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
    from experiments.summary import NAMES, markdown

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
