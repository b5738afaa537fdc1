"""Recipes: finding one, merging it with `key=value` words, resolving both into a complete statement of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with OmegaConf
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.folder_scan import scan
from datamodules.text_files import read_text
from experiments.cli import list_options, unknown
from experiments.schema import ADAM, GROUPS, OFFICIAL, PRESETS, Experiment
from lightning_modules.prompt_kinds import check_bounds
from lightning_modules.vocabulary import CONTROLS, check_init, check_through, read_sent
from model_zoo.served.address import is_served

FOLDER = Path(__file__).parent / "recipes"
# Kept when `method=evp` is said of a tvp recipe (or the reverse): the same loop with parts switched.
SHARED_BY_PAD_METHODS = (
    *("lr", "momentum", "optimizer", "schedule", "warmup_steps", "sources", "clip"),
    *("through", "diversity", "weight_noise", "sharpness", "gradient", "spsa_c", "spsa_directions"),
)

EMPTY = ("''", '""')  # a text without letters, as a word


def list_recipes() -> dict[str, str]:
    """name -> the first comment line of the recipe."""
    return first_lines(FOLDER)


def first_lines(folder: Path) -> dict[str, str]:
    """name -> the first line of every YAML file of a folder, a comment, without its mark."""
    files = {path.stem: read_text(path) for path in scan(folder, "*.yaml")}
    return {name: text.splitlines()[0].lstrip("# ").strip() for name, text in files.items()}


def load_experiment(pairs: Sequence[tuple[str, str]]) -> DictConfig:
    """Recipe + overrides -> resolved, validated, read-only configuration.

    Raises:
        ValueError: unknown recipe, misspelt key, wrong type, a scalar given to a group, contradictory values.
    """
    pairs = [_expand_shorthand(key, value) for key, value in pairs]
    names = [value for key, value in pairs if key == "exp"]
    if not names:
        raise ValueError(f"Missing exp=NAME. Available: {', '.join(list_recipes())}.")
    try:
        config: Any = OmegaConf.merge(OmegaConf.structured(Experiment), _read_recipe(names[-1]))
        chosen = _read_words(pairs)
        _switch_method(config, OmegaConf.select(chosen, "method.name"))
        if OmegaConf.select(chosen, "official") is True or (config.official and "official" not in chosen):
            config = OmegaConf.merge(config, _read_words(list(OFFICIAL.items())))
        config = OmegaConf.merge(config, chosen)
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error)) from None
    _take_artefact(config, chosen)
    return resolve(config)


def _read_recipe(name: str) -> DictConfig | ListConfig:
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise unknown("recipe", name, list(list_recipes()))
    return read_yaml(path)


def read_yaml(path: Path) -> DictConfig | ListConfig:
    """A YAML file in any marked encoding. Raises: ValueError naming the file and the line of what is none."""
    text = read_text(path)
    try:
        return OmegaConf.create(text)
    except yaml.YAMLError as error:
        where = f" line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"'{path}'{where} is not YAML: {problem}. Expected `key: value`; mend that line.") from None


def _expand_shorthand(key: str, value: str) -> tuple[str, str]:
    """`method=evp` means method.name=evp; said as a scalar beside `method.fca=0` OmegaConf would silently lose it."""
    if key == "method":
        return "method.name", value
    if key in ("source", "data"):
        return f"{key}.name", value
    if key in GROUPS:
        raise ValueError(f"'{key}' is a group of keys, not a value. Expected {key}.<key>=..., got {key}={value}.")
    return key, value


def _read_words(pairs: Sequence[tuple[str, str]]) -> DictConfig:
    """Text keys take a word as it stands (`out=2024_11_25`, `log.wandb=off`), lists of text its parts.

    Every other word is read as YAML: `1e-3`, `true`, `null`, `[{name: blip2}]`. A text
    that is empty and not absent is `''`.

    Raises:
        ValueError: a list that is not closed, and the like.
    """
    options, words = {option.key: option for option in list_options(Experiment)}, OmegaConf.create()
    for key, word in pairs:
        option = options.get(key)
        try:
            if option and option.is_text and word not in ("", "null"):
                OmegaConf.update(words, key, "" if word in EMPTY else word)
            elif option and option.hint == list[str]:
                OmegaConf.update(words, key, yaml.load(word, yaml.BaseLoader))
            else:
                words.merge_with_dotlist([f"{key}={word}"])
        except yaml.YAMLError:
            raise ValueError(f"Cannot read {key}={word}. Expected a plain value, or a list such as [a,b].") from None
    return words


def as_yaml(value: Any, *, comma: str = ",") -> str:
    """A plain value or a list of them as a word that `_read_words` reads back."""
    if isinstance(value, list | ListConfig):
        return f"[{comma.join(as_yaml(part, comma=comma) for part in value)}]"
    if value == "":
        return EMPTY[0]
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _switch_method(config: DictConfig, name: str | None) -> None:
    """Another method than the recipe's starts from that method's own values, not from the recipe's."""
    if name is None or name == config.method.name or name not in PRESETS:
        return
    both_pad = {name, config.method.name} <= {"evp", "tvp"}
    kept = {key: config.method[key] for key in SHARED_BY_PAD_METHODS} if both_pad else {"clip": config.method.clip}
    fresh = OmegaConf.structured(Experiment).method
    config.method = OmegaConf.merge(fresh, kept)
    if not both_pad:
        config.prompt.init = None


