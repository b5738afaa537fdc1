"""What a run would load and how much memory it needs, before it is loaded: `--dry-run`, and the check of `train`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf

from experiments.run.build import RunParts
from experiments.run.kept_models import kept_bytes, make_room
from experiments.run.preflight import missing_with_hint
from lightning_modules.evaluation import ModelSpec
from model_zoo.hf.catalogue import named_entry
from model_zoo.hf.folder import folder_of
from model_zoo.listing import gib
from model_zoo.memory.free import Room, free_ram, free_room
from model_zoo.memory.loading import plan_loading
from model_zoo.memory.need import CUDA_CONTEXT, FRAGMENTATION, Need, overhead, source_need, target_need
from model_zoo.memory.parts import Part, parts_of, total
from model_zoo.memory.sizes import BYTES, PUBLISHED_SIZES, USUAL, Sizes, sizes_of
from model_zoo.registry import canonical, dry_load, get_entry, is_hub_model, missing_clip, missing_files

ASSUMED = (
    f"{USUAL.text} text, {USUAL.answer} answer and {USUAL.candidates} candidate tokens an image; "
    f"{FRAGMENTATION:.0%} lost by the allocator; a GPU's driver takes {gib(CUDA_CONTEXT)}"
)
BFLOAT16 = "source.dtype=bfloat16 targets.dtype=bfloat16"


class NotEnoughMemoryError(ValueError):
    """A run that cannot fit; raised before anything is loaded."""


SPARE = 0.9  # of the free memory is what targets.residency=auto may fill: other programs move too


class Plan(NamedTuple):
    """Bytes a run needs at its peak on the device of each rank, and in the host's RAM, with lines that explain them.

    residency: what becomes of targets.residency. record: that and its figures in GiB, for the run's own record.
    order: names of the targets as they are loaded. beside: see `ReadAhead`.
    """

    device: int
    host: int
    lines: list[str]
    residency: str
    record: dict[str, Any]
    order: list[str]
    beside: list[tuple[str, str]]


def check_memory(parts: RunParts, *, resumed: bool = False) -> Plan:
    """Print the plan of a run with published models and compare it with the memory that is free.

    Settles `parts.residency`. A resumed run is only warned: its configuration, `train.memory_check` too, cannot be
    changed any more.

    Raises:
        NotEnoughMemoryError: it does not fit and `train.memory_check` is `refuse`; says what would.
    """
    config, plan = parts.config, memory_plan(parts)
    parts.residency, parts.order, parts.beside = plan.residency, plan.order, plan.beside
    stay, device = parts.models if plan.residency == "keep" else parts.teachers, device_of(config)
    make_room(stay, device, int(_needed(plan.device, config) / SPARE), free_room(device).free)
    make_room(stay, "cpu", plan.host, free_ram().free)
    if config.train.memory_check == "off" or not any(map(_is_planned, parts.models)):
        if config.targets.residency == "auto" and parts.targets:
            print(_chosen(plan))
        return plan
    print("\n".join(["# Memory, planned", *plan.lines]))
    problem = shortage(config, plan)
    if problem and config.train.memory_check == "refuse" and not resumed:
        raise NotEnoughMemoryError(problem)
    if problem:
        print(f"WARNING: {problem}")
    return plan


def shortage(config: DictConfig, plan: Plan) -> str:
    """What does not fit, with numbers and what to change; empty when all fits or the system does not say."""
    device, room, ram = device_of(config), _room(device_of(config)), _with_kept(free_ram(), "cpu")
    needed = _needed(plan.device, config)
    if room.free is not None and needed > room.free:
        ways = _ways_out(config, room.free)
        return (
            f"This run needs {gib(needed)}, but {gib(room.free)} are free {room.where}. {ways} "
            "train.memory_check=warn tries anyway."
        )
    if device == "cuda" and ram.free is not None and plan.host > ram.free:
        return (
            f"Loading passes {gib(plan.host)} through RAM, but {gib(ram.free)} are free {ram.where}. Use "
            f"{BFLOAT16}, fewer train.devices, or a larger machine. train.memory_check=warn tries anyway."
        )
    return ""


def _ways_out(config: DictConfig, free: int) -> str:
    """Changes in the order of their cost to the result, each on top of those before, until the run would fit."""
    changes, words = cast(DictConfig, OmegaConf.create(OmegaConf.to_container(config))), []
    for change in _changes(config):
        changes = cast(DictConfig, OmegaConf.merge(changes, OmegaConf.from_dotlist(change.split())))
        total = memory_plan(RunParts(changes)).device
        words.append(f"{change} ({gib(total)})")
        if total <= free:
            return f"It would fit with {', then '.join(words)}."
    return f"Even {', then '.join(words)} would not fit: use a larger device or a smaller model."


def _changes(config: DictConfig) -> list[str]:
    train, learns, alone = config.train, config.method.name != "none", not config.sources
    one_image = f"train.batch_size=1 train.accumulate={train.accumulate * train.batch_size}"
    changes = (
        ("targets.residency=sequential", config.targets.residency == "keep" and config.targets.names),
        ("train.checkpointing=true", learns and not train.checkpointing),
        (one_image, learns and train.batch_size > 1),
        ("train.eval_batch_size=4", train.eval_batch_size > 4),
        (BFLOAT16, alone and "float32" in (config.source.dtype, config.targets.dtype)),
        ("source.quant=8bit targets.quant=8bit", alone and device_of(config) == "cuda"),
    )
    return [change for change, helps in changes if helps]


def memory_plan(parts: RunParts) -> Plan:
    """The peak over training, scoring and loading. Weights that models have in common are counted once.

    With targets.residency=auto every target stays loaded where that fits, else they are loaded one at a time in the
    order that reads least, each while the one before is scored where the two fit.
    """
    asked, room = parts.config.targets.residency, _room(device_of(parts.config))
    whole = _plan(parts, "keep", room)
    fits = room.free is not None and _needed(whole.device, parts.config) <= SPARE * room.free
    chosen = asked if asked != "auto" else "keep" if fits or not parts.targets else "sequential"
    return whole if chosen == "keep" else _plan(parts, chosen, room, whole.device)


def _room(device: str) -> Room:
    return _with_kept(free_room(device), device)


def _with_kept(room: Room, device: str) -> Room:
    """What is free and what models take that an earlier run of this process left: they are taken over, or go."""
    return room if room.free is None else room._replace(free=room.free + kept_bytes(device))


def _plan(parts: RunParts, residency: str, room: Room, whole: int | None = None) -> Plan:
    """whole: bytes the run would need with all targets resident; None where it is the one that is planned."""
    config, device = parts.config, device_of(parts.config)
    # An anchor is counted as a source, though its LLM takes no part in an update.
    sources = [(spec, _need(spec, parts, device)) for spec in parts.teachers]
    targets = [(spec, _need(spec, parts, device)) for spec in parts.targets]
    lines = [_line(spec, need, config) for spec, need in (*sources, *targets)]
    own, others = [_parts(spec, config) for spec in parts.teachers], [_parts(spec, config) for spec in parts.targets]
    clip = sum(need.weights for _, need in sources) - sum(part.bytes for part in chain(*own))
    everything = total(chain(*own, *others)) + clip
    alone = total(chain(*own)) + clip
    resident = everything if residency == "keep" else alone
    noisy = sum(_noisy_copy(spec, config) for spec in parts.sources)
    training = _training([need for _, need in sources], resident + noisy, config, device)
    # What a target brings along beside the sources, while it is the only one that is loaded.
    news = [0 if residency == "keep" else total(chain(*own, more)) + clip - alone for more in others]
    if residency == "process":
        news = [need.weights for _, need in targets]
    works = [new + need.work for new, (_, need) in zip(news, targets, strict=True)]
    own_work, auto = _own_scoring(parts, device).work, config.targets.residency == "auto"

    def fits(extra: int) -> bool:
        size = alone + extra
        two = auto and residency == "sequential" and room.free is not None
        return two and _needed(size + overhead(size, device), config) <= SPARE * (room.free or 0)

    # The order is the same on every rank, which may see other free memory: at every target ranks wait for each other.
    models = {spec.name: (more, need.work) for (spec, need), more in zip(targets, others, strict=True)}
    loading = plan_loading([*chain(*own)], models, own_work, fits, reorder=auto)
    scoring = resident + max([own_work, loading.extra, *works])
    scoring += overhead(scoring, device) + (CUDA_CONTEXT if residency == "process" and device == "cuda" else 0)
    host = config.train.devices * max([alone, *(need.weights for _, need in targets)])
    peak = max(training, scoring)
    lines.append(f"assumed  {ASSUMED}")
    lines.append(f"peak     {gib(peak)} on {device} (training {gib(training)}, scoring {gib(scoring)})")
    if device == "cuda":
        lines.append(f"loading  {gib(host)} of RAM for a while")
    apart = sum(need.weights for _, need in (*sources, *targets))
    figures = {
        "weights": everything,
        "weights_apart": apart,
        "read_at_every_scoring": {"keep": 0, "process": sum(news)}.get(residency, loading.reads),
        "all_resident": peak if whole is None else whole,
        "free": room.free,
    }
    record: dict[str, Any] = {key: None if n is None else round(n / 2**30, 3) for key, n in figures.items()}
    record |= {"asked": config.targets.residency, "chosen": residency, "order": loading.order}
    record["ahead"] = [name for name in loading.ahead if not is_hub_model(name)]
    plan = Plan(peak, host, lines, residency, record, loading.order, loading.beside)
    if targets:
        lines += [*_shared_lines(parts, [*own, *others]), _chosen(plan)]
    return plan


def _shared_lines(parts: RunParts, of_models: Sequence[Sequence[Part]]) -> list[str]:
    """A line for each part that several models have in common."""
    return _part_lines([spec.name for spec in parts.models], of_models, 2)


def _part_lines(names: Iterable[str], of_models: Iterable[Sequence[Part]], least: int) -> list[str]:
    """A line for each part that at least so many models hold."""
    holders: dict[Part, list[str]] = {}
    for name, found in zip(names, of_models, strict=True):
        for part in found:
            holders.setdefault(part, []).append(name)
    rows = [(part, names) for part, names in holders.items() if len(names) >= least]
    return [f"once     {gib(part.bytes)} {part.what}: {', '.join(names)}" for part, names in rows]


def resident_lines(runs: Iterable[RunParts]) -> list[str]:
    """Every part of the models of several runs once, with who holds it, and the sum: all of them loaded together."""
    found: dict[tuple[str, str, str], list[Part]] = {}
    for parts in runs:
        for spec in parts.models:
            form = (spec.name, spec.precision, spec.weights)
            found[form] = found.get(form) or _parts(spec, parts.config)
    of_models, forms = list(found.values()), sorted({precision for _, precision, _ in found})
    names = [name if len(forms) == 1 else f"{name} as {precision}" for name, precision, _ in found]
    once, apart = total(chain(*of_models)), sum(part.bytes for part in chain(*of_models))
    last = f"weights  {gib(once)} of all models with shared parts once, {gib(apart)} apart, as {', '.join(forms)}"
    return [*_part_lines(names, of_models, 1), last]


def _chosen(plan: Plan) -> str:
    """What becomes of targets.residency, and why."""
    r = plan.record
    how = {"keep": "all stay loaded", "sequential": "one is loaded at a time", "process": "each in its own process"}
    free = "" if r["free"] is None else f", {r['free']:.1f} GiB are free"
    order = ""
    if r["chosen"] == "sequential":
        ahead = f"read while the one before is scored: {', '.join(r['ahead']) or 'none'}"
        order = (
            f"\norder    {', '.join(r['order'])}; {ahead}; {r['read_at_every_scoring']:.1f} GiB read at every scoring"
        )
    return (
        f"weights  {r['weights']:.1f} GiB of all models with shared parts once, {r['weights_apart']:.1f} GiB apart\n"
        f"targets  {plan.residency} ({r['asked']}): {how[plan.residency]}. With all of them loaded the run needs "
        f"{r['all_resident']:.1f} GiB{free}{order}"
    )


def _needed(device: int, config: DictConfig) -> int:
    """Bytes on the device: on a CPU all ranks share one memory."""
    return device if device_of(config) == "cuda" else device * config.train.devices


def _training(needs: Sequence[Need], resident: int, config: DictConfig, device: str) -> int:
    """Peak of a training step beside the resident weights: all sources' graphs live until backward."""
    kept = 0 if config.method.gradient == "spsa" else sum(need.kept for need in needs)
    kept = 0 if config.method.name == "none" else kept + max(need.work for need in needs)
    return resident + kept + overhead(resident + kept, device)


