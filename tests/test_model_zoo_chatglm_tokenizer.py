"""ChatGLM's tokenizer: white space, special ids, offsets, and agreement with the model's configuration."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ice_text import MARKS, write_ice_text

from model_zoo.chatglm_tokenizer import ChatGLMTokenizer, decode_spaces, encode_spaces, load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ice_text(tmp_path_factory.mktemp("glm")).parent


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ChatGLMTokenizer:
    return ChatGLMTokenizer(folder / "ice_text.model")


def configured(folder: Path, target: Path, tokenizer: dict, model: dict) -> Path:
    (target / "ice_text.model").write_bytes((folder / "ice_text.model").read_bytes())
    (target / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (target / "config.json").write_text(json.dumps(model))
    return target


def test_special_ids_are_those_of_the_file(tokenizer: ChatGLMTokenizer) -> None:
    ids = {name: 4 + i for i, name in enumerate(MARKS)}
    assert (tokenizer.unk_token_id, tokenizer.pad_token_id) == (0, 3)
    assert (tokenizer.gmask_token_id, tokenizer.bos_token_id) == (ids["[gMASK]"], ids["<sop>"])
    assert tokenizer.sop_token_id == ids["<sop>"] and tokenizer.eos_token_id == ids["<eop>"]
    assert len(tokenizer) == tokenizer.pieces.get_piece_size()


@pytest.mark.parametrize("text", ["a red car", "what is it?\nan  image\tof a cat", "é 猫 <img> 7", "no   ", ""])
def test_a_text_comes_back(tokenizer: ChatGLMTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_white_space_has_pieces_of_its_own(tokenizer: ChatGLMTokenizer) -> None:
    ids = tokenizer("a\n\t   cat")["input_ids"]
    wanted = [tokenizer.piece_id(piece) for piece in ("<n>", "<|tab|>", "<|blank_3|>")]
    assert [number for number in ids if number in wanted] == wanted


def test_long_runs_of_blanks_are_cut_at_eighty() -> None:
    assert encode_spaces(" " * 80) == "<|blank_80|>"
    assert encode_spaces(" " * 81) == "<|blank_80|> "
    assert encode_spaces("a" + " " * 163 + "b") == "a<|blank_80|><|blank_80|><|blank_3|>b"


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab \n\t", max_size=200))
def test_white_space_comes_back(text: str) -> None:
    assert decode_spaces(encode_spaces(text)) == text
    assert "  " not in encode_spaces(text) and "\n" not in encode_spaces(text)


def test_special_tokens_end_a_text_only_when_asked_for(tokenizer: ChatGLMTokenizer) -> None:
    plain = tokenizer("a cat")["input_ids"]
    assert tokenizer("a cat", add_special_tokens=False)["input_ids"] == plain
    end = [tokenizer.gmask_token_id, tokenizer.sop_token_id]
    assert tokenizer("a cat", add_special_tokens=True)["input_ids"] == plain + end
    assert tokenizer.decode([*plain, tokenizer.eos_token_id, tokenizer.pad_token_id]) == "a cat"
    assert "<eop>" in tokenizer.decode([*plain, tokenizer.eos_token_id], skip_special_tokens=False)


def test_ids_without_a_piece_are_left_out(tokenizer: ChatGLMTokenizer) -> None:
    assert tokenizer.decode([*tokenizer("a cat")["input_ids"], len(tokenizer), 10**6]) == "a cat"


def test_an_offset_moves_every_id(folder: Path, tokenizer: ChatGLMTokenizer) -> None:
    moved = ChatGLMTokenizer(folder / "ice_text.model", offset=20000)
    assert moved("a cat")["input_ids"] == [20000 + number for number in tokenizer("a cat")["input_ids"]]
    assert moved.gmask_token_id == 20000 + tokenizer.gmask_token_id
    assert moved.decode([5, *moved("a cat")["input_ids"]]) == "a cat"  # 5 is an image token


def test_a_copy_works_alike(tokenizer: ChatGLMTokenizer) -> None:
    assert copy.deepcopy(tokenizer)("a cat") == tokenizer("a cat")


def test_a_vocabulary_without_gmask_is_refused(tmp_path: Path) -> None:
    path = write_ice_text(tmp_path, [mark for mark in MARKS if mark != "[gMASK]"])
    with pytest.raises(ValueError, match=r"has no piece \[gMASK\]"):
        ChatGLMTokenizer(path)


def test_the_offset_is_stated_or_told_by_the_models_ids(folder: Path, tmp_path: Path) -> None:
    sop = 4 + MARKS.index("<sop>")
    stated = load_tokenizer(configured(folder, tmp_path, {"num_image_tokens": 100}, {"bos_token_id": 100 + sop}))
    told = load_tokenizer(configured(folder, tmp_path, {}, {"bos_token_id": 100 + sop}))
    silent = load_tokenizer(configured(folder, tmp_path, {}, {}))
    assert (stated.offset, told.offset, silent.offset) == (100, 100, 0)
    assert told.name_or_path == str(tmp_path)


def test_a_tokenizer_of_another_release_is_refused(folder: Path, tmp_path: Path) -> None:
    configured(folder, tmp_path, {"num_image_tokens": 0}, {"gmask_token_id": 130001})
    with pytest.raises(ValueError, match=r"\[gMASK\] is 5 in ice_text.model and 130001 in config.json"):
        load_tokenizer(tmp_path)


def test_the_configured_preprocessing_is_done(folder: Path, tmp_path: Path) -> None:
    settings = {"remove_space": True, "do_lower_case": True, "bos_token": "<sop>", "pad_token": {"content": "<pad>"}}
    tokenizer = load_tokenizer(configured(folder, tmp_path, settings, {}))
    assert tokenizer("  A   Cat ") == tokenizer("a cat")