def _explain(error: OmegaConfBaseException) -> str:
    """OmegaConf's message on one line, without its internals; it already suggests the nearest key."""
    lines = [line.strip() for line in str(error).splitlines()]
    full_key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key")), "")
    where = f" (at '{full_key}')" if full_key and full_key not in lines[0] else ""
    return f"{lines[0].rstrip('.')}{where}. See `python -m experiments.train --help`."


def resolve(config: DictConfig) -> DictConfig:
    """Fill what the method decides, check what types cannot, and freeze the result."""
    if OmegaConf.is_missing(config.source, "name") and config.sources:
        config.source = config.sources[0]
    for key in ("source.name", "data.name"):
        group, leaf = key.split(".")
        if OmegaConf.is_missing(config[group], leaf):
            raise ValueError(f"The recipe has no {key}. Add `{key}: ...` or give {key}=NAME.")
    _resolve_kind(config)
    preset = PRESETS[config.method.name] | (ADAM if config.method.optimizer == "adam" else {})
    if config.prompt.bounds == "sigmoid" and preset["init"] == "zero":
        preset = preset | {"init": "grey"}  # where a sigmoid's own zero lies
    for key, value in preset.items():
        group = config.prompt if key == "init" else config.method
        if group[key] is None:
            group[key] = value
    _expand_home(config)
    _check_method(config)
    _resolve_geometry(config)
    _resolve_targets(config)
    _check_stop_drift(config)
    read_sent(config.targets.through)
    for name in config.targets.controls:
        if name not in CONTROLS:
            raise ValueError(f"Unknown '{name}' in targets.controls. Available: {', '.join(CONTROLS)}.")
    if config.monitor is None:
        config.monitor = "source"
    OmegaConf.set_readonly(config, True)
    return config


def _take_artefact(config: DictConfig, chosen: DictConfig) -> None:
    """A finished prompt that the run starts from says where its pixels are and what bounds them; no word says other."""
    if config.prompt.artefact is None:
        return
    from lightning_modules.artefact import read_manifest  # brings torch, which --help does without

    config.prompt.artefact = os.path.expanduser(config.prompt.artefact)
    manifest = read_manifest(config.prompt.artefact)
    start = {"init": "artefact"} if config.method.name != "none" else {}  # with none nothing is started, only scored
    for key in ("kind", "frame", "pad", "bounds", "rank"):
        if key in manifest:
            start[key] = config.prompt[key] = manifest[key]
    for key, value in start.items():
        said = OmegaConf.select(chosen, f"prompt.{key}")
        if said not in (None, value):
            raise ValueError(
                f"prompt.{key}={said} contradicts prompt.artefact={config.prompt.artefact}, which has {key}={value}. "
                f"Leave prompt.{key} out, or start from another prompt."
            )
    kind, bounds = manifest["kind"], manifest["bounds"]
    if config.method.name != "none" and (kind in ("scaled", "lowrank") or bounds == "sigmoid"):
        raise ValueError(
            f"'{config.prompt.artefact}' is a prompt of kind {kind} and bounds {bounds}: its file holds "
            "pixels, not the numbers they are learned as. Expected method=none beside it, or another prompt."
        )