def _parts(spec: ModelSpec, config: DictConfig) -> list[Part]:
    return parts_of(spec.name, spec.weights, _sizes(spec, config), spec.dtype, spec.quant)


def _noisy_copy(spec: ModelSpec, config: DictConfig) -> int:
    """Bytes of the weights that stand in for the tower's and connector's while noise is on them."""
    sizes = _sizes(spec, config) if config.method.weight_noise else None
    return 0 if sizes is None else sizes.connector * BYTES[spec.dtype]


def _own_scoring(parts: RunParts, device: str) -> Need:
    """What scoring the first source takes besides its weights, which are resident."""
    spec, config = parts.sources[0], parts.config
    if (sizes := _sizes(spec, config)) is None:
        return Need(0, 0, 0, 0)
    work = target_need(sizes, config.train.eval_batch_size, spec.dtype, quant=spec.quant, device=device).work
    return Need(0, 0, work, 0)


def _need(spec: ModelSpec, parts: RunParts, device: str) -> Need:
    config = parts.config
    sizes = _sizes(spec, config)
    if sizes is None:
        return Need(total(_parts(spec, config)), 0, 0, 0)
    if spec.role != "source":
        return target_need(sizes, config.train.eval_batch_size, spec.dtype, quant=spec.quant, device=device)
    first = spec.name == parts.sources[0].name
    options: dict[str, Any] = {"quant": spec.quant, "checkpointing": spec.checkpointing}
    options["clip"] = bool(config.method.tse) and first
    return source_need(sizes, config.train.batch_size, spec.dtype, device=device, **options)


