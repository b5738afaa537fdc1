"""A Hugging Face folder: its name, its layouts, its templates, and every kind that is refused, with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.hf_folders import write_folder
from support.hf_oracle import official_inputs, own_logp, processed, talk
from support.hf_parts import CANDIDATES, QUESTIONS

from model_zoo.__main__ import main
from model_zoo.fetch.items import items_of
from model_zoo.hf.adapter import HuggingFaceMLLM
from model_zoo.hf.folder import hub_id
from model_zoo.hf.load import load_folder, load_hf
from model_zoo.hf.planning import visual_tokens
from model_zoo.registry import (
    dry_load,
    get_entry,
    load_mllm,
    missing_files,
    model_fingerprint,
    picture_facts,
    tile_options,
    weight_files,
)

NAME = "hf:tiny/qwen3_vl"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder("qwen3_vl", tmp_path_factory.mktemp("once") / "tiny" / "qwen3_vl")


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A weights root with a copy of its own."""
    shutil.copytree(written, tmp_path / "weights" / "tiny" / "qwen3_vl")
    return tmp_path / "weights"


def folder(root: Path) -> Path:
    return root / "tiny" / "qwen3_vl"


def change_json(path: Path, **entries: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@torch.no_grad()
def scores(model: HuggingFaceMLLM) -> torch.Tensor:
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    return model.score(images, QUESTIONS, CANDIDATES)


def test_a_name_of_the_hub_goes_everywhere_a_name_goes(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert get_entry(NAME).hf and not get_entry(NAME).embedded
    assert missing_files(NAME, root) == [] and weight_files(NAME, root) == [folder(root) / "model.safetensors"]
    assert type(load_mllm(NAME, weights=root)) is HuggingFaceMLLM
    assert main(["check", NAME, f"weights={root}"]) == 0
    assert main(["list", NAME, f"weights={root}"]) == 0
    assert "complete" in capsys.readouterr().out
    assert main(["convert", NAME, "to=x"]) == 2
    assert "nothing to convert" in capsys.readouterr().err


def test_a_tiny_model_is_written_by_a_command_that_is_named_where_it_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    missing = "hf:tiny/internvl"
    with pytest.raises(FileNotFoundError, match=r"python -m model_zoo tiny internvl weights="):
        load_mllm(missing, weights=tmp_path)
    assert main(["tiny", "internvl", f"weights={tmp_path}"]) == 0
    assert f"Wrote {tmp_path / 'tiny' / 'internvl'}." in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["internvl"]
    before = model_fingerprint(missing, tmp_path)
    assert main(["tiny", "internvl", f"weights={tmp_path}"]) == 0
    assert "is there already; nothing was written" in capsys.readouterr().out
    write_folder("internvl", tmp_path / "again" / "tiny" / "internvl")
    assert model_fingerprint(missing, tmp_path / "again") == before  # the same in every place
    assert main(["tiny", "intern", f"weights={tmp_path}"]) == 2
    assert "Unknown family 'intern'. Did you mean 'internvl'? Available: llava, " in capsys.readouterr().err


def test_a_named_entry_says_what_it_shares(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["list", "smolvlm2_2_2b", f"weights={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    for text in ("Apache-2.0", "81 visual tokens with one tile, 1377", "tower from SigLIP-so400m/14, as llava_one"):
        assert text in shown
    assert str(tmp_path / "HuggingFaceTB" / "SmolVLM2-2.2B-Instruct") in shown


@pytest.mark.parametrize("name", ["hf:model", "hf:a/b/c", "hf:../model", "hf:a/", "hf:a\\b/c"])
def test_a_name_that_leaves_the_weights_root_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"names no model of the hub. Expected hf:ORG/MODEL"):
        hub_id(name)


def test_the_fingerprint_knows_weights_and_texts(root: Path) -> None:
    before = model_fingerprint(NAME, root)
    template = folder(root) / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    after = model_fingerprint(NAME, root)
    assert after != before
    tensors = load_file(folder(root) / "model.safetensors")
    key = next(iter(tensors))
    save_file(tensors | {key: tensors[key] + 1}, folder(root) / "model.safetensors", {"format": "pt"})
    assert model_fingerprint(NAME, root) not in (before, after)


def test_the_layout_of_2024_loads_to_the_same_model(root: Path) -> None:
    new = load_folder("new", folder(root))
    old = folder(root)
    parts = json.loads((old / "processor_config.json").read_text())
    (old / "preprocessor_config.json").write_text(json.dumps(parts.pop("image_processor")))
    (old / "video_preprocessor_config.json").write_text(json.dumps(parts.pop("video_processor")))
    template = {"chat_template": (old / "chat_template.jinja").read_text()}
    (old / "chat_template.json").write_text(json.dumps(template))
    for name in ("processor_config.json", "chat_template.jinja"):
        (old / name).unlink()
    assert missing_files(NAME, root) == []
    assert torch.equal(scores(load_folder("old", old)), scores(new))


def test_a_dry_load_reads_no_weights(root: Path) -> None:
    model = dry_load(NAME, root)
    assert all(parameter.is_meta for parameter in model.parameters())
    tensors = load_file(folder(root) / "model.safetensors")
    few = {key: value for key, value in tensors.items() if "visual" not in key}
    save_file(few, folder(root) / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"holds .* M numbers. Expected .* M, as its config.json says"):
        dry_load(NAME, root)


def test_tiles_are_a_recorded_choice(tmp_path: Path) -> None:
    smol = write_folder("smolvlm", tmp_path / "tiny" / "smolvlm")
    one, official = (load_folder("hf:tiny/smolvlm", smol, tiles=tiles) for tiles in ("one", "official"))
    frames = torch.rand(1, 3, 40, 40)
    for model, tokens in ((one, 4), (official, 20)):
        assert model.encode_image(frames, [""]).n_query == tokens == visual_tokens(smol, model.tiles, 40)
    assert picture_facts("hf:tiny/smolvlm", tmp_path, "official", 40) == {"tiles": "official", "visual_tokens": 20}
    assert picture_facts("minigpt4", tmp_path, "official", 40) == tile_options("minigpt4", "one") == {}
    with pytest.raises(ValueError, match=r"Unknown tiles 'two'. Expected one of one, official"):
        load_hf(name="hf:tiny/smolvlm", weights=tmp_path, tiles="two")


THINKS = (
    "<|im_start|>system\nbe brief<|im_end|>\n{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_thinking_is_off_and_what_is_said_before_the_answer_belongs_to_the_prompt(root: Path) -> None:
    (folder(root) / "chat_template.jinja").write_text(THINKS)
    model = load_folder(NAME, folder(root))
    assert model.prompter.template_kwargs == {"enable_thinking": False}
    frame = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    whole = official_inputs(model, frame, QUESTIONS[0], "a red car")["input_ids"][0].tolist()
    prompt, answer = model.prompter.row(QUESTIONS[0], 64).ids, model.prompter.answer_and_end("a red car")
    assert whole[: len(prompt) + len(answer)] == prompt + answer
    assert model.tokenizer.decode(prompt).endswith("</think>\n\n")
    inputs = official_inputs(model, frame, QUESTIONS[0])
    said = model.tokenizer("<think>\n\n</think>\n\n", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        score = model.score(frame[None] / 255, QUESTIONS[:1], ["a red car"], normalize=False)[0, 0]
    ids = model.prompter.answer("a red car")
    expected = own_logp(model, inputs, said + ids) - own_logp(model, inputs, said)
    torch.testing.assert_close(score, expected, atol=2e-5, rtol=0)


def test_the_processor_runs_once_a_picture_size_not_once_a_question(root: Path) -> None:
    model, calls = load_folder(NAME, folder(root)), []
    preprocess = model.images.preprocess
    model.images.preprocess = lambda *args, **kwargs: calls.append(1) or preprocess(*args, **kwargs)
    for question in ("one", "two", "three"):
        model.prompter.row(question, 40)
    model.prompter.row("one", 64)
    assert len(calls) == 2


def config(**entries: object) -> Callable[[Path], None]:
    return lambda path: change_json(path / "config.json", **entries)


def only(name: str) -> Callable[[Path], None]:
    def leave(path: Path) -> None:
        (path / "model.safetensors").unlink()
        (path / name).write_text("{}")

    return leave


def pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "llama4": (config(model_type="llama4"), "llama4 is not supported: its forward in transformers ends with an error"),
    "remote code": (
        config(model_type="kimi_vl", auto_map={"AutoModel": "modeling.Kimi"}),
        "'kimi_vl' needs code from the hub, which is never run. Expected an image-text-to-text model; look for a",
    ),
    "text only": (config(model_type="llama"), "'llama' is unknown to this transformers, or reads no pictures"),
    "gguf": (only("model-q4.gguf"), "it holds GGUF files, which llama.cpp reads"),
    "adapter": (only("adapter_config.json"), "it holds an adapter only. Expected a whole model; merge it into"),
    "pickled": (pickled, r"its weights are pickled \(.bin\). Expected safetensors"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_folder_that_cannot_work_is_refused_with_the_reason(kind: str, root: Path) -> None:
    spoil, message = REFUSED[kind]
    spoil(folder(root))
    for look in (missing_files, lambda name, weights: load_mllm(name, weights=weights)):
        with pytest.raises(ValueError, match=f"{NAME} in .* cannot be used: .*{message}"):
            look(NAME, root)


def test_a_family_that_needs_a_newer_transformers_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_json(folder(root) / "config.json", model_type="molmo2")
    monkeypatch.setattr("model_zoo.hf.folder.version", lambda package: "5.17.0")
    with pytest.raises(ValueError, match=r"molmo2 needs transformers 5\.24 or later, this is 5\.17\.0"):
        missing_files(NAME, root)


def test_a_missing_folder_and_every_missing_file_are_named(root: Path) -> None:
    for name, repo in (("hf:my/model", "my/model"), ("gemma3_4b", "google/gemma-3-4b-it")):
        with pytest.raises(
            FileNotFoundError, match=f"No complete {name} weights(.|\n)*whole folder of {repo}"
        ) as caught:
            load_mllm(name, weights=root)
        assert f"python -m model_zoo fetch {name} weights=" in str(caught.value)
        assert [item.path for item in items_of(name, root)] == [repo]
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder(root) / "model.safetensors").rename(folder(root) / "model-00001-of-00002.safetensors")
    (folder(root) / "model.safetensors.index.json").write_text(json.dumps(shards))
    (folder(root) / "tokenizer.json").unlink()
    (folder(root) / "tokenizer_config.json").unlink()
    (folder(root) / "processor_config.json").unlink()
    lines = "\n".join(missing_files(NAME, root))
    for name in ("model-00002-of-00002.safetensors", "tokenizer.json", "preprocessor_config.json"):
        assert name in lines
    assert "model-00001" not in lines
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00002\.safetensors"):
        load_mllm(NAME, weights=root)


def test_a_processor_without_a_chat_template_is_refused(root: Path) -> None:
    (folder(root) / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="Qwen3VLProcessor has no chat template, so nobody knows how it asks"):
        load_folder(NAME, folder(root))


def test_a_template_without_the_answer_is_refused(root: Path) -> None:
    template = folder(root) / "chat_template.jinja"
    template.write_text(template.read_text().replace("{% for m in messages %}", "{% for m in messages[:1] %}"))
    with pytest.raises(ValueError, match="does not go on from the prompt"):
        load_folder(NAME, folder(root))


@pytest.mark.parametrize("said", ["{{ m['content'] }}", "{{ m['content'] + '' }}"], ids=["prints", "adds"])
def test_a_template_that_takes_the_answer_as_plain_text_is_understood(said: str, root: Path) -> None:
    """Given parts, the first prints them as Python writes them and the second fails."""
    template = folder(root) / "chat_template.jinja"
    whole = template.read_text()
    parts = whole[whole.index("{% for c in") : whole.index("<|im_end|>")]
    branch = f"{{% if m['role'] == 'assistant' %}}{said}{{% else %}}{parts}{{% endif %}}"
    template.write_text(whole.replace(parts, branch))
    model = load_folder(NAME, folder(root))
    prompt, answer = model.prompter.row(QUESTIONS[0], 64).ids, model.prompter.answer_and_end("a red car")
    text = model.prompter.processor.apply_chat_template(
        [*talk(QUESTIONS[0]), {"role": "assistant", "content": "a red car"}], tokenize=False
    )
    frame = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    whole_ids = processed(model.prompter.processor, text, frame)["input_ids"][0].tolist()
    assert whole_ids[: len(prompt) + len(answer)] == prompt + answer and not model.prompter.more


def test_a_template_that_only_the_tokenizer_holds_is_read(root: Path) -> None:
    template = folder(root) / "chat_template.jinja"
    expected = scores(load_folder(NAME, folder(root)))
    change_json(folder(root) / "tokenizer_config.json", chat_template=template.read_text())
    template.unlink()
    assert torch.equal(scores(load_folder(NAME, folder(root))), expected)


def test_a_template_that_fails_on_a_picture_is_refused(root: Path) -> None:
    template = folder(root) / "chat_template.jinja"
    template.write_text("{{ raise_exception('only text') }}" + template.read_text())
    with pytest.raises(
        ValueError, match=r"template fails on a question about a picture: only text\. Expected one that"
    ):
        load_folder(NAME, folder(root))


def test_an_answer_that_merges_with_the_prompt_is_refused(root: Path) -> None:
    template = folder(root) / "chat_template.jinja"
    said = "{% if m['role'] == 'assistant' %} car{% endif %}{% for c in"
    text = template.read_text().replace("{% for c in", said)
    template.write_text(text.replace("assistant\n{% endif %}", "assistant\n car{% endif %}"))
    model = load_folder(NAME, folder(root))
    with pytest.raises(ValueError, match=r"merges the prompt's end .* car' with the beginning of the answer 'pet'"):
        model.score(torch.rand(1, 3, 40, 40), QUESTIONS[:1], ["pet"])
    assert model.score(torch.rand(1, 3, 40, 40), QUESTIONS[:1], [" dog"]).isfinite().all()


def test_an_attention_that_takes_no_tree_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_folder(NAME, folder(root))
    model.llm.config._attn_implementation = "flash_attention_2"
    parts = (NAME, model.model, model.prompter.processor)
    with pytest.raises(ValueError, match="Attention 'flash_attention_2' cannot take the mask of a token trie"):
        HuggingFaceMLLM(*parts, tiles="one")
    assert HuggingFaceMLLM(*parts, tiles="one", scoring="naive").scoring == "naive"
