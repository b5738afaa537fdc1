"""Our models, losses and updates against numbers recorded from the reference's own code, one test per quantity.

TVP_GOLDEN names a golden folder: then all seven models must be there and any that is missing fails. Unset, the compact
copy in tests/data/golden is used. Everything else (sizes, files, texts, which quantities) comes from the folder itself.
"""

from __future__ import annotations

import pytest
from support.golden import FOLDERS, FORCED, Golden, golden_root, load_golden
from support.golden_checks import INPUTS, close, find_check, recorded, value_of

from lightning_modules.optim import NormalizedSGD
from model_zoo.templates import IMAGE_MARK, TEMPLATES

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),  # frozen models are meant to be
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
ROOT = golden_root()
COMPACT = ("blip2_t5", "minigpt4")
EXPECTED = FOLDERS if FORCED else COMPACT
HERE = [name for name in EXPECTED if (ROOT / name / "golden.npz").is_file()]
QUANTITIES = [(name, quantity) for name in HERE for quantity in recorded(load_golden(name))]
TAGS = [
    (name, quantity.removesuffix("_grad_mean"))
    for name in HERE
    for quantity in load_golden(name).arrays
    if quantity.endswith("_step0_grad_mean")
]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_golden_folder_is_there(name: str) -> None:
    missing = [file for file in ("config.json", "golden.json", "golden.npz") if not (ROOT / name / file).is_file()]
    assert not missing, f"{ROOT / name} lacks {', '.join(missing)}"


def test_the_full_set_holds_a_clip() -> None:
    assert not FORCED or (ROOT / "_clip" / "clip_tiny.pt").is_file()


@pytest.mark.parametrize("name", HERE)
def test_every_recorded_quantity_has_a_check(name: str) -> None:
    assert [quantity for quantity in recorded(load_golden(name)) if find_check(quantity) is None] == []


@pytest.mark.parametrize("name", HERE)
def test_the_folder_records_what_matters(name: str) -> None:
    """A folder without scores, losses and an update would pass by recording nothing."""
    needed = {"feat_vit", "loss_std", "loss_mixed", "ll_std_norm", "ll_std_sum", "ll_mixed_norm", "ll_mixed_sum"}
    needed |= {"eval_probs", "train_plain_step0_perturbation", "llm_in_loss_mixed_inputs_embeds"}
    assert needed | set(INPUTS[:2]) <= set(load_golden(name).arrays) | set(INPUTS)


@pytest.mark.parametrize(("name", "quantity"), QUANTITIES)
def test_golden(name: str, quantity: str) -> None:
    golden = load_golden(name)
    check, match = find_check(quantity)
    check(golden, value_of(golden, quantity), match)


@pytest.mark.parametrize("name", HERE)
def test_templates_equal_the_recorded_prompts(name: str) -> None:
    prompts, template = load_golden(name).text["prompts"], TEMPLATES["blip2" if name.startswith("blip2") else name]
    plain = {"wrapper": template.wrapper, "system": template.system}
    if name == "visualglm":  # recorded without the mark: the image follows <img>
        plain = {key: value.replace(IMAGE_MARK, "") for key, value in plain.items()}
    assert prompts["SYS_PROMPT"] == plain["system"]
    assert prompts["CLS_PROMPT"] == (plain["wrapper"] or template.cls)
    assert prompts["INFER_PROMPT"] == template.infer
    assert prompts.get("VQA_PROMPT", template.vqa) == template.vqa


@pytest.mark.parametrize("name", HERE)
def test_tokens_equal_the_recorded_ids(name: str) -> None:
    golden = load_golden(name)
    model, tokens = golden.model, golden.text["tokens"]
    for kind in ("class_ids_no_special", "text_input_no_special", "classes", "prompt"):
        for text, ids in tokens.get(kind, {}).items():
            assert model.text_ids(text) == ids
    for question, ids in tokens.get("loss_text", {}).items():  # OPT: the text is what is predicted
        assert model.loss_ids(question, "", 0) == ([], ids)
    for answer, ids in tokens.get("text_output_loss", {}).items():
        expected = ids[1:] if tokens["special"]["bos"] == ids[0] else ids  # recorded with its BOS
        assert model.answer_ids(answer) == expected
    for text, ids in tokens.get("qformer_text_input", {}).items():
        assert model.qformer_ids(text) == ids


@pytest.mark.parametrize(("name", "step"), TAGS)
def test_recorded_gradients_give_the_recorded_perturbations(name: str, step: str) -> None:
    golden, tag = load_golden(name), step.removeprefix("train_").removesuffix("_step0")
    prompt = golden.start(tag)
    prompt.delta.grad = golden.arrays[f"{step}_grad_mean"].clone()
    NormalizedSGD(prompt.parameters(), lr=golden.scalars[f"train_{tag}_cfg"]["lr"]).step()
    prompt.project_()
    close(prompt.delta.detach(), golden.arrays[f"{step}_perturbation"], atol=1e-4)


def test_our_own_model_is_what_is_compared() -> None:
    """Changing one weight must turn the comparison red: no check compares a recording with itself."""
    golden = Golden(ROOT / HERE[0])
    next(golden.model.connector.projection.parameters()).data.mul_(1.001)
    failed = []
    for quantity in ("ll_std_norm", "loss_std", "eval_probs", "train_plain_step0_main_loss"):
        check, match = find_check(quantity)
        try:
            check(golden, value_of(golden, quantity), match)
        except AssertionError:
            failed.append(quantity)
    assert len(failed) == 4
