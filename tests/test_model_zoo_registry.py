"""The registry: names, suggestions, lazy imports; fingerprints of weight files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import model_zoo
from model_zoo.registry import REGISTRY, get_entry, list_mllms, load_mllm, model_fingerprint
from model_zoo.weights.fingerprint import cache_file, fingerprint


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"Unknown MLLM 'minigpt-4'\. Did you mean 'minigpt4'\? Available: "):
        load_mllm("minigpt-4")
    with pytest.raises(ValueError, match=r"Unknown MLLM 'xyz'\. Available: "):
        get_entry("xyz")


def test_the_fingerprint_depends_on_content_not_on_sharding(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.bfloat16), "c": torch.tensor(1.0)}
    torch.save(tensors, tmp_path / "whole.bin")
    for name, value in tensors.items():
        torch.save({name: value}, tmp_path / f"{name}.bin")
    whole = fingerprint([tmp_path / "whole.bin"])
    assert whole == fingerprint([tmp_path / f"{name}.bin" for name in "cab"])
    torch.save(tensors | {"a": torch.arange(4.0) + 1}, tmp_path / "whole.bin")
    assert fingerprint([tmp_path / "whole.bin"]) != whole


def test_the_fingerprint_is_cached_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.bin"
    torch.save({"a": torch.zeros(1)}, path)
    first = fingerprint([path])
    assert cache_file().is_file()
    monkeypatch.setattr("model_zoo.weights.fingerprint.tensor_lines", lambda path: pytest.fail("read again"))
    assert fingerprint([path]) == first


def test_a_model_without_files_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No complete minigpt4 weights"):
        model_fingerprint("minigpt4", tmp_path)


def test_every_entry_is_well_formed() -> None:
    for name in list_mllms():
        entry = REGISTRY[name]
        assert name == name.lower() and "-" not in name
        assert entry.factory.count(":") == 1 and entry.description and entry.parameters > 0
        assert [entry.embedded, entry.hf, bool(entry.files)].count(True) == 1


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, model_zoo, model_zoo.registry; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert issubclass(model_zoo.MLLM, torch.nn.Module)
