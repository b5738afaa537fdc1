"""The method: prompts, losses, the update, the training module, the transfer callback, and records of runs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.prompts import Prompt
    from lightning_modules.transfer_callback import TransferCallback
    from lightning_modules.tvp import TVPModule

__all__ = ["Prompt", "TVPModule", "TransferCallback"]

_HOMES = {"Prompt": "prompts", "TVPModule": "tvp", "TransferCallback": "transfer_callback"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"lightning_modules.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lightning_modules' has no attribute '{name}'")
