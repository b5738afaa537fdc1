"""Trains and scores what a cost table compares, a row as each is done: what `python -m experiments.cost` does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from datamodules.whole_files.disk import write_bytes
from experiments.costing.clock import Watch
from experiments.costing.summary import stated_metric, summarise
from experiments.costing.table import cost_markdown
from experiments.costing.tuning import fit_, load_own, open_, read_weights_, score
from experiments.costing.ways import TUNED, require_peft
from experiments.recipes import load_experiment
from experiments.run.build import RunParts, control_store, run_length
from experiments.run.ensure import NamedRun, ensure_run, logged, state_of
from experiments.run.folder import describe
from experiments.run.memory_plan import device_of
from experiments.run.preflight import require_everything
from experiments.run.progress import watching
from lightning_modules.atomic import replace_file
from lightning_modules.controls import read_scores, write_scores
from lightning_modules.evaluation import ModelSpec
from lightning_modules.metrics import Scores, estimate, paired_gain
from lightning_modules.prompts import Prompt
from lightning_modules.scorer import PromptScorer
from lightning_modules.tower_features import TowerFeatures
from lightning_modules.vocabulary import file_part
from model_zoo.registry import require_files, tile_options

Pairs = list[tuple[str, str]]
ROWS, SETTINGS, SUMMARY, TABLE = "cost.jsonl", "settings.json", "cost.json", "cost.md"
PRELOADED = (
    *("experiments.costing.measure", "experiments.run.start", "model_zoo.embedded.build"),
    *("model_zoo.embedded.efficientnet", "peft", "torch._dynamo", "wandb"),
)
"""Imported once by the process that all measuring processes are copies of, so that none measures an import."""


class Rows:
    """OUT/cost.jsonl: a JSON object a line, appended with fsync; a line cut short by a crash is no row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            write_bytes(path, b"\n", append=True)

    def read(self) -> list[dict[str, Any]]:
        rows = []
        for line in self.path.read_text("utf-8").splitlines() if self.path.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def find(self, **wanted: Any) -> dict[str, Any] | None:
        """The row with these values, if it was finished."""
        return next((row for row in self.read() if all(row.get(key) == value for key, value in wanted.items())), None)

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        write_bytes(self.path, (json.dumps(row, allow_nan=False) + "\n").encode(), append=True)
        return row


def measure_cost(options: Any, others: Pairs) -> dict[str, Any]:
    """Finish every row of OUT/cost.jsonl, then write cost.json and cost.md; returns what cost.json holds.

    options: as `experiments.cost.Options`. others: further words, for the prompt's run and for all that is tuned.

    Raises:
        ValueError: OUT holds a comparison of other settings; peft is missing; the words make no valid run.
        FileNotFoundError: weights or data are missing.
    """
    asked = Asked(options, others)
    if "lora" in options.ways:
        require_peft()
    require_everything(RunParts(asked.config(asked.seeds[0])))
    for name in asked.models:
        require_files(name, asked.config(asked.seeds[0]).source.weights)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    _same_settings(out / SETTINGS, asked.settings)
    rows = Rows(out / ROWS)
    for seed in asked.seeds:
        for row in prompt_rows(asked, rows, seed):
            _say(row)
    towers = TowerFeatures()
    for name in asked.models:
        for way in (way for way in TUNED if way in options.ways):
            for seed in asked.seeds:
                _say(tuned_row(asked, rows, name, way, seed, towers))
    found = summarise(rows.read(), asked.record) | {"asked": asked.settings}
    found |= {"made": describe()}
    replace_file(out / SUMMARY, (json.dumps(found, indent=1) + "\n").encode())
    replace_file(out / TABLE, cost_markdown(found).encode())
    print(cost_markdown(found))
    return found


class Asked:
    """What is compared: models (the first is the prompt's source), seeds, ways, and the words of every run."""

    def __init__(self, options: Any, others: Pairs) -> None:
        recipe = load_experiment([("exp", options.exp), *others])
        self.options, self.out = options, options.out
        self.models = list(options.mllm or (recipe.source.name, *recipe.targets.names))
        self.seeds, self.others = list(options.seeds), others
        self.rates = {"lora": options.lr_lora, "connector": options.lr_connector, "full": options.lr_full}

    @property
    def settings(self) -> dict[str, Any]:
        """What a row depends on, for the record and to refuse another comparison's folder."""
        keys = ("exp", "rank", "alpha")
        lists = {"mllm": self.models, "seeds": self.seeds, "ways": list(self.options.ways)}
        rates = {f"lr_{way}": list(rates) for way, rates in self.rates.items()}
        return {key: getattr(self.options, key) for key in keys} | lists | rates | {"words": dict(self.others)}

    def words(self, seed: int) -> Pairs:
        """The words of the prompt's run, which are also what the others read data and length from."""
        words = [("exp", self.options.exp), ("log.wandb", "off"), ("log.progress", "false"), *self.others]
        words += [(f"targets.{key}", "[]") for key in ("names", "select", "heldout")]
        return [*words, ("source.name", self.models[0]), ("sources", "[]"), ("seed", str(seed))]

    def config(self, seed: int) -> DictConfig:
        return load_experiment(self.words(seed))

    def run(self, seed: int) -> Path:
        return self.out / f"prompt_s{seed}"

    def scores(self, way: str, name: str, seed: int) -> Path:
        return self.out / "scores" / f"{way}_{file_part(name)}_s{seed}.npz"

    def record(self, way: str, name: str, seed: int) -> Scores:
        """A model's record on test: of a way that was measured, or of the whole picture (`plain`)."""
        return read_scores(self.scores(way, name, seed))


