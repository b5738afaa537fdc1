"""The published MLLMs as data: their files, where those come from, and how the parts fit. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model_zoo.fetch.record import unfinished
from model_zoo.weights.index import shard_names
from model_zoo.weights.origins import ByHand, HubOrigin, Origin, UrlOrigin

LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models"
BSD, LLAMA_LICENCE, APACHE = "BSD-3-Clause", "LLaMA's own, non-commercial", "Apache-2.0"


class WeightFile(NamedTuple):
    """A file below the weights directory, or a folder that `holds` the named files besides its weight shards.

    path: relative to the ONE weights root all models share, so that a shared Vicuna or EVA file is stored once.
    origin: where `fetch` gets it, or what to do by hand.
    """

    path: str
    what: str
    origin: Origin
    licence: str
    holds: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Where it is published, for people."""
        return self.origin.source

    def parts(self, weights: Path) -> list[str]:
        """The file itself, or every file that the folder is to hold, relative to the weights directory."""
        shards = shard_names(weights / self.path) if self.holds else ()
        return [f"{self.path}/{name}" for name in (*self.holds, *shards)] or [self.path]


class PublishedModel(NamedTuple):
    """One published MLLM: which files hold its parts and what the shapes in them do not say.

    adapter: "module:Class", called with connector, llm, tokenizer (and the Q-Former's tokenizer where `bert` is set).
    checkpoints: Q-Former, queries, ln_vision and projections; later files override earlier ones.
    projection, patch_projection: names of the linear layers to the LLM in those files.
    unused: prefixes a checkpoint may hold besides what is read; any other foreign key is refused by name.
    llm_config: what overrides the LLM folder's config.json.
    hub: the Hugging Face conversion of the whole model, below the same root, where there is one.
    vicuna: the Vicuna version the model was trained with (`v0` or `v1.1`); the other one gives garbage, not an error.
    """

    adapter: str
    llm: WeightFile
    checkpoints: tuple[WeightFile, ...] = ()
    projection: str = ""
    vision: WeightFile | None = None
    bert: WeightFile | None = None
    patch_projection: str | None = None
    unused: tuple[str, ...] = ()
    llm_config: Mapping[str, Any] = {}
    hub: str | None = None
    vicuna: str | None = None

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """Everything that must be there, in the order of the encoder."""
        return tuple(item for item in (self.vision, *self.checkpoints, self.llm, self.bert) if item)


def _lavis(path: str, what: str) -> WeightFile:
    return WeightFile(f"hub/checkpoints/{Path(path).name}", what, UrlOrigin(f"{LAVIS}/{path}"), BSD)


def _llm(path: str, what: str, licence: str, *tokenizer: str, origin: Origin | None = None) -> WeightFile:
    names = ("config.json", *tokenizer)
    holds = f"{what}: {', '.join(names)}, weight shards"
    return WeightFile(path, holds, origin or HubOrigin(path), licence, names)


def _vicuna(path: str, version: str) -> WeightFile:
    delta = f"lmsys/vicuna-7b-delta-{version}"
    by_hand = ByHand(f"{delta} (hub) applied to LLaMA-7B", VICUNA_STEPS.format(version=version, delta=delta))
    return _llm(path, f"Vicuna-7B {version}", LLAMA_LICENCE, "tokenizer.model", origin=by_hand)


VICUNA_STEPS = """Vicuna is published as its difference to LLaMA-7B, whose licence each user accepts. Get LLaMA-7B
in Hugging Face's format (https://huggingface.co/docs/transformers/model_doc/llama says how), then:
  python -m model_zoo fetch hf:{delta} weights={{weights}}
  python -m model_zoo apply_delta {version} llama=LLAMA_DIR weights={{weights}}
which makes {{path}}."""


def _blip2(adapter: str, llm: WeightFile, checkpoint: WeightFile, projection: str, hub: str) -> PublishedModel:
    """A BLIP-2 of LAVIS, with its conversion on the hub."""
    # LAVIS overrides FlanT5's gelu_new by the exact GELU; the difference shows at 1e-4.
    config = {"dense_act_fn": "gelu"} if adapter == T5 else {}
    return PublishedModel(adapter, llm, (checkpoint,), projection, EVA, llm_config=config, hub=f"Salesforce/{hub}")


EVA = WeightFile(
    "hub/checkpoints/eva_vit_g.pth", "EVA-CLIP ViT-g/14 vision tower", UrlOrigin(f"{LAVIS}/BLIP2/eva_vit_g.pth"), "MIT"
)
BERT = WeightFile(
    "bert-base-uncased/vocab.txt",
    "the Q-Former's tokenizer",
    HubOrigin("google-bert/bert-base-uncased", "vocab.txt"),
    APACHE,
)
VICUNA_V0 = _vicuna("model_weights/vicuna-7b-v0", "v0")
VICUNA_V11 = _vicuna("lmsys/vicuna-7b-v1.1", "v1.1")
FLAN_XL = _llm("google/flan-t5-xl", "FlanT5-XL", APACHE, "spiece.model")
FLAN_XXL = _llm("google/flan-t5-xxl", "FlanT5-XXL", APACHE, "spiece.model")
OPT_LICENCE = "OPT-175B licence (non-commercial)"
OPT_2_7B = _llm("facebook/opt-2.7b", "OPT-2.7B", OPT_LICENCE, "vocab.json", "merges.txt")
OPT_6_7B = _llm("facebook/opt-6.7b", "OPT-6.7B", OPT_LICENCE, "vocab.json", "merges.txt")

