"""One picture, any kind: the same frame as five lines of Pillow."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lightning_modules.apply_prompt import apply_prompt, fit_picture, load_picture
from lightning_modules.drawing import contact_sheet, magnify
from lightning_modules.prompts import Prompt, build_prompt

SIZES = [(164, 164), (333, 200), (200, 333), (97, 41), (640, 481), (1, 1), (1, 300)]


def make(kind: str = "pad", frame: int = 24, pad: int = 4, bounds: str = "image") -> Prompt:
    prompt = build_prompt(kind, frame=frame, pad=pad, bounds=bounds)
    prompt.init_("normal", std=0.5)
    return prompt


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if bands == 1 else pixels).convert(mode)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    return make(frame=224, pad=30).save(tmp_path_factory.mktemp("artefact") / "prompt", {})


def five_lines(prompt_png, file) -> Image.Image:
    frame = Image.open(prompt_png)
    photo = ImageOps.exif_transpose(Image.open(file)).convert("RGBA")
    photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    frame.paste(ImageOps.fit(photo, (164, 164), Image.BICUBIC), (30, 30))
    return frame


@pytest.mark.parametrize("reading", ["png", "float"])
@pytest.mark.parametrize("size", SIZES)
def test_a_pil_picture_equals_the_readmes_five_lines_bit_for_bit(artefact, size, reading):
    prompt, stored = Prompt.load(artefact, reading=reading), io.BytesIO()
    noise(*size).save(stored, "PNG")
    result = prompt(Image.open(stored))
    assert result.mode == "RGB" and result.size == (224, 224)
    expected = five_lines(io.BytesIO((artefact / "prompt.png").read_bytes()), stored)
    assert np.array_equal(np.array(result), np.array(expected))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_pictures_of_any_mode_equal_the_five_lines(artefact, mode):
    photo = noise(50, 40, "LA") if mode == "LA" else noise(50, 40).convert(mode)
    expected = five_lines(io.BytesIO((artefact / "prompt.png").read_bytes()), _Opened(photo))
    assert np.array_equal(np.array(Prompt.load(artefact, reading="png")(photo)), np.array(expected))


class _Opened(io.BytesIO):
    """A picture in memory, for modes no lossless file format keeps."""

    def __init__(self, photo):
        buffer = io.BytesIO()
        photo.save(buffer, "TIFF")
        super().__init__(buffer.getvalue())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(artefact, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(60, 40).save(tmp_path / "photo.png", exif=exif)
    expected = np.array(five_lines(artefact / "prompt.png", tmp_path / "photo.png"))
    prompt = Prompt.load(artefact, reading="png")
    with Image.open(tmp_path / "photo.png") as photo:
        assert np.array_equal(np.array(prompt(photo)), expected)
    assert np.array_equal(np.array(prompt(load_picture(tmp_path / "photo.png"))), expected)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    deep = np.linspace(0, 65535, 16 * 16, dtype=np.uint16).reshape(16, 16)
    frame = np.array(make()(Image.fromarray(deep)))[4:20, 4:20, 0]
    assert np.array_equal(frame, (deep / 257).round().astype(np.uint8))


@pytest.mark.parametrize("fit", ["crop", "letterbox"])
@pytest.mark.parametrize("kind", ["pad", "overlay"])
@pytest.mark.parametrize("size", [(40, 24), (9, 31), (16, 16)])
def test_eight_bit_kinds_agree_exactly_and_floats_within_two_levels(kind, size, fit):
    prompt, photo = make(kind), noise(5, 5).resize(size, Image.BICUBIC)  # smooth, as photographs are
    pixels = np.array(photo)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = np.array(prompt(photo, fit=fit))
    as_array, as_tensor = prompt(pixels, fit=fit), prompt(tensor, fit=fit)
    assert as_array.dtype == np.uint8 and np.array_equal(as_array, expected)
    assert as_tensor.dtype == torch.uint8 and np.array_equal(as_tensor.permute(1, 2, 0).numpy(), expected)
    as_float, as_float_tensor = prompt(pixels / 255, fit=fit), prompt(tensor / 255, fit=fit)
    assert as_float.dtype == np.float64 and as_float_tensor.dtype == torch.float32
    assert as_float.shape == (24, 24, 3) and as_float_tensor.shape == (3, 24, 24)
    assert np.abs(255 * as_float - expected).max() < 2
    assert np.abs(as_float_tensor.permute(1, 2, 0).numpy() - as_float).max() < 1e-6


def test_grey_arrays_become_rgb_and_every_float_type_comes_back():
    prompt, grey = make(), np.array(noise(16, 16, "L"))
    assert np.array_equal(prompt(grey), np.array(prompt(Image.fromarray(grey))))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert prompt(torch.rand(3, 10, 12).to(dtype)).dtype == dtype
    assert prompt(np.zeros((5, 5), np.float32)).dtype == np.float32


def test_the_input_is_not_changed():
    prompt, tensor = make(), torch.rand(3, 16, 16)
    kept = tensor.clone()
    frame = prompt(tensor)
    frame += 1
    assert torch.equal(tensor, kept) and prompt.delta.max() <= 1


def test_only_eight_bit_results_of_an_unbounded_prompt_are_clamped():
    prompt = make(bounds="unbounded")
    pixels = np.array(noise(16, 16))
    assert prompt(pixels / 255).min() < 0 and prompt(pixels / 255).max() > 1
    eight = prompt(pixels)
    assert np.array_equal(eight, (255 * prompt(pixels / 255).clip(0, 1)).round().astype(np.uint8))


def test_a_batch_of_right_sized_tensors_is_not_resized():
    prompt, images = make(), torch.rand(2, 3, 16, 16)
    assert torch.equal(prompt(images)[1], prompt(images[1]))


def test_letterbox_keeps_the_whole_picture_between_black_bars():
    prompt = make()
    frame = np.array(prompt(Image.new("RGB", (32, 16), "white"), fit="letterbox"))[4:20, 4:20]
    assert (frame[4:12] == 255).all() and not frame[:4].any() and not frame[12:].any()
    thin = prompt(Image.new("RGB", (3000, 1), "white"), fit="letterbox")
    assert (np.array(thin)[4:20, 4:20] == 255).all(axis=(1, 2)).sum() == 1


def test_crop_takes_the_centre():
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 200
    assert (make()(pixels)[4:20, 4:20] == 200).all()


def test_fit_picture_is_the_picture_without_the_prompt():
    photo = noise(50, 30)
    assert np.array_equal(np.array(fit_picture(photo, 16)), np.array(make()(photo))[4:20, 4:20])


BAD = {
    "type": ("a.png", TypeError, "type str. Expected a PIL image, numpy array or tensor"),
    "alpha": (np.zeros((4, 4, 4), np.uint8), ValueError, r"shape \(4, 4, 4\).*without alpha"),
    "channels last tensor": (torch.zeros(4, 5, 3), ValueError, r"shape \(4, 5, 3\). Expected \(3, H, W\)"),
    "empty": (np.zeros((0, 4, 3), np.uint8), ValueError, "not empty"),
    "integers": (torch.zeros(3, 4, 4, dtype=torch.int64), ValueError, "dtype torch.int64. Expected uint8, or floats"),
    "0..255": (np.full((4, 4, 3), 255.0), ValueError, "divide 8-bit values by 255"),
    "normalised": (torch.full((3, 4, 4), -1.5), ValueError, "never normalised"),
    "NaN": (torch.full((3, 4, 4), float("nan")), ValueError, r"values in \[nan, nan\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_pictures_are_refused_with_a_clear_message(case):
    image, error, message = BAD[case]
    with pytest.raises(error, match=message):
        apply_prompt(make(), image)


def test_unknown_fit_says_what_is_available():
    with pytest.raises(ValueError, match=r"Unknown fit 'stretch'. Available: crop, letterbox"):
        make()(noise(4, 4), fit="stretch")


def test_unreadable_files_are_refused_with_a_clear_message(tmp_path, monkeypatch):
    whole = tmp_path / "whole.jpg"
    noise(64, 64).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:-400])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "code.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    unknown = "cannot identify image file, its content is none of JPEG, PNG"
    for name, message in (("cut.jpg", "truncated"), *((f"{name}.png", unknown) for name in ("empty", "text", "code"))):
        with pytest.raises(ValueError, match=f"{name}': .*{message}.*Expected a complete image file"):
            load_picture(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"No image '.*none.png'. Expected a file"):
        load_picture(tmp_path / "none.png")
    monkeypatch.setattr("datamodules.images.MAX_PIXELS", 3000)
    with pytest.raises(ValueError, match=r"whole.jpg': 64 x 64 pixels, more than the 3,000 allowed"):
        load_picture(whole)


def test_a_palette_picture_with_transparency_warns_nobody(tmp_path):
    noise(8, 8).quantize(4).save(tmp_path / "p.png", transparency=b"\x00\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make()(load_picture(tmp_path / "p.png")).size == (24, 24)


def test_magnify_keeps_pixels_sharp():
    delta = torch.zeros(3, 2, 2)
    delta[0, 0, 0] = 1.0
    large = np.array(magnify(delta, 8))
    assert (large[:4, :4] == (255, 0, 0)).all() and not large[4:].any()
    assert np.array(magnify(delta - 1, 8, signed=True))[7, 7].tolist() == [0, 0, 0]
    assert np.array(magnify(delta, 8, signed=True))[7, 7].tolist() == [128, 128, 128]
    assert magnify(torch.rand(3, 64, 64), 16).size == (16, 16)


def test_contact_sheet_shows_frames_and_colours_right_and_wrong():
    frames = torch.rand(3, 3, 64, 64)
    sheet = contact_sheet(frames, ["Cat ", "dog", "a long answer " * 9], ["cat", "fox", "fox"], ["cat", "fox", "fox"])
    pixels = np.array(sheet)
    assert np.array_equal(pixels[10:170, 10:170], np.array(magnify(frames[0], 160)))

    def share(colour, column):
        cell = pixels[170:, 10 + 170 * column : 170 + 170 * column]
        return (cell == colour).all(-1).mean()

    green, red = (22, 120, 60), (190, 30, 40)
    assert share(green, 0) > 0 and share(red, 0) == 0  # right before and after
    assert share(green, 1) > 0 and share(red, 1) > 0  # wrong before, right after
    assert sheet.width == 3 * 170 + 10 and sheet.height < 260


def test_contact_sheet_refuses_unequal_lists():
    with pytest.raises(ValueError, match=r"Got 2 frames, 1 answers before, 2 after and 2 labels"):
        contact_sheet(torch.rand(2, 3, 8, 8), ["a"], ["a", "b"], ["a", "b"])
