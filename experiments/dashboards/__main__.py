"""Make the W&B dashboards of this project: `python -m experiments.dashboards push|show [key=value ...]`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from experiments.cli import flat_options, run_command, suggest

USAGE = """
python -m experiments.dashboards push [entity=NAME] [project=tvp] [sweep=GROUP]
python -m experiments.dashboards show [entity=NAME] [project=tvp] [sweep=GROUP]

Two workspaces: one for a run (gains over every control per model, scores, drift, the prompt and prompted samples,
tables, losses) and one for a sweep (heat maps, average gains, methods against each other, negative transfer).

  push     save both on the W&B server as new views and print their addresses; needs `wandb login`
  show     print both as JSON; needs no login and no network

  entity=  whose project it is (default: WANDB_ENTITY, else the one your login belongs to)
  project= the W&B project of the runs (log.project)
  sweep=   the group of a sweep's runs (log.group); without it the sweep's workspace shows the whole project

Both need the extra: pip install -e ".[dashboards]"
"""
DEFAULTS: dict[str, object] = {"entity": "", "project": "tvp", "sweep": ""}
ACTIONS = ("push", "show")
TIMEOUT = 20  # seconds for the server's answer


def main(argv: Sequence[str]) -> int:
    action = argv[0] if argv else ""
    if action not in ACTIONS:
        if not argv or {"--help", "-h"} & set(argv):
            print(USAGE.strip())
            return 0
        raise ValueError(f"Unknown action '{action}'.{suggest(action, ACTIONS)} Expected push or show. See --help.")
    options: Any = flat_options(argv[1:], DEFAULTS, usage=USAGE)
    if options is None:
        return 0
    require_extra()
    return push(**options) if action == "push" else show(**options)


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
    from experiments.dashboards.layouts import build_workspaces

    entity = entity or os.environ.get("WANDB_ENTITY", "") or "entity"
    made = build_workspaces(entity, project, sweep)
    return {
        kind: json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))
        for kind, workspace in made.items()
    }


def push(entity: str, project: str, sweep: str) -> int:
    """Save both workspaces. Raises ValueError without a login, ConnectionError where the server does not answer."""
    from experiments.dashboards.layouts import build_workspaces
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


if __name__ == "__main__":
    run_command(main)