def _same_settings(path: Path, settings: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(settings))
    if path.exists() and (found := json.loads(path.read_text("utf-8"))) != wanted:
        different = [key for key in wanted if wanted[key] != found.get(key)]
        raise ValueError(
            f"'{path.parent}' holds a comparison of other settings (different: {', '.join(different)}). Choose another "
            "out=DIR, or remove that one to make it again."
        )
    replace_file(path, (json.dumps(wanted, indent=1) + "\n").encode())


def alone(job: Callable[..., dict], *words: Any) -> dict[str, Any]:
    """A job in a process of its own, so that its memory is measured alone; it computes in one thread."""
    how = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context = get_context(how)
    if how == "forkserver":
        context.set_forkserver_preload(list(PRELOADED))
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(job, *words).result()


# ---- the prompt ------------------------------------------------------------------------------------------------------
def prompt_rows(asked: Asked, rows: Rows, seed: int) -> Iterator[dict[str, Any]]:
    """A row for every model, of one prompt learned on the first by the usual trainer. Keeps the plain records too."""
    folder = asked.run(seed)
    if rows.find(way="learned", seed=seed) is None:
        if state_of(folder) == "finished":  # killed before its row was written: its seconds are lost
            shutil.rmtree(folder)
        rows.add({"way": "learned", "seed": seed} | alone(learn_prompt, asked.words(seed), asked.out, folder.name))
    cost = {k: v for k, v in (rows.find(way="learned", seed=seed) or {}).items() if k not in ("way", "seed")}
    scorer = build_scorer(asked.config(seed))
    prompts = {"png": Prompt.load(folder / "prompt", reading="png").to(scorer.device)}
    for name in asked.models:
        if (row := rows.find(way="prompt", mllm=name, seed=seed)) is None:
            found = scorer.score(_spec(asked, name), "test", prompts)
            for way, given in (("plain", "full"), ("prompt", "png")):
                asked.scores(way, name, seed).parent.mkdir(parents=True, exist_ok=True)
                write_scores(asked.scores(way, name, seed), found[given])
            role = "source" if name == asked.models[0] else "heldout"
            own = {"way": "prompt", "mllm": name, "seed": seed, "role": role}
            row = rows.add(own | cost | outcome(asked, "prompt", name, seed))
        yield row


def build_scorer(config: DictConfig) -> PromptScorer:
    """Scores prompts on test beside the whole picture, no other control."""
    parts, prompt = RunParts(config), config.prompt
    parts.datamodule.setup()
    sizes = {"val": config.targets.n, "test": config.data.n_test}
    shape: dict[str, Any] = {"frame": prompt.frame, "pad": prompt.pad, "sizes": sizes, "controls": ("full",)}
    return PromptScorer(parts.datamodule, control_store(), **shape, device=device_of(config))


def learn_prompt(words: Pairs, out: Path, name: str) -> dict[str, Any]:
    """Make the run, or go on with it, and say what the prompt is and what learning it took."""
    words = [*words, ("data.n_test", "0")]  # scored on test afterwards, as every model is
    config = load_experiment(words)
    watch = Watch(device_of(config))
    out.mkdir(parents=True, exist_ok=True)
    with watching(watch), logged(out / f"{name}.log"):
        folder = ensure_run(NamedRun(name, words), out)
    prompt = Prompt.load(folder / "prompt")
    stored = sum((folder / "prompt" / file).stat().st_size for file in ("prompt.png", "manifest.json"))
    facts = watch.facts(updates := run_length(config, len(RunParts(config).datamodule.train_dataloader()))[1])
    step = json.loads((folder / "prompt" / "manifest.json").read_text("utf-8"))["steps"]
    free = int(prompt.mask.sum()) * len(prompt.delta)
    return {"parameters": free, "bytes": stored, "updates": updates, "lr": config.method.lr, "step": step} | facts


