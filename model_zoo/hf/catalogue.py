"""Named entries among the models of the hub, as data. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple


class HubModel(NamedTuple):
    """hub: ORG/MODEL, also its folder below the weights root."""

    hub: str


HF_MODELS: dict[str, HubModel] = {}
