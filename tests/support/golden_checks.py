"""Which recorded quantity is checked how: a table from names in the golden files to our computation and tolerance.

Tolerances are those stated with the recordings: losses and mean scores 1e-5 absolute, summed scores 1e-5 + 1e-6 x
|value|, features and gradients 1e-5 of the maximum, perturbations 1e-4 absolute.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from support.golden import Golden

INPUTS = ("images_u8", "perturbation_init", "llm_resized_embed_row", "llm_resized_lm_head_row")
"""Recorded arrays that go in; nothing comes out to compare."""

DESCRIPTIONS = re.compile(r"train_\w+_cfg|llm_in_shapes_ll")
"""Scalars that describe how something was recorded."""

NEEDS_CLIP = re.compile(r"train_(?!plain)")

Check = Callable[[Golden, Tensor, re.Match], None]
CHECKS: list[tuple[re.Pattern, Check]] = []


def check(pattern: str) -> Callable[[Check], Check]:
    """Register how quantities whose whole name matches `pattern` are compared."""

    def register(function: Check) -> Check:
        CHECKS.append((re.compile(pattern), function))
        return function

    return register


def find_check(name: str) -> tuple[Check, re.Match] | None:
    """The check of a recorded quantity and the match of its name; None when nobody checks it."""
    return next(((f, match) for pattern, f in CHECKS if (match := pattern.fullmatch(name))), None)


def recorded(golden: Golden) -> list[str]:
    """Names of everything a folder records and we can recompute; without a CLIP beside it the plain tag only."""
    scalars = [name for name in golden.scalars if not DESCRIPTIONS.fullmatch(name) and name not in golden.arrays]
    names = [*(name for name in golden.arrays if name not in INPUTS), *scalars]
    names = [name for name in names if golden.has_clip or not NEEDS_CLIP.match(name)]
    return sorted(names)


def value_of(golden: Golden, name: str) -> Tensor:
    """What was recorded under a name."""
    return golden.arrays[name] if name in golden.arrays else torch.tensor(golden.scalars[name])


def close(actual: Tensor, expected: Tensor, *, atol: float = 0.0, of_max: float = 0.0, rtol: float = 0.0) -> None:
    """Largest deviation within atol + of_max * max|expected| + rtol * |expected|."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} instead of {tuple(expected.shape)}"
    excess = (actual - expected).abs() - (atol + of_max * expected.abs().max() + rtol * expected.abs())
    assert excess.max() <= 0, f"off by {(actual - expected).abs().max():.3g} of {expected.abs().max():.3g}"


