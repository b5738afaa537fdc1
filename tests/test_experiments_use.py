"""The commands with which people use a finished prompt: apply, ask, import_prompt."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.tiny_models import tiny_mllm

from experiments import apply, ask, import_prompt
from experiments.cli import list_options
from experiments.run.asking import build_inputs, pil_to_tensor
from lightning_modules.prompts import Prompt, build_prompt

ROOT = Path(__file__).parents[1]


def picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def artefact(tmp_path) -> Path:
    prompt = build_prompt("pad", frame=32, pad=4, bounds="image")
    prompt.init_("normal", std=0.5)
    return prompt.save(tmp_path / "prompt", {})


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("command", ["apply", "ask", "import_prompt"])
def test_help_answers_without_torch_or_pillow(command):
    code = (
        f"import sys; from experiments.{command} import main; main(['--help']);"
        "sys.exit(bool({'torch', 'PIL', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python -m experiments.{command}" in done.stdout


@pytest.mark.parametrize("command", [apply, ask, import_prompt])
def test_every_key_is_in_the_help_and_a_typo_is_answered(command, capsys):
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    keys = [option.key for option in list_options(command.Options)]
    assert all(f"\n  {key} " in text for key in keys)
    with pytest.raises(ValueError, match=r"Unknown key '\w+z'. Did you mean"):
        command.main([f"{keys[0]}z=1"])
    with pytest.raises(ValueError, match=r"Missing .*=\.\.\."):
        command.main([])


# apply


def test_apply_writes_what_five_lines_of_pillow_write(artefact, tmp_path, capsys):
    source, out = picture(tmp_path / "a photo.jpg"), tmp_path / "out"
    assert apply.main([f"prompt={artefact}", f"images={source}", f"out={out}"]) == 0
    frame, photo = Image.open(artefact / "prompt.png"), Image.open(source)
    frame.paste(ImageOps.fit(ImageOps.exif_transpose(photo).convert("RGB"), (24, 24), Image.BICUBIC), (4, 4))
    with Image.open(out / "a photo.png") as written:
        assert written.format == "PNG" and np.array_equal(np.array(written), np.array(frame))
    assert "Wrote 1 of 1 pictures (32 x 32)" in capsys.readouterr().out
    photo.close()


def test_apply_keeps_subfolders_names_the_damaged_and_exits_with_1(artefact, tmp_path, capsys):
    images, out = tmp_path / "in", tmp_path / "out"
    for name in ("one.png", "deep/er/two.webp", "deep/THREE.JPG", "deep/notes.txt", "bad.jpg"):
        picture(images / name) if not name.endswith("txt") else (images / name).write_text("x")
    (images / "bad.jpg").write_bytes((images / "bad.jpg").read_bytes()[:300])
    originals = read_tree(images)
    assert apply.main([f"prompt={artefact}", f"images={images}", f"out={out}", "fit=letterbox"]) == 1
    assert sorted(read_tree(out)) == ["deep/THREE.png", "deep/er/two.png", "one.png"]
    assert read_tree(images) == originals
    said = capsys.readouterr()
    assert "Wrote 3 of 4" in said.out and "Skipped: Cannot read image '" in said.err and "Skipped 1 " in said.err
    assert "1 x .txt: 'deep/notes.txt'" in said.err


def test_apply_never_overwrites(artefact, tmp_path):
    photo, images = picture(tmp_path / "in" / "a.png"), tmp_path / "in"
    original = photo.read_bytes()
    with pytest.raises(FileExistsError, match=r"a.png' is one of the originals. Expected another out=DIR"):
        apply.main([f"prompt={artefact}", f"images={photo}", f"out={images}", "overwrite=true"])
    for inside in (images, images / "sub"):
        with pytest.raises(ValueError, match=r"lies inside images="):
            apply.main([f"prompt={artefact}", f"images={images}", f"out={inside}", "overwrite=true"])
    assert photo.read_bytes() == original
    out = [f"prompt={artefact}", f"images={images}", f"out={tmp_path / 'out'}"]
    assert apply.main(out) == 0
    with pytest.raises(FileExistsError, match=r"1 of 1 results exist already, e.g. .*overwrite=true"):
        apply.main(out)
    assert apply.main([*out, "overwrite=true", "reading=float"]) == 0


def test_apply_gives_pictures_of_one_name_different_results(artefact, tmp_path):
    for i, name in enumerate(("a.png", "a.gif", "b.png")):
        picture(tmp_path / "in" / name, seed=i)
    assert apply.main([f"prompt={artefact}", f"images={tmp_path / 'in'}", f"out={tmp_path / 'out'}"]) == 0
    assert sorted(read_tree(tmp_path / "out")) == ["a.gif.png", "a.png.png", "b.png.png"]


def test_apply_stops_on_a_full_disk_without_a_torn_picture(artefact, tmp_path, monkeypatch):
    import os

    def full(*_):
        raise OSError(28, "No space left on device")

    picture(tmp_path / "in" / "a.png")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left"):
        apply.main([f"prompt={artefact}", f"images={tmp_path / 'in'}", f"out={tmp_path / 'out'}"])
    assert read_tree(tmp_path / "out") == {}


def test_apply_says_what_is_missing_and_creates_nothing(artefact, tmp_path):
    (tmp_path / "empty").mkdir()
    photo = picture(tmp_path / "a.png")
    for images, error, message in (
        (tmp_path / "none", FileNotFoundError, "No picture or folder"),
        (tmp_path / "empty", FileNotFoundError, "No pictures in"),
    ):
        with pytest.raises(error, match=message):
            apply.main([f"prompt={artefact}", f"images={images}", f"out={tmp_path / 'out'}"])
    with pytest.raises(FileNotFoundError, match=r"No prompt folder"):
        apply.main([f"prompt={tmp_path / 'none'}", f"images={photo}", f"out={tmp_path / 'out'}"])
    with pytest.raises(ValueError, match=r"Unknown fit 'stretch'"):
        apply.main([f"prompt={artefact}", f"images={photo}", f"out={tmp_path / 'out'}", "fit=stretch"])
    with pytest.raises(FileExistsError, match=r"is a file. Expected a folder"):
        apply.main([f"prompt={artefact}", f"images={photo}", f"out={photo}"])
    assert not (tmp_path / "out").exists()


# ask


@pytest.fixture
def tiny(monkeypatch):
    model = tiny_mllm("minigpt4")
    monkeypatch.setattr("experiments.run.asking.load_mllm", lambda name, **_: model)
    return model


def asking(artefact: Path, tmp_path: Path, *more: str) -> list[str]:
    photo = picture(tmp_path / "photo.png")
    return [f"prompt={artefact}", "mllm=minigpt4", f"image={photo}", "question=what is it?", "device=cpu", *more]


def test_ask_shows_the_models_own_answers_before_and_after(artefact, tmp_path, tiny, capsys):
    assert ask.main(asking(artefact, tmp_path, "style=vqa", "max_new_tokens=4", "beams=1")) == 0
    prompt, photo = Prompt.load(artefact, reading="png"), Image.open(tmp_path / "photo.png")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "minigpt4: what is it?"
    assert [line[:16].strip() for line in lines[1:4]] == ["full picture", "black border", "prompted"]
    _, frames = build_inputs(prompt, photo, fit="crop")
    assert torch.equal(frames[2], pil_to_tensor(prompt(photo))) and frames.shape == (3, 3, 32, 32)
    assert not frames[1][:, :4].any() and torch.equal(frames[1][:, 4:28, 4:28], frames[2][:, 4:28, 4:28])
    answers = tiny.generate(frames, ["what is it?"] * 3, style="vqa", max_new_tokens=4, num_beams=1)
    assert [line[16:] for line in lines[1:4]] == answers
    photo.close()


def test_ask_with_candidates_prints_scores_and_marks_the_choice(artefact, tmp_path, tiny, capsys):
    assert ask.main(asking(artefact, tmp_path, "candidates=cat, dog,a red car")) == 0
    lines = capsys.readouterr().out.splitlines()
    prompt, photo = Prompt.load(artefact, reading="png"), Image.open(tmp_path / "photo.png")
    _, frames = build_inputs(prompt, photo, fit="crop")
    scores = tiny.score(frames, ["what is it?"] * 3, ["cat", "dog", "a red car"])
    printed = [[float(cell.rstrip("*")) for cell in line[18:].split()] for line in lines[2:5]]
    torch.testing.assert_close(torch.tensor(printed).T, scores, atol=6e-4, rtol=0)
    starred = [[cell.endswith("*") for cell in line[18:].split()] for line in lines[2:5]]
    assert torch.equal(torch.tensor(starred).int().T.argmax(1), scores.argmax(1))
    photo.close()


def test_ask_about_an_overlay_has_no_black_border_and_an_unbounded_png_is_noted(tmp_path, tiny, capsys):
    overlay = build_prompt("overlay", frame=32, pad=4, bounds="image")
    names, frames = build_inputs(overlay, Image.new("RGB", (9, 9)), fit="crop")
    assert names == ["full picture", "prompted"] and len(frames) == 2
    unbounded = build_prompt("pad", frame=32, pad=4, bounds="unbounded")
    unbounded.init_("normal")
    folder = unbounded.save(tmp_path / "unbounded", {})
    ask.main(asking(folder, tmp_path, "candidates=cat,dog"))
    assert "the PNG clamps" in capsys.readouterr().out
    ask.main(asking(folder, tmp_path, "candidates=cat,dog", "reading=float"))
    assert "the PNG clamps" not in capsys.readouterr().out


def test_ask_refuses_unknown_words(artefact, tmp_path, tiny):
    for word, message in (("style=long", "Unknown style 'long'"), ("device=tpu", "No device 'tpu' here. Available")):
        with pytest.raises(ValueError, match=message):
            ask.main([*asking(artefact, tmp_path), word])


def test_ask_of_an_unknown_model_suggests_one(artefact, tmp_path):
    with pytest.raises(ValueError, match=r"Unknown MLLM 'minigpt-4'. Did you mean 'minigpt4'"):
        ask.main([*asking(artefact, tmp_path), "mllm=minigpt-4"])


@pytest.mark.parametrize("words", ["ja,ja ", "hot_dog,hot dog", "Cat,cat"])
def test_ask_refuses_candidates_that_are_the_same_words_before_it_loads_a_model(artefact, tmp_path, words, monkeypatch):
    monkeypatch.setattr("experiments.run.asking.load_mllm", None)
    photo = picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"candidates=: the candidates? .*(same words|says nothing)"):
        ask.main([f"prompt={artefact}", "mllm=embedded_llava", f"image={photo}", "question=?", f"candidates={words}"])