def _sizes(spec: Any, config: DictConfig) -> Sizes | None:
    if not _is_planned(spec):
        return None
    weights, tiles = str(Path(spec.weights).resolve()), spec.options.get("tiles", "one")
    return planned_sizes(spec.name, weights, tiles, config.prompt.frame)


@lru_cache
def planned_sizes(name: str, weights: str, tiles: str = "one", frame: int = 224) -> Sizes | None:
    """Sizes of a published model: read off its files where they are complete, else the published numbers.

    tiles, frame: how a model of the hub sees a picture, and its side in pixels; a named entry that is not here knows
    224 only. None for one that is neither here nor named.
    """
    known, missing = named_entry(name), missing_files(name, weights)
    if get_entry(name).hf:
        from model_zoo.hf.planning import folder_sizes

        found = known.sizes(tiles) if known else None
        return found if missing else folder_sizes(folder_of(name, weights), tiles, frame)
    if missing:
        return PUBLISHED_SIZES[canonical(name)]
    return sizes_of(dry_load(name, Path(weights)))


def _is_planned(spec: Any) -> bool:
    return not (get_entry(spec.name).embedded or get_entry(spec.name).served)


def device_of(config: DictConfig) -> str:
    """`cuda` or `cpu`, as Lightning will choose."""
    if config.train.accelerator not in ("auto", "gpu", "cuda"):
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _line(spec: Any, need: Need, config: DictConfig) -> str:
    if get_entry(spec.name).served:
        return f"{spec.role:8} {spec.name}: on its server"
    head = f"{spec.role:8} {spec.name}: {gib(need.weights)} of weights as {spec.precision}"
    if (sizes := _sizes(spec, config)) is None:
        return head
    if tiles := spec.options.get("tiles"):
        head += f", {tiles} tile{'s' * (tiles != 'one')}: {sizes.visual} visual tokens"
    if spec.role != "source":
        return f"{head}, {gib(need.work)} to score {config.train.eval_batch_size} images"
    if config.method.gradient == "spsa":
        return f"{head}, no gradient kept (spsa), {gib(need.work)} short-lived"
    how = ", checkpointed" if spec.checkpointing else ""
    gradient = f"{gib(need.kept)} kept for the gradient of {config.train.batch_size} images{how}"
    return f"{head}, {gradient}, {gib(need.work)} short-lived"


