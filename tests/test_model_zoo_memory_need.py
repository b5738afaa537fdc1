"""The memory planner against what autograd really keeps and what really lives at once, and against published counts."""

from __future__ import annotations

import pytest
import torch
from support.saved_bytes import PeakBytes, SavedBytes
from support.tiny_models import CANDIDATES, N_QUERY, tiny_images, tiny_mllm, tiny_tokenizer

from model_zoo.base import MLLM
from model_zoo.memory.activations import kept_bytes
from model_zoo.memory.need import scoring_bytes, source_need, target_need, weight_bytes
from model_zoo.memory.sizes import PUBLISHED_SIZES, Sizes, Workload, sizes_of
from model_zoo.registry import REGISTRY

TOLERANCE = (
    0.02  # of the bytes autograd keeps; most agree to 0.1 %, where Q-Formers read texts of several lengths to 2 %
)
PEAK, SCORING = 1.6, 2.0  # whole step, scoring: at most this many times the measured peak, and never below it
NAMES = ("minigpt4", "instructblip", "blip2", "blip2_opt", "bliva", "visualglm")
QUESTIONS = ["This is a photo of a", "what is it?", "photo"]


def medium_mllm(name: str) -> MLLM:
    """Other proportions than the tiny models: deeper, wider, and nothing divides anything evenly."""
    from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, T5Config
    from transformers import T5ForConditionalGeneration as T5

    from model_zoo.blip2 import Blip2T5
    from model_zoo.bliva import BLIVA
    from model_zoo.connectors import build_connector
    from model_zoo.minigpt4 import MiniGPT4

    tokenizer = tiny_tokenizer()
    vision = dict(image_size=56, patch_size=8, hidden_size=80, num_hidden_layers=5, num_attention_heads=5)
    former = dict(hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=112)
    texts = dict(vocab_size=len(tokenizer), max_position_embeddings=160)
    reads = name == "bliva"
    connector = build_connector(
        {**vision, "intermediate_size": 350}, {**former, **texts}, 9, 96, reads_text=reads, with_patches=reads
    )
    if name == "blip2":
        kinds = dict(feed_forward_proj="gated-gelu", dropout_rate=0.1)
        t5 = T5(T5Config(vocab_size=320, d_model=96, d_kv=20, d_ff=208, num_layers=3, num_heads=4, **kinds))
        return Blip2T5(connector, t5, tokenizer, image_size=56, start_id=0).freeze_()
    if name == "blip2_opt":
        from model_zoo.blip2_opt import Blip2OPT

        sizes = dict(hidden_size=96, word_embed_proj_dim=96, ffn_dim=310, num_hidden_layers=4, num_attention_heads=6)
        return Blip2OPT(
            connector, OPTForCausalLM(OPTConfig(vocab_size=320, **sizes)), tokenizer, image_size=56
        ).freeze_()
    if name == "visualglm":
        from model_zoo.chatglm import ChatGLMConfig, ChatGLMForCausalLM
        from model_zoo.visualglm import VisualGLM

        sizes = dict(hidden_size=96, intermediate_size=310, num_hidden_layers=4, num_attention_heads=6)
        glm = ChatGLMForCausalLM(ChatGLMConfig(vocab_size=320, **sizes))
        return VisualGLM(connector, glm, tokenizer, image_size=56, gmask_id=4, sop_id=5).freeze_()
    llama = LlamaConfig(
        vocab_size=320, hidden_size=96, intermediate_size=270, num_hidden_layers=4, num_attention_heads=6
    )
    if reads:
        bert = tiny_tokenizer(bert=True)
        return BLIVA(connector, LlamaForCausalLM(llama), tokenizer, bert, image_size=56).freeze_()
    return MiniGPT4(connector, LlamaForCausalLM(llama), tokenizer, image_size=56).freeze_()


def built(name: str, size: str, dtype: str) -> MLLM:
    return (tiny_mllm(name) if size == "tiny" else medium_mllm(name)).to(getattr(torch, dtype))


def workload(model: MLLM, questions: list[str], answers: list[str]) -> Workload:
    """The longest text of a batch in tokens; candidates: the nodes of `CANDIDATES` packed, counted generously."""
    text = max(len(model.prefix_ids(question, 0, ranking=False)) for question in questions)
    answer = int(model.answer_token_counts(questions, answers).max())
    tokens = [len(model.text_ids(candidate)) for candidate in CANDIDATES]
    return Workload(text, answer, sum(tokens))


