"""The table of costs from shapes alone: no weights are read. For the published models, which nobody here has run."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig
from torch import nn

from experiments.bench.models import TOWERS
from experiments.costing.table import plan_markdown
from experiments.costing.ways import count, learned_shapes, stored_bytes
from experiments.recipes import load_experiment
from experiments.run.build import run_length
from experiments.run.memory_plan import device_of, planned_sizes
from experiments.sweep.plan import count_rows, updates_of_an_epoch
from lightning_modules.atomic import replace_file
from lightning_modules.prompts import build_prompt
from model_zoo.memory.activations import build_connector, build_llm, kept_bytes
from model_zoo.memory.need import overhead, source_need
from model_zoo.memory.sizes import BYTES, Sizes
from model_zoo.registry import canonical, get_entry

TRAINED = 3
"""Numbers beside each learned one while it is trained, in its own dtype: its gradient and Adam's two averages."""
PLANNED = "cost_plan.json"


class Shapes(nn.Module):
    """A Q-Former MLLM on the meta device: all its weights without memory, under the names an adapter gives them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.llm = build_llm(sizes.llm, sizes.llm.layers)
        self.connector = build_connector(sizes.vision, sizes.qformer, sizes.llm.width, patches=sizes.patches)

    def language_parts(self) -> list[nn.Module]:
        return [self.llm]

    def tower_parts(self) -> list[nn.Module]:
        return self.connector.tower_parts()


def plan_cost(options: Any, others: list[tuple[str, str]]) -> dict[str, Any]:
    """Print the planned table, and write OUT/cost_plan.json where `out=DIR`; returns what that holds.

    options: as `experiments.cost.Options`.
    """
    recipe = load_experiment([("exp", options.exp), *others])
    of_recipe = [recipe.source.name, *recipe.targets.names] if recipe.targets.names else list(TOWERS)
    names = list(options.mllm or of_recipe)
    config = load_experiment([("exp", options.exp), *others, ("source.name", names[0])])
    found = plan_entries(config, [canonical(name) for name in names], options.ways, options.rank)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        replace_file(options.out / PLANNED, (json.dumps(found, indent=1) + "\n").encode())
    print(plan_markdown(found))
    return found


def plan_entries(config: DictConfig, names: list[str], ways: tuple[str, ...], rank: int) -> dict[str, Any]:
    """`by_n` as `summary.summarise` makes it, without seconds and scores: updates stand for time.

    The peak is what the planner says of weights, kept activations and short-lived tensors, with three more numbers for
    each learned one. A prompt is counted with the recipe's CLIP where it has one. Raises ValueError for a model that
    has no plan.
    """
    for name in names:
        _sizes(name, config)
    rows = count_rows(config)
    updates = run_length(config, updates_of_an_epoch(config, rows))[1]
    costs = {(name, way): _cost(config, name, way, rank, names[0]) for name in names for way in ways}
    by_n = []
    for n in range(1, len(names) + 1):
        for way in ways:
            paid = [costs[name, way] for name in (names[:1] if way == "prompt" else names[:n])]
            sums: dict[str, Any] = {key: sum(cost[key] for cost in paid) for key in ("parameters", "bytes")}
            sums |= {"updates": updates * len(paid), "peak_bytes": max(cost["peak_bytes"] for cost in paid)}
            by_n.append({"models": n, "way": way} | sums)
    one = [{"mllm": name, "way": way} | costs[name, way] for name in names for way in ways if (name, way) in costs]
    asked = {"exp": config.exp, "mllm": names, "rank": rank, "dtype": config.source.dtype}
    asked |= {"batch": config.train.batch_size, "updates": updates, "device": device_of(config)}
    return {"asked": asked, "models": one, "by_n": by_n}


def _cost(config: DictConfig, name: str, way: str, rank: int, source: str) -> dict[str, int]:
    if way == "prompt":
        return _prompt_cost(config, source)
    sizes, dtype, batch = _sizes(name, config), config.source.dtype, config.train.batch_size
    shapes = learned_shapes(Shapes(sizes), way, rank)
    learned = count(shapes)
    checkpointing = config.train.checkpointing
    need = source_need(sizes, batch, dtype, checkpointing=checkpointing, device=device_of(config))
    more = TRAINED * learned + (learned if way == "lora" else 0)
    used = need.weights + need.work + kept_bytes(sizes, batch, dtype, checkpointing=checkpointing, learned=way)
    used += more * BYTES[dtype]
    stored = stored_bytes(shapes, dtype, BYTES[dtype])
    return {"parameters": learned, "bytes": stored, "peak_bytes": used + overhead(used, device_of(config))}


def _prompt_cost(config: DictConfig, source: str) -> dict[str, int]:
    """Stored: the 8-bit pixels of the frame before PNG packs them, an upper bound; its manifest is a few kB."""
    shape = {key: config.prompt[key] for key in ("frame", "pad", "bounds", "rank")}
    prompt = build_prompt(config.prompt.kind, **shape)
    free = int(prompt.mask.sum()) * len(prompt.delta)
    options = {"checkpointing": config.train.checkpointing, "clip": bool(config.method.tse)}
    options["device"] = device_of(config)
    need = source_need(_sizes(source, config), config.train.batch_size, config.source.dtype, **options)
    return {"parameters": free, "bytes": free, "peak_bytes": need.total}


def _sizes(name: str, config: DictConfig) -> Sizes:
    entry = get_entry(name)
    if entry.embedded or entry.served or entry.hf:
        raise ValueError(
            f"'{name}' has no plan: costs are counted from the shapes of a published Q-Former model. Expected one of "
            f"{', '.join(TOWERS)}; or measure it without plan=true."
        )
    found = planned_sizes(name, config.source.weights)
    assert found is not None  # of every published model
    return found
