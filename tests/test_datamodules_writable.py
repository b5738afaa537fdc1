"""A folder that cannot be written is found before anything is loaded, and the message says which setting chooses it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.vqa_files import picture

import datamodules.writable as writable
from datamodules import load_datamodule
from datamodules.__main__ import main as prepare_main
from datamodules.prepare.catalogue import PUBLISHED
from datamodules.writable import note_unwritable_caches, require_writable, write_problem
from experiments import apply, evaluate, headroom, import_prompt, train, transfer_sweep, tune
from experiments.report import __main__ as report
from lightning_modules.controls import Control, ControlStore
from lightning_modules.feature_cache import FeatureCache
from lightning_modules.metrics import Scores
from lightning_modules.prompts import build_prompt
from model_zoo.__main__ import main as zoo_main
from model_zoo.registry import REGISTRY


@pytest.fixture
def read_only(monkeypatch):
    """read_only(folder): that folder and all below it are read-only, for root too."""
    folders: list[Path] = []
    access = os.access

    def ask(path, mode, **kwargs):
        below = any(Path(path).resolve().is_relative_to(folder) for folder in folders)
        return not (below and mode & os.W_OK) and access(path, mode, **kwargs)

    monkeypatch.setattr(os, "access", ask)
    return lambda folder: folders.append(Path(folder).resolve())


def test_a_folder_that_can_be_made_is_no_problem_and_nothing_is_left(tmp_path):
    assert write_problem(tmp_path / "a" / "b") is None and write_problem(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["", "new", "new/deeper"])
def test_a_read_only_folder_is_named_with_its_setting(folder, tmp_path, read_only):
    read_only(tmp_path)
    with pytest.raises(PermissionError) as caught:
        require_writable(tmp_path / folder, "the run folder", "out=DIR")
    said = str(caught.value)
    assert f"Cannot write the run folder '{tmp_path / folder}': '{tmp_path}' is read-only for this user" in said
    assert "Choose another out=DIR, or make this one writable" in said


def test_a_file_where_a_folder_should_be_and_a_full_disk_are_said_as_such(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"'.*file' is no folder"):
        require_writable(tmp_path / "file" / "run", "the run folder", "out=DIR")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"'.*link' is no folder"):
        require_writable(tmp_path / "link", "the run folder", "out=DIR")

    def full(**kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        require_writable(tmp_path, "the run folder", "out=DIR")
    assert caught.value.errno == errno.ENOSPC


def test_a_folder_inside_a_run_that_goes_on_is_tried_too(tmp_path, read_only):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    read_only(tmp_path / "run" / "checkpoints")
    require_writable(tmp_path / "run", "the run folder", "out=DIR")
    with pytest.raises(OSError, match=r"Cannot write the run folder '.*checkpoints'"):
        require_writable(tmp_path / "run", "the run folder", "resume=DIR", inside=True)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_permissions_of_the_system_count(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert write_problem(tmp_path) is not None
    finally:
        tmp_path.chmod(0o700)


# ---- the cache, which nothing needs ---------------------------------------------------------------------------------
@pytest.fixture
def dead_cache(tmp_path, monkeypatch) -> Path:
    """TVP_CACHE is a file: nothing below it can be made, by root neither."""
    cache = tmp_path / "cache"
    cache.write_text("not a folder")
    monkeypatch.setenv("TVP_CACHE", str(cache))
    monkeypatch.setattr(writable, "_said", set())
    return cache


def test_an_unwritable_cache_is_said_once_with_its_folder_and_setting(dead_cache, capsys):
    note_unwritable_caches(("controls", "decoded"))
    note_unwritable_caches(("controls",))
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"The cache folder '{dead_cache}' cannot be written" in said
    assert "scores of controls, decoded pictures are not kept" in said
    assert "The run goes on; TVP_CACHE=DIR chooses another folder" in said


def test_a_store_of_controls_that_cannot_be_written_is_no_reason_to_stop(dead_cache, capsys):
    store, control = ControlStore(dead_cache / "controls"), Control("black", 10, 2)
    scores = Scores(["a"], np.zeros(1, np.int64), np.zeros((1, 2), np.float32), [""])
    for _ in range(2):
        store.save(scores, control, model="m")
    assert store.load(control, model="m") is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "scores of controls are not kept" in said


def test_features_that_cannot_be_kept_are_no_reason_to_stop(dead_cache, capsys):
    cache, tokens = FeatureCache(dead_cache / "features"), torch.ones(1, 2, 3)
    assert torch.equal(cache.put(["ab"], tokens), tokens) and cache.get(["ab"]) == {}
    assert capsys.readouterr().out.count("\n") == 1


def pictures(root: Path) -> dict:
    for k, name in enumerate(("cat", "dog")):
        for split in ("train", "test"):
            for i in range(3):
                picture(root / split / name / f"{split}{k}{i}.png", size=(30, 30))
    return {"root": str(root), "image_size": 20}


def test_decoded_pictures_that_cannot_be_kept_are_decoded_each_time(dead_cache, tmp_path, capsys):
    kwargs = pictures(tmp_path / "data")
    cached, plain = (load_datamodule("imagefolder", cache=flag, **kwargs) for flag in (True, False))
    for one, two in zip(cached.loader("test"), plain.loader("test"), strict=True):
        assert torch.equal(one.images, two.images)
    assert "decoded pictures are not kept" in capsys.readouterr().out


def test_decoded_pictures_of_others_are_read_where_they_may_not_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(writable, "_said", set())
    kwargs = pictures(tmp_path / "data")
    first = next(iter(load_datamodule("imagefolder", cache=True, **kwargs).loader("test"))).images
    opened = os.open

    def only_to_read(path, flags, *args, **kwargs):
        if str(path).endswith(".u8") and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", only_to_read)
    data = load_datamodule("imagefolder", cache=True, **kwargs)
    monkeypatch.setattr(data, "load_image", lambda *args: pytest.fail("decoded again"))
    data._before_workers("test")
    assert torch.equal(torch.stack([data.image("test", i) for i in data.subset_positions("test", None)]), first)


# ---- every command --------------------------------------------------------------------------------------------------
def words_of(command: str, tmp_path: Path) -> tuple:
    """(main, its words, the setting) of a command whose output folder is tmp_path/closed/x."""
    out = tmp_path / "closed" / "x"
    prompt = tmp_path / "prompt"
    if command in ("apply", "evaluate"):
        build_prompt("pad", frame=20, pad=4, bounds="image").save(prompt, {"data": "emoji_recognition"})
        picture(tmp_path / "photo.png")
    commands = {
        "headroom": (headroom.main, ["data=emoji_recognition", "mllm=embedded_blip2", f"out={out}"], "out=DIR"),
        "train": (train.main, ["exp=smoke", f"out={out}"], "out=DIR"),
        "evaluate": (evaluate.main, [f"prompt={prompt}", "mllm=embedded_blip2", f"out={out}"], "out=DIR"),
        "apply": (apply.main, [f"prompt={prompt}", f"images={tmp_path / 'photo.png'}", f"out={out}"], "out=DIR"),
        "import_prompt": (import_prompt.main, [f"from={tmp_path / 'x.pth'}", f"out={out}"], "out=DIR"),
        "tune": (tune.main, [f"out={out}"], "out=DIR"),
        "transfer_sweep": (transfer_sweep.main, ["run", f"out={out}"], "out=DIR"),
        "report": (report.main, [str(tmp_path / "closed")], "DIR"),
    }
    return commands[command]


@pytest.mark.parametrize(
    "command", ["headroom", "train", "evaluate", "apply", "import_prompt", "tune", "transfer_sweep", "report"]
)
def test_every_command_tries_its_output_before_it_loads_anything(command, tmp_path, read_only, monkeypatch):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    main, words, setting = words_of(command, tmp_path)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "sweep.json").write_text("{}")
    read_only(tmp_path / "closed")
    for loader in ("model_zoo.registry.load_mllm", "lightning_modules.evaluation.ModelSpec.load"):
        monkeypatch.setattr(loader, lambda *args, **kwargs: pytest.fail("a model was loaded"))
    with pytest.raises(OSError, match="is read-only for this user") as caught:
        main(words)
    assert f"'{tmp_path / 'closed'}" in str(caught.value) and setting in str(caught.value)
    assert [path.name for path in (tmp_path / "closed").iterdir()] == ["sweep.json"]


def test_a_read_only_working_folder_is_named_before_a_run_is_prepared(tmp_path, read_only, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TVP_CACHE", raising=False)
    read_only(tmp_path)
    with pytest.raises(OSError, match=r"Cannot write the run folder 'runs.smoke': '\.' is read-only"):
        train.main(["exp=smoke"])
    assert list(tmp_path.iterdir()) == []


def test_prepare_tries_the_root_before_it_fetches(tmp_path, read_only, capsys, monkeypatch):
    monkeypatch.setattr("datamodules.prepare.steps.download", lambda *a, **k: pytest.fail("something was fetched"))
    read_only(tmp_path)
    assert prepare_main(["prepare", sorted(PUBLISHED)[0], f"root={tmp_path / 'data'}"]) == 2
    said = capsys.readouterr().err
    assert f"Cannot write the folder of the data sets '{tmp_path / 'data'}'" in said and "root=DIR" in said


def test_convert_tries_its_output_before_it_reads_weights(tmp_path, read_only, capsys):
    name = next(name for name, entry in REGISTRY.items() if not entry.embedded)
    read_only(tmp_path)
    assert zoo_main(["convert", name, f"weights={tmp_path}", f"to={tmp_path / 'new' / 'x'}"]) == 2
    said = capsys.readouterr().err
    assert f"Cannot write '{tmp_path}/new/x': '{tmp_path}' is read-only" in said and "to=DIR" in said
