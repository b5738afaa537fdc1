"""The two W&B workspaces of this project, a run's and a sweep's, as `python -m experiments.dashboards` saves them.

They are made of W&B's public report library, which is slow to import and comes with the extra `dashboards`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from experiments.tracking.keys import METRICS, STEP
from lightning_modules.vocabulary import CONTROLS, METHODS

WORDS = {"full": "the full image", "black": "a black border", "constant": "the best constant", "replicate": "replicate"}
PAIRS = ("tvp-evp", "tvp-vp")
LOSSES = (("Loss", "loss"), ("Task", "task"), ("FCA", "fca"), ("TSE", "tse"))
UPDATE = (("Gradient norm", "grad_norm"), ("Prompt norm", "prompt_norm"), ("Learning rate", "lr"))


def build_workspaces(entity: str, project: str, sweep: str = "") -> dict[str, Any]:
    """`run` and `sweep` -> workspace, not yet saved anywhere.

    sweep: the group (log.group) whose runs the sweep's workspace shows; empty: every run of the project.
    """
    group = ws.And(ws.Metric("Group") == sweep) if sweep else ""
    made = {
        "run": ("Run: a prompt and what it does to every model", run_sections(), ""),
        "sweep": (f"Sweep {sweep}".strip() + ": source x target", sweep_sections(), group),
    }
    return {
        kind: ws.Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=sections,
            settings=ws.WorkspaceSettings(x_axis=STEP),
            runset_settings=ws.RunsetSettings(filters=filters),
        )
        for kind, (name, sections, filters) in made.items()
    }


def run_sections() -> list[Any]:
    gains = [_lines_of(f"Gain over {WORDS[c]}", f"val/gain/{c}/.+") for c in CONTROLS]
    scores = _lines_of("Score with the prompt", f"val/({METRICS})/.+")
    pictures = [_pictures(f"pictures/{name}") for name in ("prompt", "samples", "examples")]
    return [
        _section("Gain over controls", gains, 2),
        _section("Scores", [scores, _lines("Loss", ["val/loss"])], 2),
        _section("Feature drift", [_lines_of("Drift of each model's features", "val/drift/.+")], 1),
        _section("Prompt and samples", pictures, 3),
        _section("Targets", [_table("table/targets")], 1, rows=1),
        _section("Losses", [_lines(title, [f"train/{key}"]) for title, key in LOSSES], 2),
        _section("Update", [_lines(title, [f"train/{key}"]) for title, key in UPDATE], 3, is_open=False),
    ]


def sweep_sections() -> list[Any]:
    of_methods: dict[str, Any] = {c: [f"sweep/gain/{c}/{method}" for method in METHODS] for c in CONTROLS}
    gains = [wr.BarPlot(title=f"Over {WORDS[c]}", metrics=keys) for c, keys in of_methods.items()]
    compared = [_lines_of(f"Gain over {WORDS[c]}, by method", f"val/gain/{c}/.+", by="method.name") for c in CONTROLS]
    differences = wr.BarPlot(title="Difference, paired", metrics=[f"sweep/difference/{pair}" for pair in PAIRS])
    counts = [wr.ScalarChart(title=name, metric=f"sweep/{name.lower()}") for name in ("Alarms", "Missing", "Cells")]
    return [
        _section("Heat maps", [_pictures("pictures/heatmap")], 1),
        _section("Average gain over targets", gains, 2),
        _section("Methods against each other", [differences, _table("table/methods")], 2),
        _section(
            "Methods over epochs", [*compared, _lines_of("Drift, by method", "val/drift/.+", by="method.name")], 2
        ),
        _section("Negative transfer", [*counts, _table("table/alarms")], 2),
        _section("Tables", [_table("table/pairs"), _table("table/matrix")], 1, rows=2, is_open=False),
        _section("Report", [_pictures("report/page")], 1, is_open=False),
    ]


def _section(name: str, panels: Sequence[Any], columns: int, *, rows: int = 0, is_open: bool = True) -> Any:
    layout = ws.SectionLayoutSettings(columns=columns, rows=rows or -(-len(panels) // columns))
    return ws.Section(name=name, panels=list(panels), is_open=is_open, layout_settings=layout)


def _lines(title: str, keys: Sequence[str]) -> Any:
    return wr.LinePlot(title=title, x=STEP, y=list(keys))


def _lines_of(title: str, regex: str, *, by: str = "") -> Any:
    """One line per model; `by`: the mean over all runs with the same value of this configuration key instead."""
    mean: dict[str, Any] = {"groupby": wr.Config(by), "groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
    return wr.LinePlot(title=title, x=STEP, metric_regex=f"^{regex}$", **(mean if by else {}))


def _pictures(key: str) -> Any:
    return wr.MediaBrowser(title=key, media_keys=[key], num_columns=1)


def _table(key: str) -> Any:
    return wr.WeavePanelSummaryTable(table_name=key)