def _resolve_kind(config: DictConfig) -> None:
    """What null means for prompt.kind and prompt.bounds."""
    prompt = config.prompt
    if prompt.kind is None:
        prompt.kind = "overlay" if config.method.name == "vp" else "pad"
    if prompt.bounds is None:
        prompt.bounds = "sigmoid" if prompt.kind == "scaled" else "image"
    check_bounds(prompt.bounds, prompt.kind)
    if not 1 <= prompt.rank <= prompt.frame:
        raise ValueError(f"Got prompt.rank={prompt.rank}. Expected 1 <= prompt.rank <= prompt.frame={prompt.frame}.")


def _expand_home(config: DictConfig) -> None:
    """Paths may begin with `~`: a shell expands it in `out ~/runs`, not in `out=~/runs`."""
    paths = [(config, "out"), (config, "resume"), (config.data, "root")]
    for group, key in (*paths, *((source, "weights") for source in (config.source, *config.sources))):
        if group[key]:
            group[key] = os.path.expanduser(group[key])


def _check_method(config: DictConfig) -> None:
    method = config.method
    if method.name in ("vp", "none") and method.anchors:
        raise ValueError(f"Method '{method.name}' has no anchors. Use method=tvp or evp, or leave method.anchors out.")
    if method.name in ("evp", "vp", "none") and (method.fca or method.tse):
        raise ValueError(
            f"Method '{method.name}' has no FCA or TSE loss, got fca={method.fca}, tse={method.tse}. "
            "Use method=tvp with these weights, or leave them out."
        )
    if method.tse and config.data.caption == "":
        raise ValueError(
            f"data.caption='' leaves TSE nothing to read, got method.tse={method.tse}. Give a text, `{{}}` in it being "
            "the name (one without `{}` is the same for every picture), or method.tse=0."
        )
    _check_update(config)
    _check_learning(config)
    for key in ("epochs", "batch_size", "eval_batch_size", "accumulate", "devices", "checkpoint_every", "val_every"):
        if config.train[key] < 1:
            raise ValueError(f"Expected train.{key} >= 1, got {config.train[key]}.")
    if config.train.val_every_steps is not None and config.train.val_every_steps < 0:
        raise ValueError(f"Expected train.val_every_steps >= 0 or null, got {config.train.val_every_steps}.")
    if not config.train.feature_cache_gib > 0:
        raise ValueError(f"Expected train.feature_cache_gib > 0, got {config.train.feature_cache_gib}.")
    if config.train.average_last < 0:
        raise ValueError(f"Expected train.average_last >= 0 (0: off), got {config.train.average_last}.")
    if any(step < 1 for step in config.train.keep_prompts):
        raise ValueError(f"Expected updates >= 1 in train.keep_prompts, got {list(config.train.keep_prompts)}.")


def _check_update(config: DictConfig) -> None:
    """The start, and what an optimizer or a schedule would leave unread or could not mean."""
    method, prompt = config.method, config.prompt
    check_init(prompt.init, prompt.kind, prompt.bounds)
    if prompt.init_images < 1:
        raise ValueError(f"Expected prompt.init_images >= 1, got {prompt.init_images}.")
    if method.optimizer == "adam" and method.momentum:
        raise ValueError(
            f"method.optimizer=adam averages gradients itself, got method.momentum={method.momentum}. "
            "Set method.momentum=0, or use normalized or sgd."
        )
    if method.optimizer == "adam" and method.lr > 1:
        raise ValueError(
            f"method.optimizer=adam moves every pixel by about method.lr an update, got method.lr={method.lr:g} where "
            "pixels are in [0, 1]: that is the scale of the normalised step. Expected at most 1, for example "
            "method.lr=0.01."
        )
    if method.schedule == "cosine_epoch" and method.warmup_steps:
        raise ValueError(
            f"method.schedule=cosine_epoch changes lr once an epoch and has no warm-up, got method.warmup_steps="
            f"{method.warmup_steps}. Use method.schedule=cosine_step or constant, or method.warmup_steps=0."
        )