def print_plan(config: DictConfig) -> int:
    """Print the resolved configuration, models, files and memory; always 0: missing files are listed, not fatal."""
    parts = RunParts(config)
    print(OmegaConf.to_yaml(config, resolve=True).rstrip())
    print("\n# Would load")
    for spec in parts.models:
        entry = get_entry(spec.name)
        sizes = _sizes(spec, config)
        print(f"{spec.role:8} {spec.name}: {entry.description}")
        if not entry.served:
            print(f"         {(sizes.parameters if sizes else entry.parameters) / 1e6:,.1f} M parameters")
        for line in missing_with_hint(spec.name, spec.weights):
            print(f"         MISSING {line}")
    plan = memory_plan(parts)
    problem = shortage(config, plan)
    verdict = [f"DOES NOT FIT: {problem}"] if problem else []
    print("\n".join(["", "# Memory, planned", *plan.lines, *verdict, "", "# Data"]))
    _print_rest(parts)
    print("\nDry run: nothing was loaded or created.")
    return 0


def _print_rest(parts: RunParts) -> None:
    config = parts.config
    if config.method.tse:
        print(f"clip     {config.method.clip} for the TSE loss")
        for line in missing_clip(config.method.clip, config.source.weights):
            print(f"         MISSING {line}")
    print(f"data     {config.data.name} in '{config.data.root}', images {config.data.image_size} px")
    for line in parts.datamodule.missing():
        print(f"         MISSING {line}")
    global_batch = config.train.batch_size * config.train.accumulate * config.train.devices
    print(f"update   {global_batch} images, {config.train.epochs} epochs, prompt {config.prompt.frame} px")
