"""Imports point down only and never in a circle, and what could run a stranger's code is not called."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES_ROOM = "datamodules.whole_files"
"""Writing and downloading files: it imports nothing of ours but itself, so that every package may stand on it."""
ALLOWED = {
    "model_zoo": {"model_zoo", FILES_ROOM},
    "datamodules": {"datamodules", FILES_ROOM},
    "lightning_modules": {"lightning_modules", "model_zoo", "datamodules", FILES_ROOM},
    "experiments": {"experiments", "lightning_modules", "model_zoo", "datamodules", FILES_ROOM},
}
# Inside experiments/, from top to bottom: every import goes from an earlier line to a later one, or stays in its room.
FLOORS = (
    *("write_docs", "train", "evaluate", "transfer_sweep", "tune", "chaos", "apply", "ask", "import_prompt"),
    *("dashboards", "headroom", "cost", "why", "__main__", "costing", "bench", "embedded_zoo", "report", "statistics"),
    *("tuning", "sweep", "run", "tracking"),
    *("recipes", "schema", "cli", "kept"),
)
TORCH_ONLY = {
    "lightning_modules/losses.py": {"torch"},
    "lightning_modules/optim.py": {"torch"},
    "lightning_modules/prompts.py": {"torch", "lightning_modules"},
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
    names = {name for node in nodes for name in modules(node, package)}
    return {FILES_ROOM if name.startswith(FILES_ROOM) else name.split(".")[0] for name in names}


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
    assert imported(path) & {*ALLOWED, FILES_ROOM} <= ALLOWED[relative(path).split("/")[0]]


def dotted(path: Path) -> str:
    return relative(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def arrows() -> dict[str, set[str]]:
    """Our modules that each of our modules imports anywhere: at the top, in functions, for types only."""
    names = {dotted(path) for path in FILES}
    found: dict[str, set[str]] = {}
    for path in FILES:
        ends = set()
        for node in (node for node in ast.walk(tree(path)) if isinstance(node, ast.Import | ast.ImportFrom)):
            for module in modules(node, relative(path).split("/")[0]):
                inner = {f"{module}.{alias.name}" for alias in node.names}
                ends |= (inner & names) or ({module} & names)
        found[dotted(path)] = ends - {dotted(path)}
    return found


def circle(found: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a round, the first one again at the end; empty where there is no round."""
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        rounds = [] if name in done else [r for end in sorted(found[name]) if (r := walk(end, (*trail, name)))]
        done.add(name)
        return rounds[0] if rounds else []

    return next((r for name in sorted(found) if (r := walk(name, ()))), [])


def test_no_two_files_import_each_other():
    assert circle(arrows()) == []


def test_a_circle_is_found_however_long_it_is():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


def test_no_arrow_runs_up_inside_experiments():
    floors = {name: i for i, name in enumerate(FLOORS)}
    for start, ends in arrows().items():
        rooms = {end.split(".")[1] for end in ends if end.startswith("experiments.")} - {start.split(".")[-1]}
        if start.startswith("experiments.") and rooms:
            room = start.split(".")[1]
            up = {other for other in rooms - {room} if floors[other] <= floors[room]}
            assert not up, f"{start} imports {', '.join(sorted(up))} from a floor above"


def test_the_floors_are_all_of_experiments():
    there = {
        path.relative_to(ROOT / "experiments").parts[0].removesuffix(".py")
        for path in (ROOT / "experiments").rglob("*.py")
    }
    assert there - {"__init__"} == set(FLOORS)


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
