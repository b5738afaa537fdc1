"""Options are typed once: what a field says is what is parsed, what is the default, and what --help shows."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from experiments import __main__ as commands
from experiments import train
from experiments.cli import help_text, list_options, parse_options
from experiments.schema import GROUPS, Experiment

ROOT = Path(__file__).parents[1]
OURS = [name for name in commands.COMMANDS if name.startswith("experiments.")]


@dataclass
class Toy:
    """
    python -m toy from=FILE [key=value ...]

    A paragraph that is
    filled anew.
    """

    from_: Path
    """the first"""
    text: str = "a"
    """any word, with a meaning that is so long that it does not fit beside its name, type and default in one line"""
    number: int = 3
    """a count"""
    rate: float = 0.5
    """a rate"""
    share: int | float | None = None
    """a number of rows, or a fraction"""
    loud: bool = False
    """or not"""
    fit: Literal["crop", "letterbox"] = "crop"
    """how"""
    names: tuple[str, ...] = ("x", "y")
    """several"""
    folder: Path | None = None
    """where"""


def parse(*words, **kwargs):
    return parse_options(Toy, ["from=f", *words], **kwargs)


# ---- parsing ---------------------------------------------------------------------------------------------------------
def test_defaults_are_those_of_the_fields():
    assert parse() == Toy(Path("f"))


@pytest.mark.parametrize("word", ["2024_11_25", "007", "12:30:45", "1e3", "off", "null", "a=b", "", "~"])
def test_text_is_taken_as_it_stands(word):
    assert parse(f"text={word}").text == word


def test_every_type_is_read_as_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    got = parse("number=1_0", "rate=1e-3", "loud=True", "fit=letterbox", "names=a,,b", "folder=~/x")
    assert (got.number, got.rate, got.loud, got.fit, got.names) == (10, 0.001, True, "letterbox", ("a", "b"))
    assert got.folder == tmp_path / "x"
    assert parse("folder=", "share=").folder is None and parse("names=").names == ()
    for word, value in (("3", 3), ("3.0", 3), ("0.25", 0.25)):
        assert parse(f"share={word}").share == value and type(parse(f"share={word}").share) is type(value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["txt=1"],
            "Unknown key 'txt'. Did you mean 'text'? Available: from, text, number, rate, share, loud, fit, names, ",
        ),
        (["number=1.5"], "Expected number=N, a whole number, got number=1.5."),
        (["rate=fast"], "Expected a number for rate, got 'fast'."),
        (["loud=maybe"], "Expected loud=true or loud=false, got 'maybe'."),
        (["fit=crp"], "Unknown fit 'crp'. Did you mean 'crop'? Available: crop, letterbox."),
        (["--fast"], "Unknown option '--fast'."),
        (["loud"], "Expected key=value, got 'loud'. For example: seed=3. See --help."),
    ],
)
def test_a_wrong_word_is_answered_with_what_was_expected(words, message):
    with pytest.raises(ValueError) as error:
        parse(*words)
    assert str(error.value).startswith(message)


def test_what_must_be_given_is_asked_for():
    with pytest.raises(ValueError, match=r"^Missing from=\.\.\.\. See --help\.$"):
        parse_options(Toy, [])


def test_one_word_may_stand_alone_and_foreign_pairs_may_go_elsewhere():
    others = []
    assert parse_options(Toy, ["f", "seed=3", "fit=crop", "a.b=c=d"], bare="from", others=others) == Toy(Path("f"))
    assert others == [("seed", "3"), ("a.b", "c=d")]
    with pytest.raises(ValueError, match="Expected one from, got 'g' beside 'f'"):
        parse_options(Toy, ["f", "g"], bare="from")


# ---- help ------------------------------------------------------------------------------------------------------------
def test_help_fits_the_terminal_up_to_100_columns(monkeypatch):
    for columns, most in (("70", 70), ("100", 100), ("300", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        lines = help_text(Toy).splitlines()
        assert max(map(len, lines)) <= most
        assert lines[:3] == ["python -m toy from=FILE [key=value ...]", "", "A paragraph that is filled anew."]
        assert "  from    path            required  the first" in lines
    assert "  fit     crop or         crop      how" in lines and "          letterbox" in lines
    assert "  names   list of text    x, y      several" in lines


def shown_rows(text: str) -> dict[str, tuple[str, str, str]]:
    """Key -> (type, default, meaning) as the table of a help text shows them, its columns found by its header."""
    lines = text.splitlines()
    (header,) = [line for line in lines if line.split() == ["key", "type", "default", "meaning"]]
    starts = [header.index(word) for word in ("key", "type", "default", "meaning")]
    rows, key = {}, ""
    for line in lines[lines.index(header) + 1 :]:
        if line.startswith("  "):
            cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
            key = cells[0] or key
            rows.setdefault(key, []).append(cells[1:])
    return {
        key: tuple(" ".join(filter(None, column)) for column in zip(*cells, strict=True)) for key, cells in rows.items()
    }


def help_of(name: str, capsys) -> str:
    module = importlib.import_module(name + ".__main__" * (ROOT / name.replace(".", "/")).is_dir())
    assert not module.main(["--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", OURS)
def test_every_option_is_in_the_help_with_its_type_default_and_meaning(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = help_of(name, capsys)
    module = importlib.import_module(name)
    if name in ("experiments.bench", "experiments.embedded_zoo", "experiments.report", "experiments.why"):
        module = importlib.import_module(f"{name}.__main__")
    kind = Experiment if module is train else module.Options
    rows = shown_rows(text)
    assert list(rows) == [option.key for option in list_options(kind)]
    for option in list_options(kind):
        assert all(option.columns), f"{option.key} has no docstring below it"
        assert rows[option.key] == option.columns[1:]
    assert f"python -m {name} " in text and max(map(len, text.splitlines())) <= 110


def test_the_help_of_train_names_every_key_of_the_schema():
    keys = {option.key: option for option in list_options(Experiment)}
    assert {key.split(".")[0] for key in keys if "." in key} == set(GROUPS)
    assert {"data.image_size", "data.max_corrupt", "data.half", "data.task", "sources", "exp"} <= set(keys)
    assert keys["data.n_train"].columns[1:3] == ("int or float", "-")
    assert keys["method.schedule"].columns[1:3] == ("cosine_epoch, cosine_step or constant", "-")


# ---- python -m experiments -------------------------------------------------------------------------------------------
def test_every_command_is_listed_with_one_line(capsys):
    files = [path for path in (ROOT / "experiments").rglob("*.py") if "\n    run_command(main)" in path.read_text()]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for path in files}
    assert names - {"experiments"} == set(OURS) and len(names) > 10
    commands.main([])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[2] for line in lines] == list(commands.COMMANDS)
    assert all(len(line.split()) > 5 for line in lines) and max(map(len, lines)) <= 110


def loaded_by(*words: str) -> set[str]:
    """Top modules in memory after `python -m words`."""
    code = (
        f"import sys, runpy; sys.argv = {list(words)!r}\n"
        "try: runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(); print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["experiments"], *([name, "--help"] for name in OURS)], ids=" ".join)
def test_help_and_the_list_are_instant(words):
    assert not loaded_by(*words) & {"torch", "torchvision", "lightning", "transformers", "open_clip", "wandb", "ray"}


def test_every_command_asks_for_huge_pages_and_threads_that_sleep_before_torch_and_numbers_stay_the_same():
    code = (
        "import {first}, torch, torch.nn.functional as F; torch.set_num_threads(1); torch.manual_seed(0); "
        "x = F.conv2d(torch.randn(4, 3, 256, 256), torch.randn(8, 3, 3, 3)); print(x.double().sum().item().hex())"
    )
    ours_alone = ("THP_MEM_ALLOC_ENABLE", "OMP_WAIT_POLICY")
    env = {key: value for key, value in os.environ.items() if key not in ours_alone}
    plain, ours = (
        subprocess.run([sys.executable, "-c", code.format(first=first)], env=env, capture_output=True, text=True).stdout
        for first in ("os", "experiments")
    )
    assert plain == ours != ""
    told = f"import os, sys, experiments; print(*map(os.environ.get, {ours_alone}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "PASSIVE", "False"]
