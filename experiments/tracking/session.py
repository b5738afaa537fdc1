"""Where W&B writes and under whose name: never a prompt, never a wait for an answer, nothing private by default."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Any

from lightning_modules.atomic import replace_file

INIT_SECONDS, FINISH_SECONDS = 20.0, 60.0  # what an unreachable server may cost a run at its start and at its end
FORCED = {"disabled": "off", "offline": "offline", "dryrun": "offline", "online": "online", "run": "online"}


def wandb_mode(wanted: str) -> str:
    """`online`, `offline` or `off`. `auto` is online for a logged-in user and offline for everyone else.

    WANDB_MODE wins over the recipe, except over `off`; online without a login becomes offline, with a line saying so.
    """
    if wanted == "off":
        return "off"
    wanted = FORCED.get(os.environ.get("WANDB_MODE", ""), wanted)
    if wanted == "auto":
        saved = FORCED.get(_saved_mode(), "online")  # what `wandb offline` or `wandb disabled` left
        wanted = "auto" if saved == "online" else saved
    if wanted not in ("auto", "online") or logged_in():
        return "online" if wanted == "auto" else wanted
    if wanted == "online":
        print("W&B: not logged in, so this run is logged offline. Log in with `wandb login`, upload with `wandb sync`.")
    return "offline"


def quiet_wandb() -> Any:
    """The wandb module, its own error reports to its maker switched off unless the user switched them on."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    _leave_foreign_service()
    import wandb

    return wandb


def _leave_foreign_service() -> None:
    """Forget the W&B service of the process that started this one (`<version>-<pid>-...` in WANDB_SERVICE).

    It would outlive this process when that is killed, still hold the run open, and refuse its rows after a resume.
    """
    owner = os.environ.get("WANDB_SERVICE", "").split("-")[1:2]
    if owner and owner != [str(os.getpid())]:
        os.environ.pop("WANDB_SERVICE")


def logged_in() -> bool:
    """Whether wandb finds credentials (environment, netrc, its settings) for its server. No prompt, no network."""
    try:
        return bool(quiet_wandb().login(prompt=False, verify=False))
    except Exception:  # malformed credentials raise many things; a run never depends on them
        return False


def _saved_mode() -> str:
    try:
        return str(quiet_wandb().setup().settings.mode)
    except Exception:
        return "online"


def stable_id(folder: Path) -> str:
    """The W&B run id of this folder: made once, kept in `wandb/run_id`, so that a resume continues the same run."""
    path = folder / "wandb" / "run_id"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name)[:48].strip("-")
        replace_file(path, f"{slug}-{secrets.token_hex(4)}\n".encode())
    return path.read_text().strip()


def settings(*, system: bool) -> dict[str, Any]:
    """wandb.Settings of every run. Without `system` (log.system) nothing about this machine or its code is recorded."""
    private = {
        "host": "-",
        "console": "off",
        "disable_git": True,
        "disable_code": True,
        "save_code": False,
        "x_disable_stats": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
    }
    return {
        "silent": True,
        "disable_job_creation": True,
        "reinit": "create_new",
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
    } | ({} if system else private)


def public(value: Any, *, hidden: tuple[str, ...] = ("out", "resume")) -> Any:
    """A configuration without this machine's paths: `out` and `resume` left out, absolute paths cut to their name."""
    if isinstance(value, dict):
        return {key: public(entry, hidden=()) for key, entry in value.items() if key not in hidden}
    if isinstance(value, list | tuple):
        return [public(entry, hidden=()) for entry in value]
    if isinstance(value, str) and os.path.isabs(os.path.expanduser(value)):
        return Path(value).name
    return value
