"""`python -m model_zoo`: lists without loading, checks without reading weights, and never shows a traceback."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.golden import golden_root

import model_zoo.__main__ as program
from model_zoo.__main__ import main
from model_zoo.memory.sizes import PUBLISHED_SIZES
from model_zoo.registry import REGISTRY
from model_zoo.weights.catalogue import PUBLISHED

ROOT = Path(__file__).resolve().parents[1]


def folders() -> list[Path]:
    root = golden_root()
    found = sorted(path for path in root.iterdir() if (path / "weights").is_dir()) if root else []
    return [path for path in found if path.name in (*REGISTRY, "blip2_t5")]


def test_help_is_instant_and_loads_no_torch() -> None:
    code = "import sys, model_zoo.__main__ as m; m.main(['--help']); print('torch' in sys.modules)"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m model_zoo list") and done.stdout.endswith("False\n")
    assert time.perf_counter() - begin < 5  # a second on an idle machine


def test_list_names_every_model(capsys: pytest.CaptureFixture) -> None:
    assert main(["list", "weights=nowhere"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in REGISTRY)


LISTED = [name for name in REGISTRY if name in PUBLISHED]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("minigpt4", "blip2"))) for name in LISTED]
)
def test_list_of_one_model_says_what_is_missing_and_where_it_is_published(name, tmp_path, capsys) -> None:
    assert main(["list", name, f"weights={tmp_path}", "batch=4"]) == 0
    shown = capsys.readouterr().out
    for item in PUBLISHED[name].files:
        assert f"MISSING            {item.path}" in shown and item.source in shown and item.licence in shown
    assert "gradients at batch 4" in shown and "float32" in shown and "4bit" in shown and "~" in shown


def test_a_folder_of_another_model_does_not_stop_the_list(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mllm.json").write_text('{"name": "bliva", "format": 1}')
    assert main(["list", f"weights={tmp_path}"]) == 0
    assert "unusable" in capsys.readouterr().out


def test_a_converted_folder_is_listed_and_checked_as_such(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = golden_root() / "minigpt4" / "weights"
    assert main(["convert", "minigpt4", f"weights={weights}", f"to={tmp_path / 'one'}"]) == 0
    assert main(["check", "minigpt4", f"weights={tmp_path / 'one'}"]) == 0
    assert main(["list", "minigpt4", f"weights={tmp_path / 'one'}"]) == 0
    shown = capsys.readouterr().out
    assert "the converted layout; it is loaded instead" in shown and "there in the converted layout" in shown


def test_every_published_model_has_sizes() -> None:
    assert set(PUBLISHED_SIZES) == set(PUBLISHED)


@pytest.mark.parametrize("folder", folders(), ids=lambda path: path.name)
def test_check_finds_nothing_wrong_with_the_original_layout(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check", folder.name, f"weights={folder / 'weights'}"]) == 0
    shown = capsys.readouterr().out
    assert "all present" in shown and "complete" in shown.splitlines()[-1]
    assert {line.split()[0] for line in shown.splitlines()[:-2] if line[:1].strip()} <= {"ok", "note"}


def test_check_of_an_embedded_model_passes(capsys: pytest.CaptureFixture) -> None:
    assert main(["check", "embedded_minigpt4"]) == 0
    assert "complete" in capsys.readouterr().out


def test_check_lists_every_missing_file_and_returns_1(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check", "bliva", f"weights={tmp_path}"]) == 1
    shown = capsys.readouterr().out
    assert all(f"MISSING  {item.path}" in shown for item in PUBLISHED["bliva"].files)
    assert "cannot be loaded" in shown.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chek", "blip2"], "Unknown command 'chek'. Did you mean 'check'?"),
        (["check", "minigpt-4"], "Unknown MLLM 'minigpt-4'. Did you mean 'minigpt4'?"),
        (["check"], "Expected one NAME after 'check', got none"),
        (["check", "blip2", "weight=x"], "Unknown key 'weight'. Did you mean 'weights'?"),
        (["list", "batch=many"], "Expected a number of images for batch, got 'many'"),
        (["convert", "blip2"], "Missing to=DIR"),
        (["convert", "embedded_blip2", "to=x"], "nothing to convert"),
        (["check", "--fast"], "Unknown key '--fast'"),
        (["check", "blip2", "weights="], "Nothing after 'weights='. Expected a value"),
    ],
)
def test_a_wrong_command_line_is_one_message_and_exit_code_2(words, message, capsys) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_is_one_word_and_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "_dispatch", interrupt)
    assert main(["check", "blip2"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
