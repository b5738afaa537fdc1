"""Recipes are complete, typed, and never lose a word the user said."""

from __future__ import annotations

import pytest
import torch

from datamodules.text_files import read_text
from experiments.recipes import FOLDER, as_yaml, first_lines, list_recipes, load_experiment, read_yaml
from lightning_modules.prompt_kinds import KINDS
from model_zoo.hf.catalogue import HF_MODELS
from model_zoo.memory.need import source_need

TEN = ("cifar10", "cifar100", "imagenette", "svhn", "eurosat", "oxford_pets", "dtd", "clevr", "hateful_memes", "pope")
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(*words, exp="embedded"):
    return load_experiment([("exp", exp), *(tuple(word.split("=", 1)) for word in words)])


def test_there_are_recipes():
    assert {"embedded", "smoke", "cifar10_minigpt4"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_resolves_and_says_what_it_is(name):
    config = load(exp=name)
    assert config.exp == name and config.method.lr is not None
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    for word in ("What:", "Reproduces:", "Needs:", "Expect:", "Command:"):
        assert any(line.startswith(f"# {word}") for line in header), f"{name} has no '# {word}' line"
    assert list_recipes()[name] == header[0].lstrip("# ")


@pytest.mark.parametrize("source", ["minigpt4", "instructblip"])
@pytest.mark.parametrize("data", TEN)
def test_every_data_set_has_a_recipe_that_is_built_without_weights_or_data(data, source, tmp_path, monkeypatch):
    """The module and the data set come to life in an empty folder; files are asked for when a run needs them."""
    from experiments.run.build import RunParts, build_module

    monkeypatch.chdir(tmp_path)
    config = load(exp=f"{data}_{source}")
    parts = RunParts(config)
    datamodule, module = parts.datamodule, build_module(parts, steps_per_epoch=10)
    assert (datamodule.name, config.source.name, datamodule.image_size) == (data, source, 164)
    assert module.prompt.delta.shape[-1] == 224 and module.sources is None
    missing = datamodule.missing()
    assert missing and all("data" in line for line in missing)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", HF_MODELS)
def test_every_named_model_of_the_hub_has_a_recipe_that_is_planned_without_weights(name, tmp_path, monkeypatch, capsys):
    """It is built in an empty folder, its header says how to get the weights and what is planned, and it fits 80 GB."""
    from experiments.run.build import RunParts, build_module
    from experiments.run.memory_plan import print_plan
    from experiments.train import main

    monkeypatch.chdir(tmp_path)
    config = load(exp=f"cifar10_{name}")
    parts = RunParts(config)
    module = build_module(parts, steps_per_epoch=10)
    assert config.source.name == name and module.prompt.delta.shape[-1] == 224 and parts.datamodule.missing()
    assert print_plan(config) == 0
    fetch = f"python -m model_zoo fetch {name}"
    shown = capsys.readouterr().out
    assert f"{fetch} weights=weights" in shown and f"one tile: {HF_MODELS[name].tokens[0]} visual tokens" in shown
    header = " ".join(read_text(FOLDER / f"cifar10_{name}.yaml").replace("\n#", "").split())
    assert f"`{fetch}`" in header and ("HF_TOKEN" in header) == ("Gemma" in HF_MODELS[name].licence)
    sizes, saved = HF_MODELS[name].sizes("one"), config.train.checkpointing
    need = source_need(sizes, config.train.batch_size, "bfloat16", checkpointing=saved, clip=True).total / 2**30
    assert need < 76 and f"{need:.0f} GiB of GPU memory at bfloat16" in header
    with pytest.raises(
        FileNotFoundError, match=rf"No {name} weights in 'weights'(.|\n)*Get them with: {fetch} weights="
    ):
        main([f"exp=cifar10_{name}", "out=run"])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["fashion", "cifar10_minigpt4"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt_has_a_recipe_that_is_built_and_planned_without_weights(
    kind, source, tmp_path, monkeypatch, capsys
):
    from experiments.run.build import RunParts, build_module
    from experiments.run.memory_plan import print_plan

    monkeypatch.chdir(tmp_path)
    names = {"pad": source, "overlay": "cifar10_minigpt4_vp" if source != "fashion" else "fashion_overlay"}
    config = load(exp=names.get(kind, f"{source}_{kind}"))
    prompt = build_module(RunParts(config), steps_per_epoch=10).prompt
    assert (config.prompt.kind, prompt.kind, config.data.image_size) == (kind, kind, prompt.image_size)
    assert (kind == "scaled") is (config.prompt.bounds == "sigmoid")
    assert print_plan(config) == 0 and f"prompt {config.prompt.frame} px" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["none", "vp", "evp", "tvp"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt_goes_with_every_method_and_null_is_the_method_s_own(kind, method):
    config = load(f"method={method}", f"prompt.kind={kind}")
    own = load(f"method={method}")
    assert config.prompt.kind == kind and config.prompt.init == own.prompt.init and config.prompt.bounds == "image"
    assert config.method == own.method and own.prompt.kind == ("overlay" if method == "vp" else "pad")
    assert config.data.image_size == (48 if kind == "pad" else 64)


def test_sigmoids_start_from_grey_and_are_what_a_scaled_prompt_has_by_itself():
    for words in (["prompt.bounds=sigmoid"], ["prompt.kind=scaled", "prompt.bounds=null"]):
        config = load(*words)
        assert (config.prompt.bounds, config.prompt.init) == ("sigmoid", "grey")
    assert load("prompt.bounds=null").prompt.bounds == "image"


def test_the_fashion_recipe_needs_nothing_that_does_not_ship(tmp_path, monkeypatch):
    """Real photographs and real towers without a download; its targets are two with the source's tower, two without."""
    from experiments.run.build import RunParts
    from model_zoo.embedded.config import model_config
    from model_zoo.registry import missing_files

    monkeypatch.chdir(tmp_path)
    config = load(exp="fashion")
    assert RunParts(config).datamodule.missing() == []
    names = [config.source.name, *config.targets.heldout]
    assert [line for name in names for line in missing_files(name)] == []
    towers = [model_config(name)["tower"] for name in names]
    assert towers == ["lite0", "lite0", "lite0", "lite1", "lite2"]


def test_the_method_shorthand_is_not_lost_beside_a_dotted_key():
    config = load("method=evp", "method.lr=3")
    assert config.method.name == "evp" and config.method.lr == 3
    assert (config.method.fca, config.method.tse) == (0, 0)
    config = load("method.lr=3", "method=evp")
    assert config.method.name == "evp" and config.method.lr == 3


def test_switching_parts_off_keeps_the_loop_and_switching_the_loop_does_not():
    tvp, evp, vp = load(), load("method=evp"), load("method=vp")
    assert evp.method.lr == tvp.method.lr and evp.method.optimizer == "normalized"
    assert vp.method.optimizer == "sgd" and vp.method.lr == 2.9 and vp.method.momentum == 0.9
    assert vp.prompt.init == "normal" and vp.data.image_size == vp.prompt.frame
    assert tvp.data.image_size == tvp.prompt.frame - 2 * tvp.prompt.pad


def test_adam_has_a_scale_of_its_own_and_no_further_momentum():
    for method in ("vp", "evp", "tvp"):
        config = load(f"method={method}", "method.optimizer=adam", "method.lr=null")
        assert (config.method.lr, config.method.momentum) == (0.01, 0)


def test_every_start_is_an_option_of_every_method_that_pads():
    for method in ("evp", "tvp"):
        for init in ("zero", "grey", "replicate", "normal"):
            assert load(f"method={method}", f"prompt.init={init}").prompt.init == init


def test_official_sets_every_deviation_and_each_can_be_set_alone():
    config = load("official=true", exp="cifar10_minigpt4")
    assert config.prompt.bounds == "unbounded" and config.data.val == "official"
    assert config.data.official and config.source.official
    kept = load("official=true", "prompt.bounds=image", exp="cifar10_minigpt4")
    assert kept.prompt.bounds == "image" and kept.source.official
    alone = load("source.official=true", exp="cifar10_minigpt4")
    assert alone.source.official and alone.prompt.bounds == "image" and not alone.official


def test_targets_that_are_not_named_as_steering_are_held_out():
    config = load("targets.select=[]", "targets.heldout=[]", "targets.names=[embedded_llava,embedded_blip2]")
    assert list(config.targets.heldout) == ["embedded_llava", "embedded_blip2"]


def test_off_is_a_word_where_words_are_expected_and_a_boolean_where_those_are():
    config = load("log.wandb=off", "data.augment=on")
    assert config.log.wandb == "off" and config.data.augment is True


@pytest.mark.parametrize("word", ["2024_11_25", "007", "12:30:45", "1e3", "off", "a: b", "[a", "NULL", "'x'", "a=b"])
def test_a_text_key_takes_the_word_as_it_stands(word):
    config = load(f"out={word}", f"data.root={word}", f"log.group={word}")
    assert (config.out, config.data.root, config.log.group) == (word, word, word)


def test_an_empty_text_is_a_text_and_no_word_at_all_is_none():
    assert load("data.question=''").data.question == "" and load('data.question=""').data.question == ""
    assert load("data.question=").data.question is None and load("data.question=null").data.question is None
    assert as_yaml("") == "''"


def test_what_is_no_text_is_still_read_by_its_type():
    config = load("seed=1_0", "method.lr=1e-3", "data.n_train=0.5", "log.tags=[2024_11,on]", "log.group=null", "out=")
    assert (config.seed, config.method.lr, config.data.n_train) == (10, 0.001, 0.5)
    assert list(config.log.tags) == ["2024_11", "on"] and config.log.group is None and config.out is None


def test_paths_begin_with_the_users_home_where_they_are_told_to(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load("out=~/runs", "data.root=~/data", "source.weights=~", "log.project=~")
    assert (config.out, config.data.root, config.source.weights) == (
        f"{tmp_path}/runs",
        f"{tmp_path}/data",
        str(tmp_path),
    )
    assert config.log.project == "~"


def test_a_list_override_replaces_the_whole_list():
    assert list(load("targets.heldout=[embedded_llava]").targets.names) == ["embedded_instructblip", "embedded_llava"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exp=embeded"], "Unknown recipe 'embeded'. Did you mean 'embedded'"),
        (["method.fcaa=1"], "'fcaa' not in 'Method'. Did you mean: 'fca'"),
        (["method=evpp"], "expected one of"),
        (["train.epochs=abc"], "'abc' of type 'str' could not be converted to Integer"),
        (["targets=3"], "'targets' is a group of keys"),
        (["targets.select=[a"], "Cannot read targets.select=[a. Expected a plain value, or a list such as [a,b]."),
        (["data.root="], "Incompatible value 'None'"),
        (["method=evp", "method.fca=0.1"], "Method 'evp' has no FCA"),
        (["train.batch_size=0"], "Expected train.batch_size >= 1"),
        (["prompt.pad=40"], "does not fit prompt.frame=64"),
        (["data.image_size=50"], "needs 48"),
        (["targets.select=[embedded_llava]"], "targets.select and targets.heldout"),
        (["method=vp", "prompt.init=grey"], "prompt.init=grey is a border by itself"),
        (["prompt.kind=ful"], "expected one of"),
        (["prompt.kind=full", "prompt.init=grey"], "a prompt of kind full is ADDED"),
        (
            ["prompt.kind=full", "prompt.bounds=sigmoid"],
            "Expected prompt.bounds=image or unbounded, or prompt.kind=pad",
        ),
        (["prompt.bounds=sigmoid", "prompt.init=zero"], "which a sigmoid never reaches"),
        (["prompt.kind=patch", "data.image_size=48"], "a prompt of kind patch with frame 64 and pad 8 needs 64"),
        (["prompt.kind=lowrank", "prompt.rank=0"], "Got prompt.rank=0. Expected 1 <= prompt.rank <= prompt.frame=64"),
        (["prompt.init=replicate", "prompt.init_images=0"], "Expected prompt.init_images >= 1"),
        (["method.optimizer=adam"], "at most 1, for example method.lr=0.01"),
        (["method.optimizer=adam", "method.lr=0.01", "method.momentum=0.9"], "Set method.momentum=0"),
        (["method.warmup_steps=5"], "cosine_epoch changes lr once an epoch and has no warm-up"),
        (["train.average_last=-1"], "Expected train.average_last >= 0"),
        (["train.keep_prompts=[0]"], "Expected updates >= 1 in train.keep_prompts"),
        (["method.anchors=[embedded_blip2]"], "go together: models, and a weight above 0"),
        (["method.anchors=[embedded_llava]", "method.anchor=1"], "put it into targets.select, or leave it out"),
        (["method.anchors=[embedded_minigpt4]", "method.anchor=1"], "which is a source, a held-out target or behind"),
        (["method=vp", "method.anchors=[embedded_blip2]", "method.anchor=1"], "Method 'vp' has no anchors"),
        (["data.caption=''", "method.tse=0.1"], "data.caption='' leaves TSE nothing to read, got method.tse=0.1"),
        (["targets.through=[jpeg:101]"], "Cannot read 'jpeg:101' of targets.through"),
        (["targets.controls=[grey]"], "Unknown 'grey' in targets.controls. Available: full, black"),
    ],
)
def test_a_wrong_word_gets_one_message_that_names_it(words, message):
    with pytest.raises(ValueError) as error:
        load(*words)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_finished_prompt_brings_its_geometry_and_pixels_that_cannot_be_learned_on_are_refused(tmp_path):
    from experiments.run.prompt_start import start_prompt
    from lightning_modules.prompts import Prompt, build_prompt

    made = build_prompt("pad", frame=32, pad=5, bounds="unbounded")
    made.init_("normal", seed=1)
    made.save(tmp_path / "pad", {})
    config = load(f"prompt.artefact={tmp_path / 'pad'}")
    assert (config.prompt.frame, config.prompt.pad, config.prompt.bounds, config.data.image_size) == (
        *(32, 5, "unbounded"),
        22,
    )
    assert load(f"prompt.artefact={tmp_path / 'pad'}", "prompt.pad=5", "prompt.kind=null").prompt.pad == 5
    for word in ("prompt.pad=8", "prompt.frame=64", "prompt.kind=overlay", "prompt.bounds=image", "prompt.init=grey"):
        with pytest.raises(ValueError, match=rf"^{word} contradicts prompt.artefact=.*, which has "):
            load(f"prompt.artefact={tmp_path / 'pad'}", word)
    assert load(f"prompt.artefact={tmp_path / 'pad'}", "prompt.init=grey", "method=none").prompt.pad == 5
    start = start_prompt(config, None)
    assert torch.equal(start.delta, Prompt.load(tmp_path / "pad").delta) and start.delta.requires_grad
    build_prompt("lowrank", frame=64, pad=8, bounds="image").save(tmp_path / "low", {})
    assert load(f"prompt.artefact={tmp_path / 'low'}", "method=none").prompt.kind == "lowrank"
    with pytest.raises(ValueError, match=r"of kind lowrank and bounds image: its file holds pixels"):
        load(f"prompt.artefact={tmp_path / 'low'}")
    with pytest.raises(FileNotFoundError):
        load(f"prompt.artefact={tmp_path / 'nothing'}")


def test_a_resolved_configuration_cannot_be_changed():
    from omegaconf.errors import ReadonlyConfigError

    with pytest.raises(ReadonlyConfigError):
        load().seed = 3


def test_a_recipe_may_name_several_sources(tmp_path, monkeypatch):
    text = (FOLDER / "smoke.yaml").read_text()
    both = "sources: [{name: embedded_minigpt4}, {name: embedded_instructblip}]"
    (tmp_path / "pair.yaml").write_text(text.replace("source: {name: embedded_minigpt4}", both))
    monkeypatch.setattr("experiments.recipes.FOLDER", tmp_path)
    config = load(exp="pair")
    assert config.source.name == "embedded_minigpt4" and len(config.sources) == 2
    assert list(config.targets.names) == ["embedded_llava"]  # a source is no target


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_recipe_saved_with_a_byte_order_mark_is_read(encoding, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes("# Mine: é\nseed: 3\n".encode(encoding))
    assert read_yaml(path).seed == 3 and first_lines(tmp_path) == {"mine": "Mine: é"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"# caf\xe9\nseed: 3\n", r"mine.yaml' line 1 is not UTF-8"),
        (b"seed: 3\nlist: [1\nother: 2\n", r"mine.yaml' line \d is not YAML"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_named_with_its_line(data, message, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_yaml(tmp_path / "mine.yaml")
