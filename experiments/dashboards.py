"""Make the W&B dashboards of this project."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments.cli import parse_options, run_command
from experiments.tracking.keys import PLACES, STEP
from lightning_modules.vocabulary import CONTROLS, METHODS

TIMEOUT = 20  # seconds for the server's answer


@dataclass
class Options:
    """
    python -m experiments.dashboards push [entity=NAME] [project=tvp] [sweep=GROUP]
    python -m experiments.dashboards show [entity=NAME] [project=tvp] [sweep=GROUP]

    Two workspaces: one for a run (gains over every control per model, scores, drift, the prompt and prompted samples,
    tables, losses) and one for a sweep (heat maps, average gains, methods against each other, negative transfer).

      push     save both on the W&B server as new views and print their addresses; needs `wandb login`
      show     print both as JSON; needs no login and no network

    Both need the extra: pip install -e ".[dashboards]"
    """

    action: Literal["push", "show"]
    """what to do; the word stands alone, as above"""
    entity: str = ""
    """whose project it is (default: WANDB_ENTITY, else the one your login belongs to)"""
    project: str = "tvp"
    """the W&B project of the runs (log.project)"""
    sweep: str = ""
    """the group of a sweep's runs (log.group); without it the sweep's workspace shows the whole project"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv or ["--help"], bare="action")
    if options is None:
        return 0
    require_extra()
    do = push if options.action == "push" else show
    return do(options.entity, options.project, options.sweep)


def require_extra() -> None:
    from importlib.util import find_spec

    if find_spec("wandb_workspaces") is None:
        raise FileNotFoundError(
            'The package wandb-workspaces is not installed. Dashboards need it: pip install -e ".[dashboards]"'
        )


def show(entity: str, project: str, sweep: str) -> int:
    """Print both workspaces as one JSON object, `run` and `sweep`."""
    print(json.dumps(as_json(entity, project, sweep), indent=1))
    return 0


def as_json(entity: str, project: str, sweep: str) -> dict[str, Any]:
    entity = entity or os.environ.get("WANDB_ENTITY", "") or "entity"
    made = build_workspaces(entity, project, sweep)
    return {
        kind: json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))
        for kind, workspace in made.items()
    }


def push(entity: str, project: str, sweep: str) -> int:
    """Save both workspaces. Raises ValueError without a login, ConnectionError where the server does not answer."""
    from experiments.tracking.session import logged_in, quiet_wandb

    if not logged_in():
        raise ValueError(
            "Not logged in to W&B, so nothing was pushed. Expected credentials: run `wandb login` (or set "
            "WANDB_API_KEY) and push again; `python -m experiments.dashboards show` needs no login."
        )
    wandb = quiet_wandb()
    try:
        entity = entity or os.environ.get("WANDB_ENTITY", "") or wandb.Api(timeout=TIMEOUT).default_entity
        saved = [workspace.save() for workspace in build_workspaces(entity, project, sweep).values()]
    except Exception as error:  # requests, GraphQL and wandb errors share no base class
        raise ConnectionError(
            f"W&B did not take the workspaces of '{entity or 'your entity'}/{project}' ({type(error).__name__}: "
            f"{error}). Expected a reachable server and a project you may write: see `wandb login --verify`, entity=."
        ) from None
    for workspace in saved:
        print(f"{workspace.name}: {workspace.url}")
    return 0


WORDS = {"full": "the full image", "black": "a black border", "constant": "the best constant", "replicate": "replicate"}
PAIRS = ("tvp-evp", "tvp-vp")


