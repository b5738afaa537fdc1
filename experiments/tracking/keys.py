"""Every key a run or a sweep logs, with its meaning: docs/logging.md is made of this list, a test holds runs to it."""

from __future__ import annotations

from typing import NamedTuple

from experiments.cli import markdown
from lightning_modules.vocabulary import TASK_METRICS

STEP = "trainer/global_step"  # the x axis of everything a run logs: updates made, the same after a resume
# What stands for <metric>: those of all tasks.
METRICS = "|".join(dict.fromkeys(metric for metrics in TASK_METRICS.values() for metric in metrics))


class Key(NamedTuple):
    """pattern: the key, with places in angle brackets. of: `run` or `sweep`. kind: number, picture, table or page."""

    pattern: str
    of: str
    kind: str
    when: str
    meaning: str


UPDATE, VALIDATION, END = "each update", "each validation epoch", "once, at the end"
HEAT_MAP = "gain over the black border, source x target, a data set and method"
SCORED = (
    ("loss", "answer loss of the source on the split, nats per token"),
    ("<metric>/<mllm>", "score of this model with the prompt; the task's metrics (docs/method.md#data-sets)"),
    ("gain/<control>/<mllm>", "prompted minus control on the same samples, in the primary metric; 0.05 = 5 points"),
    ("gain/<control>/mean_select", "mean of that gain over the targets that may steer"),
    ("drift/<mllm>", "FCA distance of this model's features, prompted against the black border"),
)
TRAINED = (
    ("loss", "task + method.fca * fca + method.tse * tse + method.anchor * anchor"),
    ("task", "answer loss, nats per token over the global batch"),
    ("fca", "feature distance of prompted and clean frame, mean over samples, before its weight"),
    ("tse", "minus the scaled CLIP cosine of frame and caption, mean over samples, before its weight"),
    ("anchor", "where there are anchors: their scale-free feature distance, mean over samples, before its weight"),
    ("grad_norm", "L2 norm of the whole-frame gradient, before it is normalised"),
    ("prompt_norm", "L2 norm of delta after the update"),
    ("lr", "learning rate of the next update"),
)
COMPARED = (
    ("gain/<control>/<method>", "the average gain over targets"),
    ("gain_low/<control>/<method>", "lower 95 % bound of the average gain over targets"),
    ("gain_high/<control>/<method>", "upper bound of the average gain over targets"),
    ("difference/<pair>", "difference of two methods of the prompted scores, paired"),
    ("difference_low/<pair>", "lower 95 % bound of the difference of the prompted scores, paired"),
    ("difference_high/<pair>", "upper bound of the difference of the prompted scores, paired"),
)

KEYS: tuple[Key, ...] = (
    Key(STEP, "run", "number", "with every row", "updates made so far: the x axis"),
    Key("epoch", "run", "number", "with every row", "epoch, from 0"),
    *(Key(f"train/{name}", "run", "number", UPDATE, meaning) for name, meaning in TRAINED),
    *(Key(f"val/{name}", "run", "number", VALIDATION, meaning) for name, meaning in SCORED),
    *(Key(f"test/{name}", "run", "number", END, meaning) for name, meaning in SCORED),
    Key("pictures/prompt", "run", "picture", f"{VALIDATION} and at the end", "the prompt, magnified"),
    Key("pictures/samples", "run", "picture", VALIDATION, "prompted validation samples, answers before and after"),
    Key("pictures/examples", "run", "picture", END, "prompted test samples, answers before and after"),
    Key("table/targets", "run", "table", END, "a row per model: role, n, every input's score, gains with intervals"),
    Key("sweep/cells", "sweep", "number", END, "cells of the sweep"),
    Key("sweep/missing", "sweep", "number", END, "cells that failed or were not run"),
    Key("sweep/alarms", "sweep", "number", END, "pairs with negative transfer, over all controls"),
    *(Key(f"sweep/{name}", "sweep", "number", END, meaning) for name, meaning in COMPARED),
    Key(
        "pictures/heatmap",
        "sweep",
        "picture",
        END,
        "gain over the black border, source x target, a data set and method",
    ),
    Key("table/matrix", "sweep", "table", END, "matrix.csv"),
    Key("table/pairs", "sweep", "table", END, "a row per source, target, data set and method: gains with intervals"),
    Key("table/methods", "sweep", "table", END, "average gains by method, data set and control, with intervals"),
    Key("table/alarms", "sweep", "table", END, "negative transfer: every alarm with its interval"),
    Key("report/page", "sweep", "page", END, "report.html, the whole report"),
)


def keys_table(of: str) -> str:
    """The keys of a `run` or a `sweep` as a Markdown table, for docs/logging.md."""
    rows = [(f"`{key.pattern}`", key.when, key.meaning) for key in KEYS if key.of == of]
    return markdown(["key", "when", "what"], rows)