# ---- weights ---------------------------------------------------------------------------------------------------------
def tuned_row(asked: Asked, rows: Rows, name: str, way: str, seed: int, towers: TowerFeatures) -> dict[str, Any]:
    """The row of one model tuned with one seed: trained unless that was done, then scored on test once.

    The learning rate is the one of the grid whose training with the first seed does best on validation; ties go to the
    lower one.
    """
    if row := rows.find(way=way, mllm=name, seed=seed):
        return row
    tried = [trained(asked, rows, name, way, asked.seeds[0], lr) for lr in asked.rates[way]]
    best = max(tried, key=lambda trial: (trial["val"], -trial["lr"]))
    chosen = trained(asked, rows, name, way, seed, best["lr"])
    config, spec, path = asked.config(seed), _spec(asked, name), _weights(asked, name, way, seed, best["lr"])
    mllm = load_own(spec, device_of(config))
    learned = open_(mllm, way, rank=asked.options.rank, alpha=asked.options.alpha, seed=seed)
    read_weights_(path, learned)
    with towers.lent_to(mllm) if way != "full" else nullcontext():
        record = score(mllm, whole_pictures(config), "test", config.data.n_test)
    write_scores(asked.scores(way, name, seed), record.with_units(whole_pictures(config).units("test")))
    search = {"search_process_seconds": round(sum(trial["process_seconds"] for trial in tried), 3)}
    own = {key: value for key, value in chosen.items() if key != "trial"}
    role = "source" if name == asked.models[0] else "heldout"
    row = rows.add(own | search | {"way": way, "role": role} | outcome(asked, way, name, seed))
    if not asked.options.keep:
        for file in path.parent.glob(f"{path.name.split('_lr')[0]}_lr*"):
            file.unlink()
    return row


def trained(asked: Asked, rows: Rows, name: str, way: str, seed: int, lr: float) -> dict[str, Any]:
    """One training, in a process of its own: what it took, and validation where it stopped. Its weights are on disk."""
    trial = {"trial": way, "mllm": name, "seed": seed, "lr": lr}
    path = _weights(asked, name, way, seed, lr)
    found = rows.find(**trial)
    if found and (path.exists() or rows.find(way=way, mllm=name, seed=seed)):
        return found
    options = asked.options
    words = (asked.words(seed), _spec(asked, name), way, lr, options.rank, options.alpha, path)
    facts = alone(learn_weights, *words)
    return found or rows.add(trial | facts)


def learn_weights(
    words: Pairs, spec: ModelSpec, way: str, lr: float, rank: int, alpha: int, path: Path
) -> dict[str, Any]:
    """Train a model by one of the ways, write its best weights to `path` and say what it took."""
    config = load_experiment(words)
    device = device_of(config)
    watch = Watch(device)
    mllm = load_own(spec, device)
    learned = open_(mllm, way, rank=rank, alpha=alpha, seed=config.seed)
    fitted = fit_(mllm, learned, whole_pictures(config), config, lr=lr, path=path, tell=watch)
    sizes = {"parameters": sum(p.numel() for p in learned.values()), "bytes": path.stat().st_size}
    return {**sizes, "updates": watch.updates, "step": fitted.step, "val": fitted.value} | watch.facts(watch.updates)


def whole_pictures(config: DictConfig) -> Any:
    """The run's rows as whole pictures at the frame's size: a tuned model needs no border."""
    data = RunParts(config).datamodule.with_image_size(config.prompt.frame)
    data.setup()
    return data


def _spec(asked: Asked, name: str) -> ModelSpec:
    """How a model is loaded to be trained: as the prompt's source is."""
    config = asked.config(asked.seeds[0])
    source = config.source
    options = tile_options(name, source.tiles)
    return ModelSpec(
        name, "source", source.weights, source.dtype, source.official, options, checkpointing=config.train.checkpointing
    )


def _weights(asked: Asked, name: str, way: str, seed: int, lr: float) -> Path:
    return asked.out / "weights" / f"{way}_{file_part(name)}_s{seed}_lr{lr:g}.safetensors"


# ---- rows ------------------------------------------------------------------------------------------------------------
def outcome(asked: Asked, way: str, name: str, seed: int) -> dict[str, Any]:
    """The primary metric on test with its 95 % interval, and the paired change over the whole picture, from disk."""
    after, before = (asked.record(kind, name, seed) for kind in (way, "plain"))
    metric = stated_metric(RunParts(asked.config(seed)).datamodule.task)
    value, gain = estimate(metric, after)._asdict(), paired_gain(metric, after, before)._asdict()
    return {"metric": metric} | value | {"gain": {key: gain[key] for key in ("value", "low", "high")}}


def _say(row: dict[str, Any]) -> None:
    gain = row["gain"]
    told = f"{row['way']} on {row['mllm']}, seed {row['seed']}: {row['metric']} {100 * row['value']:.1f}"
    print(f"{told} ({100 * gain['value']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}])", flush=True)