QFORMER = "BLIP-2 Q-Former, queries and ln_vision"
FLAN_XL_QFORMER = _lavis("BLIP2/blip2_pretrained_flant5xl.pth", f"{QFORMER}, t5_proj")
FLAN_XXL_QFORMER = _lavis("BLIP2/blip2_pretrained_flant5xxl.pth", QFORMER)
OPT_2_7B_QFORMER = _lavis("BLIP2/blip2_pretrained_opt2.7b.pth", f"{QFORMER}, opt_proj")
OPT_6_7B_QFORMER = _lavis("BLIP2/blip2_pretrained_opt6.7b.pth", f"{QFORMER}, opt_proj")
INSTRUCTBLIP = _lavis(
    "InstructBLIP/instruct_blip_vicuna7b_trimmed.pth", "InstructBLIP Q-Former, queries, ln_vision and llm_proj"
)
MINIGPT4_PROJECTION = WeightFile(
    "model_weights/prerained_minigpt4_7b.pth",
    "MiniGPT-4 llama_proj",
    ByHand(
        "the 'Checkpoint Aligned with Vicuna 7B' linked in the Vision-CAIR/MiniGPT-4 README",
        "It is on Google Drive, which serves browsers only. Open\n"
        "  https://drive.google.com/file/d/1RY9jV0dyqLX-o38LrumkKRh6Jtaop58R/view\n"
        "(the 'Checkpoint Aligned with Vicuna 7B' of https://github.com/Vision-CAIR/MiniGPT-4) and save it as {path}.",
    ),
    BSD,
)
VL_VICUNA = WeightFile(
    "hub/checkpoints/vl-vicuna.pth",
    "VL-Vicuna Q-Former, queries, ln_vision and llama_proj",
    UrlOrigin("https://thunlp.oss-cn-qingdao.aliyuncs.com/vpgtrans/vl-vicuna.pth"),
    BSD,
)
BLIVA = WeightFile(
    "model_weights/bliva_vicuna7b.pth",
    "BLIVA Q-Former, queries, ln_vision, llm_proj and vision_project",
    HubOrigin("mlpc-lab/BLIVA_Vicuna", "bliva_vicuna7b.pth"),
    BSD,
)

CLIPS = {
    "ViT-B-32": WeightFile(
        "clip/ViT-B-32.safetensors",
        "OpenAI's CLIP ViT-B/32, for the TSE loss",
        HubOrigin("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"),
        "MIT",
    )
}
"""CLIP by name -> its file."""

T5, OPT = "model_zoo.blip2:Blip2T5", "model_zoo.blip2_opt:Blip2OPT"

PUBLISHED: dict[str, PublishedModel] = {
    "minigpt4": PublishedModel(
        "model_zoo.minigpt4:MiniGPT4",
        VICUNA_V0,
        (FLAN_XXL_QFORMER, MINIGPT4_PROJECTION),
        "llama_proj",
        EVA,
        unused=("t5_proj.",),
        vicuna="v0",
    ),
    "instructblip": PublishedModel(
        "model_zoo.instructblip:InstructBLIP",
        VICUNA_V11,
        (INSTRUCTBLIP,),
        "llm_proj",
        EVA,
        BERT,
        hub="Salesforce/instructblip-vicuna-7b",
        vicuna="v1.1",
    ),
    "blip2": _blip2(T5, FLAN_XL, FLAN_XL_QFORMER, "t5_proj", "blip2-flan-t5-xl"),
    "blip2_t5_xxl": _blip2(T5, FLAN_XXL, FLAN_XXL_QFORMER, "t5_proj", "blip2-flan-t5-xxl"),
    "blip2_opt": _blip2(OPT, OPT_2_7B, OPT_2_7B_QFORMER, "opt_proj", "blip2-opt-2.7b"),
    "blip2_opt_6_7b": _blip2(OPT, OPT_6_7B, OPT_6_7B_QFORMER, "opt_proj", "blip2-opt-6.7b"),
    "vpgtrans": PublishedModel(
        "model_zoo.vpgtrans:VPGTrans",
        VICUNA_V0,
        (VL_VICUNA,),
        "llama_proj",
        EVA,
        vicuna="v0",
    ),
    "bliva": PublishedModel(
        "model_zoo.bliva:BLIVA",
        VICUNA_V0,
        (BLIVA,),
        "llm_proj",
        EVA,
        BERT,
        patch_projection="vision_project",
        vicuna="v0",
    ),
    "visualglm": PublishedModel(
        "model_zoo.visualglm:VisualGLM",
        _llm(
            "THUDM/visualglm-6b",
            "the whole of VisualGLM-6B",
            "Apache-2.0 (code), the VisualGLM-6B model licence (weights)",
            "ice_text.model",
        ),
    ),
}


def missing_lines(files: Sequence[WeightFile], weights: str | Path) -> list[str]:
    """One line per missing file: its path, what it is, where it is published."""
    return [f"{path}: {item.what}. Published: {item.source}" for item in files for path in _absent(item, Path(weights))]


def existing_files(files: Sequence[WeightFile], weights: str | Path) -> list[Path]:
    """The tensor files that exist, folders expanded to their shards."""
    found: list[Path] = []
    for item in files:
        path = Path(weights) / item.path
        parts = [path / name for name in shard_names(path)] if item.holds else [path]
        found += [part for part in parts if part.is_file() and part.suffix != ".txt"]
    return found


def _absent(item: WeightFile, weights: Path) -> list[str]:
    if item.holds and not (weights / item.path).is_dir():
        return [f"{item.path}/"]
    if item.holds and unfinished(weights / item.path):
        return [f"{item.path}/ (its fetch was interrupted)"]
    return [part for part in item.parts(weights) if not (weights / part).is_file()]
