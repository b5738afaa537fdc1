"""Our models, losses and updates against numbers recorded from the reference's own code.

TVP_GOLDEN names a golden folder (then everything must be there); otherwise the compact copy in tests/data/golden is
used, else the full set beside the repository. Tolerances are those stated with the recordings.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from golden import FOLDERS, FORCED, LOADERS, PAD, Golden, golden_root, load_golden
from torch import Tensor

from lightning_modules.losses import fca_loss, tse_loss
from lightning_modules.optim import NormalizedSGD
from lightning_modules.prompts import PadPrompt
from model_zoo.clip import ClipScorer, load_clip
from model_zoo.sequences import embed_rows, pad_rows
from model_zoo.templates import IMAGE_MARK, TEMPLATES

ROOT = golden_root()


def listed(names: Iterable[str]) -> list[str]:
    """All names when TVP_GOLDEN is set (a missing one then fails), else those the set at hand holds."""
    return sorted(name for name in names if FORCED or (ROOT and (ROOT / name).is_dir()))


MODELS, RECORDED = listed(LOADERS), listed(FOLDERS)
TAGS = ("plain", "tse", "fca_tse", "readme")
TEMPLATE_OF = {"blip2_t5": "blip2", "blip2_opt": "blip2"}


def get(name: str, *needed: str) -> Golden:
    """The recordings of a model. Missing ones fail when TVP_GOLDEN is set and skip otherwise."""
    refuse = pytest.fail if FORCED else pytest.skip
    if ROOT is None or not (ROOT / name / "golden.npz").is_file():
        refuse(f"no golden folder {name} in {ROOT}")
    golden = load_golden(name)
    if absent := [key for key in needed if key not in golden.arrays]:
        refuse(f"{name} records no {', '.join(absent)}")
    return golden


def close(actual: Tensor, expected: Tensor, *, atol: float = 0.0, of_max: float = 0.0, rtol: float = 0.0) -> None:
    """Largest deviation within atol + of_max * max|expected| + rtol * |expected|."""
    assert actual.shape == expected.shape
    excess = (actual - expected).abs() - (atol + of_max * expected.abs().max() + rtol * expected.abs())
    assert excess.max() <= 0, f"off by {(actual - expected).abs().max():.3g} of {expected.abs().max():.3g}"


def test_a_golden_set_is_found() -> None:
    if ROOT is None:
        pytest.skip("no golden set here; set TVP_GOLDEN")
    assert any((ROOT / name).is_dir() for name in FOLDERS)


@pytest.mark.parametrize("name", RECORDED)
def test_templates_equal_the_recorded_prompts(name: str) -> None:
    prompts, template = get(name).text["prompts"], TEMPLATES[TEMPLATE_OF.get(name, name)]
    plain = {"wrapper": template.wrapper, "system": template.system}
    if name == "visualglm":  # recorded without the mark: the image follows <img>
        plain = {key: value.replace(IMAGE_MARK, "") for key, value in plain.items()}
    assert prompts["SYS_PROMPT"] == plain["system"]
    assert prompts["CLS_PROMPT"] == (plain["wrapper"] or template.cls)
    assert prompts["INFER_PROMPT"] == template.infer
    assert prompts.get("VQA_PROMPT", template.vqa) == template.vqa


@pytest.mark.parametrize("name", MODELS)
def test_tokens_equal_the_recorded_ids(name: str) -> None:
    golden = get(name)
    model, tokens = golden.model, golden.text["tokens"]
    for kind in ("class_ids_no_special", "text_input_no_special"):
        for text, ids in tokens[kind].items():
            assert model.text_ids(text) == ids
    for answer, ids in tokens["text_output_loss"].items():
        expected = ids[1:] if golden.text["tokens"]["special"]["bos"] == ids[0] else ids  # recorded with its BOS
        assert model.answer_ids(answer) == expected
    for text, ids in tokens.get("qformer_text_input", {}).items():
        assert model.qformer_ids(text) == ids


@pytest.mark.parametrize("name", MODELS)
def test_vision_features_equal_the_recorded_ones(name: str) -> None:
    golden = get(name, "feat_vit", "feat_ln_vision")
    last, before, _ = golden.seen
    close(last[:1], golden.arrays["feat_vit"], of_max=1e-5)
    close(golden.model.connector.vision.post_layernorm(last[:1]), golden.arrays["feat_ln_vision"], of_max=1e-5)
    if "feat_patch_projected" in golden.arrays:
        patches = golden.model.connector.patch_projection(before[:1, 1:])
        close(patches, golden.arrays["feat_patch_projected"], of_max=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_qformer_features_equal_the_recorded_ones(name: str) -> None:
    golden = get(name)
    queries = golden.seen[2]
    close(queries, _first(golden, "feat_qformer", "feat_model_encode"), of_max=1e-5)
    close(golden.model.connector.projection(queries), _first(golden, "feat_projected", "feat_encode_img"), of_max=1e-5)


def _first(golden: Golden, *names: str) -> Tensor:
    return next(golden.arrays[name] for name in names if name in golden.arrays)


@pytest.mark.parametrize("ranking", [False, True], ids=["loss", "ranking"])
@pytest.mark.parametrize("name", MODELS)
def test_the_llm_receives_the_recorded_sequence(name: str, ranking: bool) -> None:
    key = "llm_in_ll_mixed_call0" if ranking else "llm_in_loss_mixed"
    golden = get(name, f"{key}_inputs_embeds", f"{key}_attention_mask")
    embeds, masks = golden.arrays[f"{key}_inputs_embeds"], golden.arrays[f"{key}_attention_mask"].bool()
    rows = llm_rows(golden, ranking)
    for row, embed, mask in zip(rows, embeds, masks, strict=False):  # a recording may hold image 0 only
        close(row, embed[mask], of_max=1e-5)
    assert [len(row) for row in rows] == masks.sum(-1).tolist()


def llm_rows(golden: Golden, ranking: bool) -> list[Tensor]:
    """What our adapter feeds the LLM for each image, unpadded (L_b, D), mixed questions."""
    model, questions = golden.model, golden.questions("mixed")
    with torch.no_grad():
        visual = model.encode_image(golden.frames, questions)
        if name_is_t5(golden):
            prompts = [model.prompt_ids(question, ranking=ranking) for question in questions]
            embeds, mask = model.encoder_input(visual.tokens, prompts)
        else:
            tokens = model.llm_tokens(visual, ranking=ranking)
            prefixes = [model.prefix_ids(question, tokens.shape[1], ranking=ranking) for question in questions]
            answers = [[] if ranking else model.answer_ids(answer) for answer in golden.text["text_output"]]
            ids, mask = pad_rows([p + a for p, a in zip(prefixes, answers, strict=True)], tokens.device)
            embeds = embed_rows(model.llm.get_input_embeddings(), ids, tokens)
    return [row[seen] for row, seen in zip(embeds, mask, strict=True)]


def name_is_t5(golden: Golden) -> bool:
    return golden.config["llm"]["model_type"] == "t5"


@pytest.mark.parametrize("name", MODELS)
def test_losses_equal_the_recorded_ones(name: str) -> None:
    golden = get(name, "loss_std", "loss_mixed", "loss_std_per_sample", "loss_mixed_per_sample")
    with torch.no_grad():
        std = golden.model.answer_loss(golden.frames, golden.questions("std"), golden.text["text_output"])
    for kind, (nats, tokens) in {"std": std, "mixed": golden.mixed_loss[:2]}.items():
        close(nats.sum() / tokens.sum(), golden.arrays[f"loss_{kind}"], atol=1e-5)
        close(nats / tokens, golden.arrays[f"loss_{kind}_per_sample"], atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_image_gradient_equals_the_recorded_one(name: str) -> None:
    golden = get(name, "loss_mixed_image_grad")
    std = torch.tensor(golden.config["clip_std"]).view(1, 3, 1, 1)  # recorded for the normalised image
    close(golden.mixed_loss[2] * std, golden.arrays["loss_mixed_image_grad"], of_max=1e-5)


@pytest.mark.parametrize("normalize", [True, False], ids=["norm", "sum"])
@pytest.mark.parametrize("kind", ["std", "mixed"])
@pytest.mark.parametrize("name", MODELS)
def test_candidate_scores_equal_the_recorded_ones(name: str, kind: str, normalize: bool) -> None:
    golden = get(name, recorded := f"ll_{kind}_{'norm' if normalize else 'sum'}")
    with torch.no_grad():
        scores = golden.model.score(
            golden.frames, golden.questions(kind), golden.text["class_names"], normalize=normalize
        )
    close(scores, golden.arrays[recorded], atol=1e-5, rtol=0.0 if normalize else 1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_equals_the_recorded_one(name: str) -> None:
    golden = get(name, "eval_probs", prompt := golden_prompt(name))
    prompted = torch.nn.functional.pad(golden.pixels, [PAD] * 4) + golden.arrays[prompt]
    questions, classes = golden.questions("std"), golden.text["class_names"]
    with torch.no_grad():
        parts = [golden.model.score(prompted[a:b], questions[a:b], classes) for a, b in ((0, 2), (2, None))]
    scores = torch.cat(parts)
    close(scores, golden.arrays["eval_probs"], atol=1e-5)
    top1 = (scores.argmax(-1) == torch.tensor(golden.text["eval_labels"])).float().mean() * 100
    assert float(top1) == pytest.approx(golden.scalars["eval_top1"], abs=1e-3)


def golden_prompt(name: str) -> str:
    return get(name).text.get("eval_perturbation", "train_plain_step0_perturbation")


@pytest.fixture(scope="module")
def clip() -> ClipScorer:
    path = ROOT / "_clip" / "clip_tiny.pt" if ROOT else None
    if path is None or not path.is_file():
        (pytest.fail if FORCED else pytest.skip)("no _clip/clip_tiny.pt in the golden set")
    return load_clip(path)


def start(golden: Golden, tag: str) -> PadPrompt:
    """The prompt before the first update: recorded, or zero for `readme`."""
    prompt = PadPrompt(frame=golden.arrays["perturbation_init"].shape[-1], pad=PAD, bounds="unbounded")
    if tag != "readme":
        prompt.delta.data.copy_(golden.arrays["perturbation_init"])
    return prompt


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("name", MODELS)
def test_training_steps_equal_the_recorded_ones(name: str, tag: str, request: pytest.FixtureRequest) -> None:
    golden = get(name, f"train_{tag}_step0_perturbation")
    recipe = golden.scalars[f"train_{tag}_cfg"]
    scorer = request.getfixturevalue("clip") if recipe["tse"] else None
    prompt = start(golden, tag)
    optimizer = NormalizedSGD(prompt.parameters(), lr=recipe["lr"])
    for step, rows in enumerate(recipe["image_index_and_label"]):
        key = f"train_{tag}_step{step}"
        optimizer.zero_grad()
        main, fca, tse = losses(golden, prompt, rows, recipe, scorer)
        (main + recipe["fca"] * fca + recipe["tse"] * tse).backward()
        for value, what in ((main, "main_loss"), (fca, "emb_loss"), (-tse, "clip_loss")):
            close(value.detach(), torch.tensor(golden.scalars[f"{key}_{what}"]), atol=1e-5)
        if f"{key}_grad_mean" in golden.arrays:  # a broadcast delta receives the SUM of per-image gradients
            close(prompt.delta.grad / len(rows), golden.arrays[f"{key}_grad_mean"], of_max=1e-5)
        optimizer.step()
        prompt.project_()
        close(prompt.delta.detach(), golden.arrays[f"{key}_perturbation"], atol=1e-4)


def losses(
    golden: Golden, prompt: PadPrompt, rows: list[int], recipe: dict, scorer: ClipScorer | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(task loss, FCA, TSE) of the images in `rows`, whose label is their own index (METHOD.md section 2)."""
    model, images = golden.model, golden.pixels[rows]
    questions = [golden.questions("std")[row] for row in rows]
    names = [golden.text["class_names"][row] for row in rows]
    prompted, zero = prompt(images), torch.zeros(())
    visual = model.encode_image(prompted, questions)
    nats, tokens = model.answer_loss(prompted, questions, names, visual=visual)
    fca = zero
    if recipe["fca"]:
        with torch.no_grad():
            clean = model.encode_image(prompt.blank(images), questions)
        fca = fca_loss(visual.tokens[:, : visual.n_query], clean.tokens[:, : clean.n_query])
    captions = [f"this is a photo of a {name}" for name in names]
    tse = tse_loss(scorer.similarity(prompted, captions)) if scorer else zero
    return nats.sum() / tokens.sum(), fca, tse


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_gradients_give_the_recorded_perturbations(name: str) -> None:
    golden = get(name)
    tags = [tag for tag in TAGS if f"train_{tag}_step0_grad_mean" in golden.arrays]
    if not tags:
        (pytest.fail if FORCED else pytest.skip)(f"{name} records no gradients")
    for tag in tags:
        prompt = start(golden, tag)
        prompt.delta.grad = golden.arrays[f"train_{tag}_step0_grad_mean"].clone()
        NormalizedSGD(prompt.parameters(), lr=golden.scalars[f"train_{tag}_cfg"]["lr"]).step()
        prompt.project_()
        close(prompt.delta.detach(), golden.arrays[f"train_{tag}_step0_perturbation"], atol=1e-4)