def build_workspaces(entity: str, project: str, sweep: str = "") -> dict[str, Any]:
    """`run` and `sweep` -> workspace, not yet saved anywhere.

    sweep: the group (log.group) whose runs the sweep's workspace shows; empty: every run of the project.
    """
    import wandb_workspaces.workspaces as ws

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
    metrics = PLACES["<metric>"]
    return [
        _section("Gain over controls", [_lines_of(f"Gain over {WORDS[c]}", f"val/gain/{c}/.+") for c in CONTROLS], 2),
        _section(
            "Scores", [_lines_of("Score with the prompt", f"val/({metrics})/.+"), _lines("Loss", ["val/loss"])], 2
        ),
        _section("Feature drift", [_lines_of("Drift of each model's features", "val/drift/.+")], 1),
        _section(
            "Prompt and samples", [_pictures(f"pictures/{name}") for name in ("prompt", "samples", "examples")], 3
        ),
        _section("Targets", [_table("table/targets")], 1, rows=1),
        _section(
            "Losses",
            [_lines(name, [f"train/{key}"]) for name, key in (("Loss", "loss"), ("Task", "task"), ("FCA", "fca"))]
            + [_lines("TSE", ["train/tse"])],
            2,
        ),
        _section(
            "Update",
            [
                _lines("Gradient norm", ["train/grad_norm"]),
                _lines("Prompt norm", ["train/prompt_norm"]),
                _lines("Learning rate", ["train/lr"]),
            ],
            3,
            is_open=False,
        ),
    ]


def sweep_sections() -> list[Any]:
    gains = [_bars(f"Over {WORDS[c]}", [f"sweep/gain/{c}/{method}" for method in METHODS]) for c in CONTROLS]
    compared = [_lines_of(f"Gain over {WORDS[c]}, by method", f"val/gain/{c}/.+", by="method.name") for c in CONTROLS]
    counts = [_count(name, f"sweep/{name.lower()}") for name in ("Alarms", "Missing", "Cells")]
    return [
        _section("Heat maps", [_pictures("pictures/heatmap")], 1),
        _section("Average gain over targets", gains, 2),
        _section(
            "Methods against each other",
            [_bars("Difference, paired", [f"sweep/difference/{pair}" for pair in PAIRS]), _table("table/methods")],
            2,
        ),
        _section(
            "Methods over epochs", [*compared, _lines_of("Drift, by method", "val/drift/.+", by="method.name")], 2
        ),
        _section("Negative transfer", [*counts, _table("table/alarms")], 2),
        _section("Tables", [_table("table/pairs"), _table("table/matrix")], 1, rows=2, is_open=False),
        _section("Report", [_pictures("report/page")], 1, is_open=False),
    ]


def _section(name: str, panels: Sequence[Any], columns: int, *, rows: int = 0, is_open: bool = True) -> Any:
    import wandb_workspaces.workspaces as ws

    layout = ws.SectionLayoutSettings(columns=columns, rows=rows or -(-len(panels) // columns))
    return ws.Section(name=name, panels=list(panels), is_open=is_open, layout_settings=layout)


def _panel(kind: str, **settings: Any) -> Any:
    """A panel of W&B's public report library, which is slow to import and not everybody has."""
    import wandb_workspaces.reports.v2 as wr

    return getattr(wr, kind)(**settings)


def _lines(title: str, keys: Sequence[str]) -> Any:
    return _panel("LinePlot", title=title, x=STEP, y=list(keys))


def _lines_of(title: str, regex: str, *, by: str = "") -> Any:
    """One line per model; `by`: the mean over all runs with the same value of this configuration key instead."""
    import wandb_workspaces.reports.v2 as wr

    grouped: dict[str, Any] = (
        {"groupby": wr.Config(by), "groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"} if by else {}
    )
    return wr.LinePlot(title=title, x=STEP, metric_regex=f"^{regex}$", **grouped)


def _bars(title: str, keys: Sequence[str]) -> Any:
    return _panel("BarPlot", title=title, metrics=list(keys))


def _count(title: str, key: str) -> Any:
    return _panel("ScalarChart", title=title, metric=key)


def _pictures(key: str) -> Any:
    return _panel("MediaBrowser", title=key, media_keys=[key], num_columns=1)


def _table(key: str) -> Any:
    return _panel("WeavePanelSummaryTable", table_name=key)


if __name__ == "__main__":
    run_command(main)