def batch_of(size: str, count: int, padded: bool) -> tuple[torch.Tensor, list[str], list[str]]:
    questions = [QUESTIONS[i % 3] for i in range(count)] if padded else [QUESTIONS[0]] * count
    return tiny_images(count, 32 if size == "tiny" else 56), questions, ["a red car"] * count


@pytest.mark.parametrize(
    ("size", "count", "dtype"), [("tiny", 1, "bfloat16"), ("tiny", 3, "float32"), ("medium", 3, "bfloat16")]
)
@pytest.mark.parametrize("name", NAMES)
def test_kept_bytes_are_what_autograd_keeps(name: str, size: str, count: int, dtype: str) -> None:
    model = built(name, size, dtype)
    images, questions, answers = batch_of(size, count, padded=count > 1)
    with SavedBytes(model) as saved:
        model.answer_loss(images.requires_grad_(), questions, answers)
    load = workload(model, questions, answers)
    planned = kept_bytes(sizes_of(model), count, dtype, load=load)
    assert planned == pytest.approx(saved.total, rel=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_covers_the_peak_of_a_whole_step(name: str) -> None:
    model = built(name, "medium", "float32")
    images, questions, answers = batch_of("medium", 4, padded=True)
    frames = images.requires_grad_()
    with PeakBytes() as peak:
        model.answer_loss(frames, questions, answers)[0].sum().backward()
    need = source_need(sizes_of(model), 4, "float32", device="cpu", load=workload(model, questions, answers))
    assert peak.peak <= need.kept + need.work <= PEAK * peak.peak


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_covers_the_peak_of_scoring(name: str) -> None:
    model = built(name, "medium", "float32")
    images, questions, answers = batch_of("medium", 4, padded=True)
    with PeakBytes() as peak, torch.inference_mode():
        model.score(images, questions, CANDIDATES)
    planned = scoring_bytes(sizes_of(model), 4, "float32", workload(model, questions, answers))
    assert peak.peak <= planned <= SCORING * peak.peak


@pytest.mark.parametrize("size", ["tiny", "medium"])
@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_counted_to_one_percent(name: str, size: str) -> None:
    model = built(name, size, "float32")
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert sizes_of(model).parameters == pytest.approx(counted, rel=0.01)
    assert weight_bytes(sizes_of(model), "bfloat16") == pytest.approx(2 * counted, rel=0.01)


@pytest.mark.parametrize(
    ("part", "millions"),
    [
        (lambda: PUBLISHED_SIZES["minigpt4"].vision.parameters, 985.95),
        (lambda: PUBLISHED_SIZES["minigpt4"].llm.parameters, 6738.4),
        (lambda: PUBLISHED_SIZES["instructblip"].parameters, 7913.2),
        (lambda: PUBLISHED_SIZES["blip2_opt"].llm.parameters, 2651.6),
    ],
)
def test_published_sizes_give_the_published_parameter_counts(part, millions: float) -> None:
    assert part() / 1e6 == pytest.approx(millions, rel=1e-4)


@pytest.mark.parametrize("name", sorted(set(PUBLISHED_SIZES) & set(REGISTRY)))
def test_the_registry_and_the_planner_agree_on_parameters(name: str) -> None:
    assert PUBLISHED_SIZES[name].parameters == pytest.approx(REGISTRY[name].parameters, rel=0.01)


def sizes() -> Sizes:
    return PUBLISHED_SIZES["minigpt4"]


def test_what_makes_a_run_smaller_makes_the_plan_smaller() -> None:
    def total(batch: int = 16, dtype: str = "float32", **options) -> int:
        return source_need(sizes(), batch, dtype, **options).total

    assert total(dtype="bfloat16") < total()
    assert total(batch=8) < total()
    assert total(checkpointing=True) < total()
    assert total(dtype="bfloat16", quant="4bit") < total(dtype="bfloat16", quant="8bit") < total(dtype="bfloat16")
    assert total() < total(clip=True)
    assert target_need(sizes(), 16, "float32").total < total()
    assert target_need(sizes(), 16, "float32").kept == 0


def test_a_model_without_a_q_former_has_no_plan() -> None:
    with pytest.raises(ValueError, match=r"No memory plan for 'llava'\. Expected a model with"):
        sizes_of(tiny_mllm("llava"))


def test_sizes_are_read_off_the_built_model() -> None:
    found = sizes_of(tiny_mllm("bliva"))
    assert found.qformer.queries == N_QUERY and found.patches and found.visual == N_QUERY + 16
