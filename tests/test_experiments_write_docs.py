"""README and docs/ say what the code does: generated parts follow from it, and what they name exists and runs."""

from __future__ import annotations

import gzip
import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import write_docs
from experiments.recipes import list_recipes
from experiments.report.markdown import PAGE_LINE
from experiments.sweep.folder import SweepFolder
from experiments.write_docs import DOCS, ROOT, SCENE, SECTIONS, picture_samples, replace
from model_zoo.registry import list_mllms
from model_zoo.weights.catalogue import PUBLISHED

README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
PLACES = ("model_zoo", "datamodules", "lightning_modules", "experiments", "tests", "docs")
SOURCES = [path for place in PLACES for path in (ROOT / place).rglob("*") if path.suffix in (".py", ".yaml", ".md")]
SOURCES += [README, ROOT / "CHANGELOG.md", ROOT / "Makefile", ROOT / "pyproject.toml"]
SLOW = ("docs/models.md",)  # memory of every model is measured
GENERATED = [pytest.param(*key, id="-".join(key), marks=[pytest.mark.slow] * (key[0] in SLOW)) for key in SECTIONS]


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a page: lower case, punctuation dropped, spaces as dashes."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.S)


# ---- generated parts -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "mark"), GENERATED)
def test_generated_parts_are_up_to_date(name: str, mark: str) -> None:
    text = (ROOT / name).read_text()
    assert replace(text, mark, SECTIONS[name, mark]()) == text, "run: python -m experiments.write_docs"


def test_a_missing_mark_is_named() -> None:
    with pytest.raises(ValueError, match="<!-- weights -->"):
        replace("nothing", "weights", "")


def test_the_scene_is_the_first_test_sample() -> None:
    (_, scene), *_ = picture_samples()
    with Image.open(SCENE) as kept:
        assert (np.asarray(kept) == np.asarray(scene)).all()


# ---- what pages name -------------------------------------------------------------------------------------------------
def test_readme_is_one_screen() -> None:
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_exists(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= targets
    for module in set(re.findall(r"python -m ([\w.]+)", text)) - {"pip"}:
        spec = find_spec(module)
        assert spec, module
        assert spec.submodule_search_locations is None or find_spec(f"{module}.__main__"), f"{module} cannot be run"
    scripts = re.findall(r"python ([\w/]+\.py)", text)
    assert all((ROOT / script).is_file() for script in scripts), scripts


def test_every_recipe_and_sweep_a_page_names_exists() -> None:
    text = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"(?:EXP|\bexp)=(\w+)", text)) - {"cifar10_NAME"}
    assert named and named <= set(list_recipes())
    sweeps = {path.stem for path in (ROOT / "experiments" / "sweeps").glob("*.yaml")}
    assert set(re.findall(r"sweep=([a-z_]+)", text)) <= sweeps


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([\w./-]*)(?:#([\w-]+))?\)", page.read_text()):
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_every_page_named_in_the_code_exists() -> None:
    for path in SOURCES:
        text = path.read_text()
        for page, anchor in re.findall(r"\bdocs/([\w-]+\.md)(?:#([\w-]+))?", text):
            assert (DOCS / page).is_file(), f"{page_id(path)}: {page}"
            assert not anchor or anchor in anchors(DOCS / page), f"{page_id(path)}: {page}#{anchor}"
        for section in re.findall(r'README, \\?"([A-Z][^"\\]+)\\?"', text):
            assert re.search(rf"^## {section}$", README.read_text(), re.M), f"{page_id(path)}: {section}"


def test_nothing_points_at_files_outside_the_repository() -> None:
    outside = ("METHOD" + ".md", "HOUSE" + ".md")
    assert not [page_id(path) for path in SOURCES if any(name in path.read_text() for name in outside)]


def test_every_published_model_has_a_recipe_and_is_registered() -> None:
    assert {f"cifar10_{name}" for name in PUBLISHED} <= set(list_recipes())
    assert set(PUBLISHED) <= set(list_mllms())


# ---- what pages show -------------------------------------------------------------------------------------------------
def test_readme_puts_the_prompt_on_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").symlink_to(DOCS)
    monkeypatch.chdir(tmp_path)
    (block,) = python_blocks(README)
    exec(block, {})
    with Image.open("prompted.png") as prompted:
        assert prompted.size == (64, 64)


@pytest.mark.parametrize("block", python_blocks(DOCS / "python_api.md"))
def test_the_python_api_runs_as_written(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(block, {})


# ---- results that are kept -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "page"), [("fashion", True), ("other", False)])
def test_a_sweep_is_kept_without_what_its_tables_repeat(tmp_path, monkeypatch, name: str, page: bool) -> None:
    monkeypatch.setattr(write_docs, "RESULTS", tmp_path / "results")
    out = SweepFolder(tmp_path / "out", create=name).path
    cell = {"source": "a", "data": "d", "target": "t", "inputs": {"full": 1}, "gains": {"full": 2}}
    (out / "statistics.json").write_text(json.dumps({"missing": [], "cells": [cell, cell | {"source": "b"}]}))
    for file, text in (("matrix.csv", "source\n"), ("report.html", "<p>"), ("report.md", f"# A\n\n{PAGE_LINE}\n\nB\n")):
        (out / file).write_text(text)
    write_docs.keep(out)
    folder = tmp_path / "results" / f"sweep_{name}"
    opened = {".gz": gzip.decompress}
    kept = {path.name: opened.get(path.suffix, bytes)(path.read_bytes()).decode() for path in folder.iterdir()}
    assert set(kept) == {"matrix.csv.gz", "statistics.json.gz", "report.md", *(["report.html"] * page)}
    first = {"source": "a", "data": "d", "target": "t", "inputs": {"full": 1}}  # a model's plain scores, told once
    assert json.loads(kept["statistics.json.gz"])["cells"] == [first, {"source": "b", "data": "d", "target": "t"}]
    assert (PAGE_LINE in kept["report.md"]) == page and kept["report.md"].endswith("B\n")
    (out / "statistics.json").write_text(json.dumps({"missing": [cell], "cells": []}))
    with pytest.raises(ValueError, match=r"1 cells of .* have no result. Finish the sweep first"):
        write_docs.keep(out)
