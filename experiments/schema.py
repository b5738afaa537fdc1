"""The recipe's keys: one typed schema for every command, from which `train --help` is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from experiments.cli import MISSING
from lightning_modules.vocabulary import CONTROLS


@dataclass
class Source:
    """source: the frozen MLLM the prompt is learned on."""

    name: str = MISSING
    """the model, see `python -m model_zoo list`"""
    weights: str = "weights"
    """folder of published weights"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the model's weights and activations"""
    quant: Literal["8bit", "4bit"] | None = None
    """the LLM's linear layers in 8 or 4 bits (bitsandbytes, CUDA only); what is left stays in dtype"""
    official: bool = False
    """reproduce the reference's deviations in the adapter"""
    tiles: Literal["one", "official"] = "one"
    """models of the hub: a picture is one tile, or as many as the official processor cuts"""


@dataclass
class Targets:
    """targets: MLLMs that only score the prompt. Names in neither list count as held out."""

    names: list[str] = field(default_factory=list)
    """models to score on; those in select and heldout are added"""
    select: list[str] = field(default_factory=list)
    """models whose validation scores may steer choices"""
    heldout: list[str] = field(default_factory=list)
    """models whose scores no choice ever reads"""
    residency: Literal["auto", "sequential", "keep", "process"] = "auto"
    """keep all targets loaded, load one at a time (sequential), or give each its own process; auto: keep where that
    fits in memory, else sequential. Weights that models share are loaded once"""
    n: int | None = None
    """size of the fixed validation sub-sample every model is scored on (null: all of it)"""
    controls: list[str] = field(default_factory=lambda: list(CONTROLS))
    """which inputs that learned nothing are scored beside the prompt; the best constant border is most of the work"""
    png: Literal["all", "source"] = "all"
    """which models also score, on test, the prompt read back from its 8-bit PNG: all, or the source only (about half
    the scoring of a sweep's cell; the PNG's column stays empty elsewhere)"""
    through: list[str] = field(default_factory=list)
    """what every frame goes through before a model scores it, controls too, in this order: 8bit (png), jpeg:QUALITY
    (1 to 100), resize:FACTOR (of the side, and back)"""
    label_mapping: bool = False
    """also read all scores through a one-to-one map from classes to candidates, fitted for each model and input on the
    validation rows it is scored on, again at every validation (metric top1_mapped beside top1; recognition only; test
    then scores those validation rows too)"""
    curves: bool = True
    """score the held-out models at every validation too; false: on test only, which is what a sweep's cells are for"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the models' weights and activations"""
    quant: Literal["8bit", "4bit"] | None = None
    """as source.quant"""
    tiles: Literal["one", "official"] = "official"
    """as source.tiles"""


@dataclass
class Data:
    """data: images, questions and answers."""

    name: str = MISSING
    """the data set, see `python -m datamodules list`"""
    root: str = "data"
    """folder of the data sets"""
    image_size: int | None = None
    """pixels a side (null: what the prompt needs: frame - 2 pad for prompt.kind=pad, else the whole frame)"""
    val: Literal["train", "official"] = "train"
    """hold validation rows out of train, or take the reference's: 5 % of the test rows"""
    official: bool = False
    """reproduce the reference's deviations in the data"""
    n_train: int | float | None = None
    """a number of train rows, or a fraction of them, balanced over the classes (null: all)"""
    n_test: int | None = None
    """a number of test rows (null: all; 0: test is never read)"""
    shots: int | None = None
    """so many train rows of every class, instead of n_train"""
    names: str | None = None
    """recognition: the words the classes are called by: clean, raw, clip, ... (null: clean)"""
    question: str | None = None
    """another question than the data set's, where all its rows ask one (a text, even an empty one)"""
    eval_question: str | None = None
    """the same for the validation and test rows alone"""
    caption: str | None = None
    """recognition: the text TSE compares with; {} is the class (null: this is a photo of a {})"""
    caption_names: list[str] = field(default_factory=list)
    """recognition: what captions call the classes, in their order (empty: the answers)"""
    corruption: str | None = None
    """recognition: corruption of the evaluation pictures and its severity, e.g. fog:3"""
    cache: bool = False
    """keep decoded pictures on disk (gigabytes below cache/decoded)"""
    max_corrupt: int | float = 0
    """images of a split that cannot be read and may be left out with their rows: a number, or a fraction below 1"""
    half: bool | None = None
    """pope: only the first half of its test files (null: as data.official)"""
    task: str | None = None
    """vqa_jsonl: recognition, counting, reasoning or hallucination"""
    augment: bool = True
    """random crop and flip of the train pictures"""
    workers: int = 0
    """processes that prepare pictures (0: the main process does)"""
    split_seed: int = 42
    """chooses which rows are held out and sub-sampled; apart from seed, so that several seeds share them"""


