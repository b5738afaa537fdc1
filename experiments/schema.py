"""The recipe's keys: one typed schema for every command. Only `experiments/` knows YAML exists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING


@dataclass
class Source:
    """A frozen MLLM the prompt is learned on. `official` reproduces the reference's deviations in its adapter.

    quant: the LLM's linear layers in 8 or 4 bits (bitsandbytes, CUDA only); what is left stays in `dtype`.
    """

    name: str = MISSING
    weights: str = "weights"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quant: Literal["8bit", "4bit"] | None = None
    official: bool = False


@dataclass
class Targets:
    """MLLMs that only score the prompt. Names in neither list count as held out: no choice ever reads those.

    n: size of the fixed validation sub-sample every model is scored on (null: all of it).
    residency: `sequential` loads one target at a time, `keep` keeps all loaded, `process` gives each its own process.
    """

    names: list[str] = field(default_factory=list)
    select: list[str] = field(default_factory=list)
    heldout: list[str] = field(default_factory=list)
    residency: Literal["sequential", "keep", "process"] = "sequential"
    n: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quant: Literal["8bit", "4bit"] | None = None


@dataclass
class Data:
    """n_test null: all of test; 0: test is never read (tuning).

    image_size null: what the prompt needs (frame - 2 pad, or the whole frame for method vp).
    split_seed: which rows are held out and sub-sampled; apart from `seed`, so that runs of several seeds share them.
    n_train: a number of train rows or a fraction of them; shots: instead, so many of every class.
    Recognition only: names, the words the classes are called by (clean, raw, clip, ...; null: clean); corruption of
    the evaluation pictures, "fog:3"; cache: keep decoded pictures on disk (gigabytes below cache/decoded).
    max_corrupt: how many images of a split that cannot be read (a number or a fraction) are left out with their rows
    and reported; 0: the first one stops the run. half (pope): the first half of its test files (null: `official`).
    task (vqa_jsonl): recognition, counting, reasoning or hallucination.
    """

    name: str = MISSING
    root: str = "data"
    image_size: int | None = None
    val: Literal["train", "official"] = "train"
    official: bool = False
    n_train: int | float | None = None
    n_test: int | None = None
    shots: int | None = None
    names: str | None = None
    corruption: str | None = None
    cache: bool = False
    max_corrupt: int | float = 0
    half: bool | None = None
    task: str | None = None
    augment: bool = True
    workers: int = 0
    split_seed: int = 42


@dataclass
class Prompt:
    frame: int = 224
    pad: int = 30
    bounds: Literal["image", "unbounded"] = "image"
    init: Literal["zero", "normal"] | None = None
    init_std: float = 0.27


@dataclass
class Method:
    """null: the method's own value (`PRESETS`)."""

    name: Literal["tvp", "evp", "vp", "none"] = "tvp"
    fca: float | None = None
    tse: float | None = None
    fca_relative: bool = False
    lr: float | None = None
    momentum: float | None = None
    optimizer: Literal["normalized", "sgd", "adam"] | None = None
    schedule: Literal["cosine_epoch", "cosine_step", "constant"] | None = None
    warmup_steps: int = 0
    sources: Literal["mean", "sum"] = "mean"
    clip: str = "ViT-B-32"


@dataclass
class Train:
    """batch_size counts per rank and micro-batch: an update sees ranks x batch_size x accumulate images.

    eval_batch_size: most images scored at a time; where memory runs out it is halved for that model, with equal scores.
    precision: of the update alone (Lightning's words). `bf16-mixed` casts frozen float32 weights again in every forward
    and keeps the copies for backward, so it saves arithmetic but no memory: prefer source.dtype=bfloat16, which has
    both. tf32: matrix products of the update in TF32 (Ampere and later); scores stay in full float32.
    compile: torch.compile the source's layers for the update (a minute or two at the start and again at the second
    text length; needs g++ on a CPU, Triton on a GPU).
    checkpointing: recompute the source's layers in backward: the same gradient from less memory in more time.
    feature_cache: keep the clean features FCA compares with below cache/features (or TVP_CACHE), so that only pictures
    not seen before are encoded; float16 halves the bytes (at 7B an image takes 512 KB as float32, BLIVA's 4.7 MB).
    feature_cache_gib: size cap; what was used longest ago goes first. It pays where pictures repeat: several epochs or
    runs over square images (mirrored or not), or without augmentation.
    memory_check: what happens when the plan of a run does not fit in free memory, before anything is loaded.
    """

    epochs: int = 1
    max_steps: int = -1
    batch_size: int = 16
    eval_batch_size: int = 64
    accumulate: int = 1
    precision: str = "32-true"
    devices: int = 1
    accelerator: str = "auto"
    strategy: str = "auto"
    checkpoint_every: int = 100
    val_every: int = 1
    checkpointing: bool = False
    compile: bool = False
    tf32: bool = False
    feature_cache: Literal["off", "float32", "float16"] = "off"
    feature_cache_gib: float = 20.0
    memory_check: Literal["refuse", "warn", "off"] = "refuse"


@dataclass
class Log:
    """system: let W&B record this machine too (hardware, resource use, console text, git state, packages).

    samples: log pictures of prompted samples (null: unless that would send a data set's images to a server).
    """

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    csv: bool = True
    tensorboard: bool = False
    project: str = "tvp"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    system: bool = False
    samples: bool | None = None
    every: int = 10
    progress: bool = True


@dataclass
class Experiment:
    """A complete statement of a run."""

    exp: str = MISSING
    out: str | None = None
    seed: int = 42
    resume: str | None = None
    official: bool = False
    monitor: str | None = None
    source: Source = field(default_factory=Source)
    sources: list[Source] = field(default_factory=list)
    targets: Targets = field(default_factory=Targets)
    data: Data = field(default_factory=Data)
    prompt: Prompt = field(default_factory=Prompt)
    method: Method = field(default_factory=Method)
    train: Train = field(default_factory=Train)
    log: Log = field(default_factory=Log)


GROUPS = ("source", "targets", "data", "prompt", "method", "train", "log")

# docs/method.md#methods. VP's published setting in pixel units: SGD with momentum 0.9, lr 2.9, start N(0, CLIP std).
PRESETS: dict[str, dict[str, object]] = {
    "tvp": {"fca": 0.005, "tse": 0.001, "lr": 10.0, "momentum": 0.0, "optimizer": "normalized"}
    | {"schedule": "cosine_epoch", "init": "zero"},
    "evp": {"fca": 0.0, "tse": 0.0, "lr": 10.0, "momentum": 0.0, "optimizer": "normalized"}
    | {"schedule": "cosine_epoch", "init": "zero"},
    "vp": {"fca": 0.0, "tse": 0.0, "lr": 2.9, "momentum": 0.9, "optimizer": "sgd"}
    | {"schedule": "cosine_step", "init": "normal"},
    "none": {"fca": 0.0, "tse": 0.0, "lr": 0.0, "momentum": 0.0, "optimizer": "normalized"}
    | {"schedule": "constant", "init": "zero"},
}

# What official=true sets (docs/method.md#deviations); each can be set alone.
OFFICIAL = {"prompt.bounds": "unbounded", "data.val": "official", "data.official": "true", "source.official": "true"}
