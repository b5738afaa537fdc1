"""Imports point down only (docs/extending.md), and what could run a stranger's code is not called."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "model_zoo": {"model_zoo"},
    "datamodules": {"datamodules"},
    "lightning_modules": {"lightning_modules", "model_zoo", "datamodules"},
    "experiments": {"experiments", "lightning_modules", "model_zoo", "datamodules"},
}
# The entry point that trains the embedded zoo on rendered scenes; nothing imports it.
EXCEPTIONS = {"experiments/embedded_zoo/__main__.py": {"datamodules"}}
TORCH_ONLY = {
    "lightning_modules/losses.py": {"torch"},
    "lightning_modules/optim.py": {"torch"},
    "lightning_modules/prompts.py": {"torch", "PIL", "numpy", "safetensors"},
}
FILES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))
PYTHON = [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def modules(node: ast.AST, package: str) -> list[str]:
    """The dotted names an import statement imports; relative ones belong to `package`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [package if node.level else node.module]
    return []


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Top packages a file imports: anywhere in it, or only when it is itself imported."""
    nodes = tree(path).body if top_level_only else ast.walk(tree(path))
    package = relative(path).split("/")[0]
    return {name.split(".")[0] for node in nodes for name in modules(node, package)}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """(dotted name, call) of every call in a file."""
    found = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    return [(ast.unparse(call.func), call) for call in found]


def keyword(call: ast.Call, name: str) -> object:
    values = [k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)]
    return values[0] if values else None


def where(path: Path, call: ast.Call) -> str:
    return f"{relative(path)}:{call.lineno}"


def test_there_are_files_to_check():
    assert {relative(path).split("/")[0] for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_down_only(path):
    allowed = ALLOWED[relative(path).split("/")[0]] | EXCEPTIONS.get(relative(path), set())
    assert imported(path) & set(ALLOWED) <= allowed


def test_the_named_exceptions_are_imported_by_nobody():
    names = {name[:-3].replace("/", ".") for name in EXCEPTIONS}
    for path in FILES:
        for node in ast.walk(tree(path)):
            assert not names & set(modules(node, "")), relative(path)


@pytest.mark.parametrize("name", TORCH_ONLY)
def test_the_method_itself_needs_torch_only(name):
    top = imported(ROOT / name, top_level_only=True)
    assert top - set(sys.stdlib_module_names) <= TORCH_ONLY[name]
    assert not imported(ROOT / name) & {"model_zoo", "datamodules", "experiments"}


@pytest.mark.parametrize("path", [p for p in FILES if relative(p).startswith("model_zoo")], ids=relative)
def test_models_know_nothing_of_lightning(path):
    assert not imported(path) & {"lightning", "pytorch_lightning", "lightning_fabric"}


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_nothing_can_run_code_from_a_file_or_the_hub(path):
    for name, call in calls(path):
        at = where(path, call)
        assert keyword(call, "trust_remote_code") is not True, f"{at}: trust_remote_code=True"
        assert keyword(call, "allow_pickle") is not True, f"{at}: allow_pickle=True"
        trap = path not in FILES  # a test may unpickle the bytes it has just made
        assert trap or name not in ("pickle.load", "pickle.loads"), f"{at}: use datamodules/pickles.py"
        if name == "torch.load":
            assert keyword(call, "weights_only") is True, f"{at}: torch.load without weights_only=True"
        if name.endswith(".extractall"):
            assert keyword(call, "filter") == "data", f'{at}: extractall without filter="data"'


@pytest.mark.parametrize("package", ["model_zoo", "datamodules"])
def test_importing_a_package_is_instant(package):
    heavy = ["torch", "lightning", "transformers", "open_clip", "torchvision", "numpy"]
    code = f"import sys, {package}; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
