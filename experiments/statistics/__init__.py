"""Statistics of a transfer sweep: from per-sample records to `statistics.json`. Loads no model, draws no picture."""

from __future__ import annotations

from experiments.statistics.analysis import alarms, analyse, write_statistics
from experiments.statistics.sharing import shared

__all__ = ["alarms", "analyse", "shared", "write_statistics"]