@check(r"image_normalized_(\d+)_r(\d+)")
def check_pixels(golden: Golden, expected: Tensor, match: re.Match) -> None:
    """Evenly spaced rows of one image."""
    image, row = int(match[1]), int(match[2])
    pixels = golden.model.prepare(golden.frames)[image]
    close(pixels[:, row :: pixels.shape[1] // expected.shape[1]], expected, of_max=1e-5)


@check("feat_vit")
def check_vit(golden: Golden, expected: Tensor, match: re.Match) -> None:
    """VisualGLM's tower ends in its ln_vision, all others before it."""
    features = golden.seen[0][: len(expected)]
    close(
        golden.model.connector.vision.post_layernorm(features) if golden.is_visualglm else features,
        expected,
        of_max=1e-5,
    )


@check("feat_ln_vision")
def check_ln_vision(golden: Golden, expected: Tensor, match: re.Match) -> None:
    close(golden.model.connector.vision.post_layernorm(golden.seen[0][: len(expected)]), expected, of_max=1e-5)


@check("feat_patch_projected")
def check_patches(golden: Golden, expected: Tensor, match: re.Match) -> None:
    patches = golden.model.connector.patch_projection(golden.seen[1][: len(expected), 1:])
    close(patches, expected, of_max=1e-5)


@check("feat_qformer|feat_model_encode")
def check_qformer(golden: Golden, expected: Tensor, match: re.Match) -> None:
    close(golden.seen[2], expected, of_max=1e-5)


@check("feat_projected|feat_encode_img")
def check_projected(golden: Golden, expected: Tensor, match: re.Match) -> None:
    close(golden.model.connector.projection(golden.seen[2]), expected, of_max=1e-5)


@check(r"llm_in_(loss|ll)_mixed(?:_call0)?_inputs_embeds")
def check_sequence(golden: Golden, expected: Tensor, match: re.Match) -> None:
    """The recording may hold image 0 only, and is padded on its own side."""
    mask = golden.arrays.get(match[0].replace("inputs_embeds", "attention_mask"))
    rows = golden.llm_rows(match[1] == "ll")
    for b, embeds in enumerate(expected):
        real = embeds if mask is None else embeds[mask[b].bool()]
        close(rows[b][: len(real)] if mask is None else rows[b], real[: len(rows[b])], of_max=1e-5)


@check(r"llm_in_(loss|ll)_mixed(?:_call(\d+))?_attention_mask")
def check_lengths(golden: Golden, expected: Tensor, match: re.Match) -> None:
    """How many real entries each row has; call k of a ranking holds candidate k - 1 after the prefix."""
    call = 0 if golden.is_t5 else int(match[2] or 0)
    more = len(class_ids(golden, call - 1)) if call else 0
    assert [len(row) + more for row in golden.llm_rows(match[1] == "ll")] == expected.sum(-1).tolist()


def class_ids(golden: Golden, k: int) -> list[int]:
    return golden.model.text_ids(golden.text["class_names"][k])


@check(r"llm_in_loss_mixed_labels")
def check_labels(golden: Golden, expected: Tensor, match: re.Match) -> None:
    assert targets(golden) == [row[row != -100].tolist() for row in expected]


@check(r"llm_in_loss_mixed_decoder_attention_mask")
def check_label_lengths(golden: Golden, expected: Tensor, match: re.Match) -> None:
    assert [len(row) for row in targets(golden)] == expected.sum(-1).tolist()


def targets(golden: Golden) -> list[list[int]]:
    model, answers = golden.model, golden.text["text_output"]
    if golden.is_t5:
        return [model.answer_ids(answer) for answer in answers]
    return [model.loss_ids(q, a, 0)[1] for q, a in zip(golden.questions("mixed"), answers, strict=True)]


@check(r"llm_in_ll_mixed_call(\d+)_(labels|decoder_attention_mask)")
def check_candidate(golden: Golden, expected: Tensor, match: re.Match) -> None:
    """T5: call k holds candidate k."""
    ids = class_ids(golden, int(match[1]))
    assert expected.tolist() == [ids if match[2] == "labels" else [1] * len(ids)] * len(expected)


@check("llm_in_loss_mixed_input_ids")
def check_ids(golden: Golden, expected: Tensor, match: re.Match) -> None:
    """VisualGLM: an unk id stands where each visual token goes."""
    unk, rows = golden.model.tokenizer.unk_token_id, golden.llm_ids(golden.model.connector.n_query, False)
    assert [[unk if i < 0 else i for i in row] for row in rows[: len(expected)]] == expected.tolist()


@check(r"llm_in_ll_mixed_call(\d+)_input_ids")
def check_ranking_ids(golden: Golden, expected: Tensor, match: re.Match) -> None:
    """VisualGLM: call k holds the whole sequence with candidate k; the text of row 0 for all rows."""
    model, ids = golden.model, class_ids(golden, int(match[1]))
    prefix = model.prefix_ids(golden.questions("mixed")[0], model.connector.n_query, ranking=True)
    row = [*(model.tokenizer.unk_token_id if i < 0 else i for i in prefix), *ids]
    assert expected.tolist() == [row] * len(expected)


@check("loss_(std|mixed)")
def check_loss(golden: Golden, expected: Tensor, match: re.Match) -> None:
    nats, tokens, _ = golden.loss(match[1])
    close(nats.sum() / tokens.sum(), expected, atol=1e-5)


@check("loss_(std|mixed)_per_sample")
def check_sample_losses(golden: Golden, expected: Tensor, match: re.Match) -> None:
    nats, tokens, _ = golden.loss(match[1])
    close(nats / tokens, expected, atol=1e-5)


@check("loss_(std|mixed)_image_grad")
def check_image_gradient(golden: Golden, expected: Tensor, match: re.Match) -> None:
    close(golden.loss(match[1])[2], expected, of_max=1e-5)


@check("grad_norm_(std|mixed)")
def check_gradient_norm(golden: Golden, expected: Tensor, match: re.Match) -> None:
    close(golden.loss(match[1])[2].norm(), expected, rtol=1e-5)


@check("ll_(std|mixed)_(norm|sum)")
def check_scores(golden: Golden, expected: Tensor, match: re.Match) -> None:
    mean = match[2] == "norm"
    close(golden.scores(match[1], mean), expected, atol=1e-5, rtol=0.0 if mean else 1e-6)


@check("llm_calls_ll")
def check_calls(golden: Golden, expected: Tensor, match: re.Match) -> None:
    """The reference scores one class a call; ours needs one forward for all, so only the count of classes agrees."""
    classes = len(golden.text["class_names"])
    assert int(expected) in (classes, classes + 1) and golden.scores("mixed", True).shape[1] == classes


@check("eval_probs")
def check_evaluation(golden: Golden, expected: Tensor, match: re.Match) -> None:
    close(golden.evaluation, expected, atol=1e-5)


@check("eval_top1")
def check_top1(golden: Golden, expected: Tensor, match: re.Match) -> None:
    labels = torch.tensor(golden.text["eval_labels"])
    close((golden.evaluation.argmax(-1) == labels).float().mean(), expected, atol=1e-3)


@check(r"train_(\w+?)_step(\d+)_(perturbation|grad_mean|g_norm|main_loss|emb_loss|clip_loss|loss)")
def check_update(golden: Golden, expected: Tensor, match: re.Match) -> None:
    actual = getattr(golden.training(match[1])[int(match[2])], match[3]).detach()
    tolerance = {"perturbation": {"atol": 1e-4}, "grad_mean": {"of_max": 1e-5}, "g_norm": {"rtol": 1e-5}}
    close(actual, expected, **tolerance.get(match[3], {"atol": 1e-5}))
