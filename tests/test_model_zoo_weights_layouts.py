"""Which layout is used: converted, original, hub, in that order, each only when complete, never mixed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.golden import load_golden
from support.hub_form import write_hub_form

from model_zoo.registry import missing_files, require_files, weight_files
from model_zoo.weights.catalogue import PUBLISHED
from model_zoo.weights.convert import convert
from model_zoo.weights.layouts import find_layout

NAME, HUB = "blip2", PUBLISHED["blip2"].hub
LLM = PUBLISHED["blip2"].llm.path


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights root that holds all three layouts of one model."""
    golden, root = load_golden("blip2_t5"), tmp_path_factory.mktemp("all") / "weights"
    shutil.copytree(golden.folder / "weights", root, copy_function=shutil.copyfile)
    write_hub_form(golden.model, root / HUB, {"tokenizer": root / LLM})
    convert(NAME, golden.folder / "weights", root / NAME)
    return root


@pytest.fixture
def root(full: Path, tmp_path: Path) -> Path:
    shutil.copytree(full, tmp_path / "weights")
    return tmp_path / "weights"


def drop_one(folder: Path, pattern: str) -> str:
    """Delete the first matching file; its name."""
    path = sorted(folder.glob(pattern))[0]
    path.unlink()
    return path.name


def test_the_first_complete_layout_is_used(root: Path) -> None:
    assert find_layout(NAME, root).kind == "converted"
    drop_one(root / NAME, "*.safetensors")
    assert find_layout(NAME, root).kind == "original"
    drop_one(root / LLM, "*.bin")
    assert find_layout(NAME, root).kind == "hub"


def test_files_of_one_layout_only_are_named_and_fingerprinted(root: Path) -> None:
    for folder, pattern in ((root / NAME, "*.safetensors"), (root / LLM, "*.bin"), (root / HUB, "none")):
        layout = find_layout(NAME, root)
        assert weight_files(NAME, root) == list(layout.files)
        folders = {path.parent for path in layout.files}
        assert layout.kind == "original" or folders == {layout.folder}
        assert layout.kind != "original" or not folders & {root / NAME, root / HUB}
        if pattern != "none":
            drop_one(folder, pattern)


def test_without_a_complete_layout_all_missing_files_and_the_alternative_are_named(root: Path) -> None:
    shutil.rmtree(root / NAME)
    shard, other = drop_one(root / LLM, "*.bin"), drop_one(root / HUB, "*.safetensors")
    lines = missing_files(NAME, root)
    assert len(lines) == 2 and lines[0].startswith(f"{LLM}/{shard}: ")
    assert lines[1].startswith(f"{HUB}/: INSTEAD of all of the above") and other in lines[1]
    with pytest.raises(FileNotFoundError, match=r"(?s)No complete blip2 weights in .*INSTEAD of all of the above"):
        require_files(NAME, root)


def test_an_empty_root_names_every_original_file_and_the_hub_folder(tmp_path: Path) -> None:
    lines = missing_files(NAME, tmp_path)
    assert len(lines) == len(PUBLISHED[NAME].files) + 1 and lines[-1].endswith(f"Published: {HUB} (hub)")
    assert len(missing_files("minigpt4", tmp_path)) == len(PUBLISHED["minigpt4"].files)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_hub_folder_needs_its_config_and_a_tokenizer(root: Path, file: str) -> None:
    shutil.rmtree(root / NAME)
    shutil.rmtree(root / LLM)
    for path in (file, "spiece.model") if file == "tokenizer.json" else (file,):
        (root / HUB / path).unlink()
    assert file in missing_files(NAME, root)[-1]
