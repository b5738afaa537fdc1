"""Make the W&B dashboards of this project."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments.cli import parse_options, run_command
from experiments.tracking.session import logged_in, quiet_wandb

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
    where = (options.entity, options.project, options.sweep)
    if options.action == "push":
        push(*where)
    else:
        print(json.dumps(as_json(*where), indent=1))
    return 0


def require_extra() -> None:
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise FileNotFoundError(
            'The package wandb-workspaces is not installed. Dashboards need it: pip install -e ".[dashboards]"'
        )


def as_json(entity: str, project: str, sweep: str) -> dict[str, Any]:
    """Both workspaces as plain data, `run` and `sweep`."""
    from experiments.tracking.workspaces import build_workspaces

    entity = entity or os.environ.get("WANDB_ENTITY", "") or "entity"
    made = build_workspaces(entity, project, sweep)
    return {
        kind: json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))
        for kind, workspace in made.items()
    }


def push(entity: str, project: str, sweep: str) -> None:
    """Save both workspaces. Raises ValueError without a login, ConnectionError where the server does not answer."""
    if not logged_in():
        raise ValueError(
            "Not logged in to W&B, so nothing was pushed. Expected credentials: run `wandb login` (or set "
            "WANDB_API_KEY) and push again; `python -m experiments.dashboards show` needs no login."
        )
    wandb = quiet_wandb()
    from experiments.tracking.workspaces import build_workspaces  # imports wandb, which is quiet from here on

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


if __name__ == "__main__":
    run_command(main)