@dataclass
class Prompt:
    """prompt: what is learned. Pixels around the shrunken picture, or added to it."""

    kind: Literal["pad", "overlay", "full", "patch", "random_patch", "scaled", "lowrank"] | None = None
    """where the pixels are (null: the method's own: overlay for vp, else pad): pad around the picture; added to it as a
    border (overlay), everywhere (full, or lowrank: a product of thin factors), as a patch in the corner (patch) or
    where the picture itself says (random_patch); scaled: around it, and its size is learned too"""
    frame: int = 224
    """pixels a side of what the models get to see"""
    pad: int = 30
    """width of the border in pixels; side of the patch of patch and random_patch; where scaled starts"""
    rank: int = 4
    """lowrank: columns of each factor (other kinds have none)"""
    bounds: Literal["image", "unbounded", "sigmoid"] | None = None
    """keep prompted pixels in [0, 1] after each update (image), let them leave it as the reference does (unbounded), or
    learn them as sigmoids (sigmoid: pad and scaled only). null: image, sigmoid for scaled"""
    init: Literal["zero", "grey", "replicate", "normal"] | None = None
    """what the prompt starts from (null: the method's own; grey where sigmoids cannot be zero): black, grey (0.5),
    replicate (the mean over train images of their edge pixels repeated) or noise; what is added to the picture from
    zero or normal only"""
    init_std: float = 0.27
    """standard deviation of init=normal, in pixel units (sigmoid: before the sigmoid)"""
    init_images: int = 256
    """init=replicate: how many train images are averaged at most, drawn by seed"""
    artefact: str | None = None
    """start from this finished prompt (its folder), whose kind, frame, pad and bounds are taken over; with method=none
    it is scored as it is"""


@dataclass
class Diversity:
    """method.diversity: prompted and clean frames seen a little otherwise, drawn anew for every update."""

    shift: int = 0
    """most pixels a frame moves against a model's grid of patches, down and right (0: none)"""
    scale: float = 0.0
    """most a frame grows or shrinks, as a fraction of its side (0: not at all)"""
    jitter: float = 0.0
    """most the contrast of a channel changes, as a fraction, and its brightness by half of it (0: not at all)"""


@dataclass
class Method:
    """method: how it is learned. null: the method's own value."""

    name: Literal["tvp", "evp", "vp", "none"] = "tvp"
    """losses and update rule: tvp, evp (without FCA and TSE), vp (SGD; an overlay), or none (nothing is learned)"""
    fca: float | None = None
    """weight of the loss FCA (feature consistency alignment)"""
    tse: float | None = None
    """weight of the loss TSE (task semantics enrichment)"""
    anchors: list[str] = field(default_factory=list)
    """models whose visual tokens the prompt shall not move: a scale-free FCA of models that see no answer"""
    anchor: float = 0.0
    """weight of that loss, mean over the anchors"""
    fca_relative: bool = False
    """divide FCA's distances by the mean norm of the clean tokens"""
    lr: float | None = None
    """learning rate before the schedule, for [0, 1] images. normalized: the length of a step of the whole frame; adam:
    about how far every pixel moves (at most 1; null: 0.01); sgd: a factor of the gradient itself"""
    momentum: float | None = None
    """momentum of the update (not with adam, which averages gradients itself)"""
    optimizer: Literal["normalized", "sgd", "adam"] | None = None
    """rule of the update: normalized divides the gradient by its norm, adam each pixel's by its own recent size"""
    schedule: Literal["cosine_epoch", "cosine_step", "constant"] | None = None
    """how lr falls: by half a cosine over the epochs (one epoch: not at all), over the updates, or not at all"""
    warmup_steps: int = 0
    """updates in which lr rises to its value (not with cosine_epoch)"""
    sources: Literal["mean", "sum"] = "mean"
    """how the task and FCA losses of several sources are joined"""
    clip: str = "ViT-B-32"
    """the CLIP that TSE compares with"""
    through: list[str] = field(default_factory=list)
    """what frames go through in training, in this order: 8bit (png is the same), jpeg (quality 75 to 95), resize (down
    to as little as half and back); scores are of the plain frames"""
    diversity: Diversity = field(default_factory=Diversity)
    weight_noise: float = 0.0
    """Gaussian noise on the weights of the source's tower and connector, new for every update, as a fraction of each
    tensor's root mean square (0: none)"""
    sharpness: float = 0.0
    """radius, in pixel units over the whole prompt, within which an update's gradient is taken at the worst point
    (SAM; twice the time; 0: at the prompt itself)"""
    gradient: Literal["backprop", "spsa"] = "backprop"
    """backpropagation, or spsa: estimated from loss values, 2 x spsa_directions of them an update"""
    spsa_c: float = 0.02
    """spsa: how far from the prompt losses are asked, for every pixel"""
    spsa_directions: int = 5
    """spsa: random directions an update averages over"""


