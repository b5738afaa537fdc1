"""`--dry-run`: what a run would load and need, without loading anything."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from experiments.build import source_specs, target_specs

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Activations of a source with gradients, per image, as a share of one copy of its weights in float16. A guess nobody
# has measured, and printed as one.
SOURCE_SHARE_PER_IMAGE = 0.04


def print_plan(config: DictConfig) -> int:
    """Print the resolved configuration, models, files and memory; always 0: missing files are listed, not fatal."""
    from model_zoo.registry import get_entry, missing_files

    print(OmegaConf.to_yaml(config, resolve=True).rstrip())
    print("\n# Would load")
    for spec in (*source_specs(config), *target_specs(config)):
        entry = get_entry(spec.name)
        print(f"{spec.role:8} {spec.name}: {entry.description}")
        print(f"         {entry.parameters / 1e6:,.1f} M parameters, {_memory(entry.parameters, spec, config)}")
        for line in missing_files(spec.name, spec.weights):
            print(f"         MISSING {line}")
    _print_rest(config)
    print("\nDry run: nothing was loaded or created.")
    return 0


def _memory(parameters: int, spec: object, config: DictConfig) -> str:
    weights = parameters * BYTES[spec.dtype]
    if spec.role != "source":
        return f"{_size(weights)} as {spec.dtype} while it is scored ({config.targets.residency})"
    images = config.train.batch_size
    extra = 2 * parameters * SOURCE_SHARE_PER_IMAGE * images
    guess = f"perhaps {_size(weights + extra)} with gradients at batch {images} (a guess, not measured)"
    return f"{_size(weights)} as {spec.dtype}, {guess}"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count > 2**29 else f"{count / 2**20:.1f} MiB"


def _print_rest(config: DictConfig) -> None:
    from experiments.build import build_datamodule

    if config.method.tse:
        from model_zoo.clip import missing_clip

        print(f"clip     {config.method.clip} for the TSE loss")
        for line in missing_clip(config.method.clip, config.source.weights):
            print(f"         MISSING {line}")
    print(f"data     {config.data.name} in '{config.data.root}', images {config.data.image_size} px")
    for line in build_datamodule(config).missing():
        print(f"         MISSING {line}")
    global_batch = config.train.batch_size * config.train.accumulate * config.train.devices
    print(f"update   {global_batch} images, {config.train.epochs} epochs, prompt {config.prompt.frame} px")
