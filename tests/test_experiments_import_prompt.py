"""The authors' released checkpoint becomes an artefact; whatever else it holds is refused, never run."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

from experiments import import_prompt
from lightning_modules.artefact import read_manifest
from lightning_modules.prompts import Prompt, build_prompt


def perturbation(frame: int = 224, pad: int = 30) -> torch.Tensor:
    prompt = build_prompt("pad", frame=frame, pad=pad, bounds="unbounded")
    prompt.init_("normal", seed=4)
    return prompt.delta.detach().clone()


def imported(tmp_path: Path, content: object, *more: str, **save) -> Path:
    torch.save(content, tmp_path / "checkpoint_best.pth", **save)
    arguments = [f"from={tmp_path / 'checkpoint_best.pth'}", f"out={tmp_path / 'out'}", *more]
    assert import_prompt.main(arguments) == 0
    return tmp_path / "out"


@pytest.mark.parametrize("zipped", [True, False])
def test_import_keeps_every_value_and_states_the_clamped_fraction(tmp_path, capsys, zipped):
    delta = perturbation()
    content = {"perturbation": torch.nn.Parameter(delta), "epoch": 3}
    folder = imported(tmp_path, content, "source=minigpt4", _use_new_zipfile_serialization=zipped)
    prompt, manifest = Prompt.load(folder), read_manifest(folder)
    assert torch.equal(prompt.delta, delta) and (prompt.frame, prompt.pad, prompt.bounds) == (224, 30, "unbounded")
    outside = ((delta < 0) | (delta > 1)).float().sum().item() / 69_840
    assert manifest["png_clamped_fraction"] == pytest.approx(outside) and manifest["source"] == "minigpt4"
    assert manifest["imported_from"]["file"] == "checkpoint_best.pth" and str(tmp_path) not in json.dumps(manifest)
    assert f"{outside:.1%} of the border lies outside [0, 1]" in capsys.readouterr().out


def test_import_rounds_a_nearly_zero_inside_and_refuses_a_wrong_pad(tmp_path):
    delta = perturbation(32, 4)
    folder = imported(tmp_path, {"perturbation": delta + 1e-8 * (delta == 0)}, "pad=4")
    assert torch.equal(Prompt.load(folder).delta, delta)
    with pytest.raises(ValueError, match=r"lie inside a border of 3 px. Expected zeros there. This prompt fits pad=4"):
        imported(tmp_path, {"perturbation": delta}, "pad=3")
    with pytest.raises(ValueError, match=r"No border width fits"):
        imported(tmp_path, {"perturbation": torch.ones(3, 32, 32)}, "pad=4")


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path, zipped):
    mark = tmp_path / "executed"
    with pytest.raises(ValueError, match=r"was refused: it asks for '.*nothing in it was run") as caught:
        imported(
            tmp_path,
            {"perturbation": perturbation(), "x": Malicious(mark)},
            _use_new_zipfile_serialization=zipped,
        )
    assert not mark.exists() and not (tmp_path / "out").exists()
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    function, arguments = Malicious(mark).__reduce__()
    function(*arguments)  # the trap itself works
    assert mark.exists()


UNUSABLE = {
    "not a dict": (torch.zeros(3), [], "has no tensor 'perturbation'. Found: Tensor"),
    "no key": ({"delta": torch.zeros(3, 4, 4), "n": 1}, [], "Found: delta, n. Choose another with key=NAME"),
    "not a tensor": ({"perturbation": 3}, [], "has no tensor"),
    "shape": ({"perturbation": torch.zeros(3, 4, 5)}, [], r"is \(3, 4, 5\) torch.float32. Expected floats of shape"),
    "dtype": ({"perturbation": torch.zeros(3, 4, 4, dtype=torch.int64)}, [], "torch.int64. Expected floats"),
    "NaN": ({"perturbation": torch.full((3, 9, 9), float("nan"))}, ["pad=4"], "NaN or infinite"),
    "small": ({"perturbation": torch.zeros(3, 9, 9)}, [], "A border of 30 px does not fit a frame of 9 px"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_import_refuses_what_is_no_prompt(tmp_path, case):
    content, more, message = UNUSABLE[case]
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, content, *more)
    assert not (tmp_path / "out").exists()


def test_import_refuses_missing_damaged_and_oversized_files(tmp_path, monkeypatch):
    arguments = [f"from={tmp_path / 'x.pth'}", f"out={tmp_path / 'out'}"]
    with pytest.raises(FileNotFoundError, match=r"No checkpoint '.*x.pth'. Expected from=checkpoint_best.pth"):
        import_prompt.main(arguments)
    torch.save({"perturbation": perturbation()}, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    for content in (whole[:2000], b"", b"hello", b"<html>Not found</html>"):
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(ValueError, match=r"x.pth' (is damaged|was refused)"):
            import_prompt.main(arguments)
    monkeypatch.setattr(import_prompt, "MAX_BYTES", 2 * 2**20)
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data/0", bytes(import_prompt.MAX_BYTES + 1))
    with pytest.raises(ValueError, match=r"unpacks to 2 MiB"):
        import_prompt.main(arguments)
    monkeypatch.setattr(import_prompt, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"MiB. Expected a prompt of about 1 MiB"):
        import_prompt.main(arguments)