@dataclass
class StopDrift:
    """train.stop_drift: an early stop by how far the prompt moves a third model's features; no label is read."""

    mllm: str | None = None
    """one of the targets, held out or not: its features steer, which run.json and the table say (null: no such stop)"""
    limit: float = 0.5
    """the largest relative drift on validation pictures: the mean distance of visual tokens with and without the
    prompt, over the mean norm of those without; a prompt beyond it ends training and is not exported"""


@dataclass
class Train:
    """train: the update loop."""

    epochs: int = 1
    """passes over the train rows"""
    max_steps: int = -1
    """most updates (-1: no limit)"""
    batch_size: int = 16
    """images per rank and micro-batch: an update sees ranks x batch_size x accumulate"""
    eval_batch_size: int = 64
    """most images scored at a time; halved for a model where memory runs out, with equal scores"""
    accumulate: int = 1
    """micro-batches an update"""
    average_last: int = 0
    """validate and export the average of the prompts of about the last so many updates: a plain mean of the first N,
    then one part in N of each new one (0: the prompt itself)"""
    keep_prompts: list[int] = field(default_factory=list)
    """updates after which the prompt is kept in RUN/prompts as <update>.npy, and then the last one too (empty: none)"""
    precision: str = "32-true"
    """of the update alone, in Lightning's words. bf16-mixed saves arithmetic but no memory (it casts frozen float32
    weights in every forward and keeps the copies): prefer source.dtype=bfloat16, which has both"""
    devices: int = 1
    """GPUs, or processes on CPU"""
    accelerator: str = "auto"
    """cpu, cuda, mps or auto, in Lightning's words"""
    strategy: str = "auto"
    """ddp, auto, ..., in Lightning's words"""
    checkpoint_every: int = 100
    """updates between two checkpoints inside an epoch"""
    val_every: int = 1
    """epochs between two validations"""
    val_every_steps: int | None = None
    """updates between two validations, and one at the end (the reference: 1000; 0: only at the ends of epochs; null: a
    fifth of the run where val_every gives fewer than three)"""
    checkpointing: bool = False
    """recompute the source's layers in backward: the same gradient from less memory in more time"""
    compile: bool = False
    """torch.compile the source's layers for the update (a minute or two at the start and again at the second text
    length; needs g++ on a CPU, Triton on a GPU)"""
    tf32: bool = False
    """matrix products of the update in TF32 (Ampere and later); scores stay in full float32"""
    feature_cache: Literal["off", "float32", "float16"] = "off"
    """keep the clean features FCA compares with on disk (below cache/features, or TVP_CACHE), so that only pictures not
    seen before are encoded. float16 halves the bytes (an image of a 7B model: 512 KB as float32, BLIVA's 4.7 MB). It
    pays where pictures repeat: several epochs or runs over square images, or without augmentation"""
    feature_cache_gib: float = 20.0
    """most GiB of the feature cache; what was used longest ago goes first"""
    stop_drift: StopDrift = field(default_factory=StopDrift)
    memory_check: Literal["refuse", "warn", "off"] = "refuse"
    """what happens when the plan of a run does not fit in free memory, before anything is loaded"""


@dataclass
class Log:
    """log: what is recorded beside the run folder."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """Weights & Biases; auto: online with a login, else offline"""
    csv: bool = True
    """a CSV file of what is logged"""
    tensorboard: bool = False
    """TensorBoard files"""
    project: str = "tvp"
    """W&B project"""
    group: str | None = None
    """W&B group of the run"""
    tags: list[str] = field(default_factory=list)
    """W&B tags of the run"""
    system: bool = False
    """let W&B record this machine too (hardware, resource use, console text, git state, packages)"""
    samples: bool | None = None
    """log pictures of prompted samples (null: unless that would send a data set's images to a server)"""
    every: int = 10
    """updates between two logged losses"""
    progress: bool = True
    """show a progress bar"""


@dataclass
class Experiment:
    """A complete statement of a run."""

    exp: str = MISSING
    """the recipe, see --list"""
    out: str | None = None
    """the run folder (null: runs/<exp>/<id>)"""
    seed: int = 42
    """of the start, the order and the augmentation"""
    resume: str | None = None
    """a run folder: continue that run"""
    official: bool = False
    """every deviation of the reference at once: prompt.bounds, data.val, data.official, source.official"""
    monitor: str | None = None
    """the logged key whose largest value chooses the best epoch (null: source, its validation score)"""
    source: Source = field(default_factory=Source)
    sources: list[Source] = field(default_factory=list)
    """an ensemble instead of one source, in a recipe: [{name: ...}, {name: ...}]"""
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

# Adam instead of a method's own rule: lr is per pixel, and there is no further momentum.
ADAM: dict[str, object] = {"lr": 0.01, "momentum": 0.0}

# What official=true sets (docs/method.md#deviations); each can be set alone.
OFFICIAL = {"prompt.bounds": "unbounded", "data.val": "official", "data.official": "true", "source.official": "true"}