def _check_learning(config: DictConfig) -> None:
    """How an update is made: strengths, and what cannot go together."""
    method, diversity = config.method, config.method.diversity
    check_through(method.through)
    if not 0 <= diversity.shift < config.prompt.frame / 2:
        raise ValueError(
            f"Expected method.diversity.shift from 0 to half of prompt.frame={config.prompt.frame}, got "
            f"{diversity.shift}."
        )
    bounded = {"diversity.scale": diversity.scale, "diversity.jitter": diversity.jitter}
    for key, value in (bounded | {"weight_noise": method.weight_noise}).items():
        if not 0 <= value < 1:
            raise ValueError(f"Expected 0 <= method.{key} < 1, got {value:g}.")
    if not 0 <= method.sharpness < float("inf"):
        raise ValueError(f"Expected method.sharpness >= 0 (0: off), got {method.sharpness:g}.")
    if not 0 < method.spsa_c <= 1 or method.spsa_directions < 1:
        raise ValueError(
            f"Expected 0 < method.spsa_c <= 1 and method.spsa_directions >= 1, got {method.spsa_c:g} and "
            f"{method.spsa_directions}."
        )
    if method.gradient == "spsa" and method.sharpness:
        raise ValueError(
            f"method.gradient=spsa knows loss values only, and method.sharpness={method.sharpness:g} climbs along a "
            "gradient. Set method.sharpness=0, or method.gradient=backprop."
        )
    if bool(method.anchors) != bool(method.anchor) or method.anchor < 0:
        raise ValueError(
            f"method.anchors={list(method.anchors)} and method.anchor={method.anchor:g} go together: models, and a "
            "weight above 0. Expected both or none."
        )
    if method.weight_noise and method.fca and config.train.feature_cache != "off":
        raise ValueError(
            f"train.feature_cache={config.train.feature_cache} keeps features of the plain weights, and FCA under "
            f"method.weight_noise={method.weight_noise:g} compares those of noisy ones. Set train.feature_cache=off."
        )
    if method.weight_noise and config.train.compile:
        raise ValueError(
            "method.weight_noise puts other weights in place for every update, for which compiled layers are not made. "
            "Set train.compile=false."
        )


def _check_stop_drift(config: DictConfig) -> None:
    """The model whose features stop training must be a target that runs here."""
    name, limit = config.train.stop_drift.mllm, config.train.stop_drift.limit
    if name is None:
        return
    if name not in config.targets.names or is_served(name):
        here = [target for target in config.targets.names if not is_served(target)]
        raise ValueError(
            f"train.stop_drift.mllm={name} must be a third model whose features can be read: one of the targets "
            f"({', '.join(here) or 'there are none'}), not a source and not behind a server."
        )
    if not limit > 0:
        raise ValueError(f"Expected train.stop_drift.limit > 0, got {limit:g}.")
    if config.official:
        raise ValueError(
            "official=true exports the last prompt, as the reference does. Leave out train.stop_drift.mllm."
        )


def _resolve_geometry(config: DictConfig) -> None:
    prompt = config.prompt
    if not 0 < 2 * prompt.pad < prompt.frame:
        raise ValueError(f"prompt.pad={prompt.pad} does not fit prompt.frame={prompt.frame}. Expected 2 * pad < frame.")
    needed = prompt.frame - 2 * prompt.pad if prompt.kind == "pad" else prompt.frame
    if config.data.image_size not in (None, needed):
        raise ValueError(
            f"data.image_size={config.data.image_size} does not fit: a prompt of kind {prompt.kind} with "
            f"frame {prompt.frame} and pad {prompt.pad} needs {needed}. Leave it out."
        )
    config.data.image_size = needed


def _resolve_targets(config: DictConfig) -> None:
    targets = config.targets
    both = sorted(set(targets.select) & set(targets.heldout))
    if both:
        raise ValueError(f"Targets {both} are in targets.select and targets.heldout. A held-out target steers nothing.")
    names = list(dict.fromkeys([*targets.names, *targets.select, *targets.heldout]))
    sources = [config.source.name, *(source.name for source in config.sources)]
    targets.names = [name for name in names if name not in sources]
    targets.heldout = [name for name in targets.names if name not in targets.select]
    steering = [name for name in config.method.anchors if name in (*sources, *targets.heldout) or is_served(name)]
    if steering:
        raise ValueError(
            f"method.anchors names {steering[0]}, which is a source, a held-out target or behind a server. An anchor's "
            "features steer the prompt: put it into targets.select, or leave it out of the targets."
        )
