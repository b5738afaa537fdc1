"""Named entries among the models of the hub, as data: where they lie, what they share, how large they are.

Sizes are those of each folder's config.json; `tests/test_model_zoo_hf_catalogue.py` builds every one of them on the
meta device and counts. Visual tokens are those of a frame of 224 pixels. Imports no torch.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from model_zoo.memory.sizes import Former, Language, Sizes, Tower

APACHE, MIT = "Apache-2.0", "MIT"
GEMMA = "Gemma terms of use (accept them on the hub)"
TINY_PREFIX = "hf:tiny/"
"""Begins the names of tiny random models, which no hub holds: `model_zoo.hf.tiny` writes them."""


class HubModel(NamedTuple):
    """One model of the hub.

    hub: ORG/MODEL, also its folder below the weights root. parameters: tied ones once.
    tower, llm: the weights that its vision tower and its language model started from; equal names are shared.
    vision: the tower, `tokens` of one tile. language: the LLM. tiles: how many the tower reads of a frame, and how many
    tokens the LLM reads of it, each with one tile and with the official tiles.
    """

    hub: str
    text: str
    parameters: int
    licence: str
    tower: str
    llm: str
    vision: Tower
    language: Language
    tiles: tuple[int, int]
    tokens: tuple[int, int]

    @property
    def kind(self) -> str:
        """Its family, as its text begins."""
        return self.text.partition(":")[0]

    def sizes(self, tiles: str) -> Sizes:
        """What memory follows from, with `one` or the `official` tiles."""
        n = ("one", "official").index(tiles)
        return hub_sizes(self.vision._replace(tokens=self.tiles[n] * self.vision.tokens), self.language, self.tokens[n])


def hub_sizes(vision: Tower, language: Language, tokens: int) -> Sizes:
    """A tower, an LLM and a projection between them that hands over so many tokens."""
    return Sizes(vision, Former(language.width, 0, 0, 1, tokens, 1, vision.width), language)


def _llm(
    width: int, layers: int, mlp: int, heads: int, keys: int, vocab: int, inner: int = 0, tied: bool = False
) -> Language:
    """An LLM of LLaMA's kind; `keys` key heads, `inner` the width of all heads where it is not the model's."""
    inner = inner or width
    return Language("llama", width, layers, mlp, heads, inner, vocab, keys=inner * keys // heads, tied=tied)


CLIP_L = Tower(1024, 24, 4096, 16, 577, 336, 14)
SIGLIP_384 = Tower(1152, 27, 4304, 16, 729, 384, 14)
SIGLIP_B = Tower(768, 12, 3072, 12, 1024, 512, 16)
INTERN_VIT = Tower(1024, 24, 4096, 16, 1025, 448, 14)
QWEN2_7B, QWEN2_05B = _llm(3584, 28, 18944, 28, 4, 152064), _llm(896, 24, 4864, 14, 2, 151936, tied=True)
SO400M, CLIP_NAME, VIT_NAME = "SigLIP-so400m/14", "CLIP-L/14-336", "InternViT-300M"

HF_MODELS: dict[str, HubModel] = {
    "llava_1_5_7b": HubModel(
        "llava-hf/llava-1.5-7b-hf", "LLaVA-1.5: CLIP-L/14-336, Vicuna-7B v1.5", 7_063_427_072, "Llama 2",
        CLIP_NAME, "Vicuna-7B v1.5", CLIP_L, _llm(4096, 32, 11008, 32, 32, 32064), (1, 1), (576, 576),
    ),
    "llava_next_7b": HubModel(
        "llava-hf/llava-v1.6-mistral-7b-hf", "LLaVA-NeXT: CLIP-L/14-336, Mistral-7B", 7_566_747_648, APACHE,
        CLIP_NAME, "Mistral-7B-Instruct v0.2", CLIP_L, _llm(4096, 32, 14336, 32, 8, 32064), (2, 2), (1176, 1176),
    ),
    "llava_onevision_7b": HubModel(
        "llava-hf/llava-onevision-qwen2-7b-ov-hf", "LLaVA-OneVision: SigLIP-so400m, Qwen2-7B", 8_030_348_832, APACHE,
        SO400M, "Qwen2-7B", SIGLIP_384._replace(layers=26), QWEN2_7B, (2, 2), (1485, 1485),
    ),
    "llava_onevision_0_5b": HubModel(
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "LLaVA-OneVision: SigLIP-so400m, Qwen2-0.5B", 893_618_208,
        APACHE, SO400M, "Qwen2-0.5B", SIGLIP_384._replace(layers=26), QWEN2_05B, (2, 2),
        (1485, 1485),
    ),
    "qwen2_5_vl_7b": HubModel(
        "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL: its own windowed ViT, Qwen2.5-7B", 8_292_166_656, APACHE,
        "Qwen2.5-VL ViT", "Qwen2.5-7B", Tower(1280, 32, 3420, 16, 256, 224, 14), QWEN2_7B,
        (1, 1), (64, 64),
    ),
    "qwen3_vl_8b": HubModel(
        "Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL: ViT from SigLIP2-so400m, Qwen3-8B", 8_767_123_696, APACHE,
        "SigLIP2-so400m", "Qwen3-8B", Tower(1152, 27, 4304, 16, 256, 256, 16), _llm(4096, 36, 12288, 32, 8, 151936),
        (1, 1), (64, 64),
    ),
    "qwen3_vl_2b": HubModel(
        "Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL: ViT from SigLIP2-L, Qwen3-1.7B", 2_127_532_032, APACHE,
        "SigLIP2-L", "Qwen3-1.7B", Tower(1024, 24, 4096, 16, 256, 256, 16),
        _llm(2048, 28, 6144, 16, 8, 151936, tied=True), (1, 1), (64, 64),
    ),
    # Its layers are wider than its heads: three of four are gated sums over the past, whose projections `inner` counts.
    "qwen3_5_4b": HubModel(
        "Qwen/Qwen3.5-4B", "Qwen3.5: its own ViT, recurrent layers in three of four", 4_539_265_536, APACHE,
        "Qwen3.5 ViT", "Qwen3.5-4B", Tower(1024, 24, 4096, 16, 256, 256, 16),
        _llm(2560, 32, 9216, 16, 2, 248320, inner=7168, tied=True), (1, 1), (64, 64),
    ),
    "internvl3_8b": HubModel(
        "OpenGVLab/InternVL3-8B-hf", "InternVL3: InternViT-300M, Qwen2.5-7B", 7_944_373_760, APACHE,
        VIT_NAME, "Qwen2.5-7B", INTERN_VIT, _llm(3584, 28, 18944, 28, 4, 151674), (1, 1), (256, 256),
    ),
    "internvl3_1b": HubModel(
        "OpenGVLab/InternVL3-1B-hf", "InternVL3: InternViT-300M, Qwen2.5-0.5B", 938_193_024, APACHE,
        VIT_NAME, "Qwen2.5-0.5B", INTERN_VIT, _llm(896, 24, 4864, 14, 2, 151674), (1, 1), (256, 256),
    ),
    "smolvlm2_2_2b": HubModel(
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "SmolVLM: SmolVLM2, SigLIP-so400m, SmolLM2-1.7B", 2_246_784_880, APACHE,
        SO400M, "SmolLM2-1.7B", SIGLIP_384, _llm(2048, 24, 8192, 32, 32, 49280), (1, 17), (81, 1377),
    ),
    "smolvlm_256m": HubModel(
        "HuggingFaceTB/SmolVLM-256M-Instruct", "SmolVLM: SigLIP-B/16-512, SmolLM2-135M", 256_484_928, APACHE,
        "SigLIP-B/16", "SmolLM2-135M", SIGLIP_B, _llm(576, 30, 1536, 9, 3, 49280), (1, 17), (64, 1088),
    ),
    "paligemma2_3b": HubModel(
        "google/paligemma2-3b-mix-224", "PaliGemma 2: SigLIP-so400m, Gemma 2 2B", 3_032_242_416, GEMMA,
        SO400M, "Gemma 2 2B", Tower(1152, 27, 4304, 16, 256, 224, 14),
        _llm(2304, 26, 9216, 8, 4, 257216, inner=2048, tied=True), (1, 1), (256, 256),
    ),
    "gemma3_4b": HubModel(
        "google/gemma-3-4b-it", "Gemma 3: SigLIP-so400m at 896 px, Gemma 3 4B", 4_300_079_472, GEMMA,
        SO400M, "Gemma 3 4B", Tower(1152, 27, 4304, 16, 4096, 896, 14),
        _llm(2560, 34, 10240, 8, 4, 262208, inner=2048, tied=True), (1, 1), (256, 256),
    ),
}  # fmt: skip

SAID = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z0-9])", re.IGNORECASE)


def parameters_said(name: str) -> int:
    """How many parameters a name speaks of, 0 where it says nothing.

    >>> parameters_said("hf:Qwen/Qwen3-VL-2B-Instruct"), parameters_said("hf:my/model")
    (2000000000, 0)
    """
    found = SAID.findall(name)
    return int(float(found[-1][0]) * {"b": 10**9, "m": 10**6}[found[-1][1].lower()]) if found else 0


def named_entry(name: str) -> HubModel | None:
    """The entry of a name, or of the hub folder it speaks of; None for a model that is not listed here."""
    by_hub = {f"hf:{known.hub}": known for known in HF_MODELS.values()}
    return HF_MODELS.get(name) or by_hub.get(name)
