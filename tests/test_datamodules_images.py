"""Image files and their transforms: every kind of file to the right RGB, every bad one named."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from datamodules.images import decode_image, load_picture
from datamodules.transforms import Augmentation, draw_augmentation, prepare_image
from lightning_modules.apply_prompt import fit_picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def gradient(height=20, width=30):
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def save(image, path, **options):
    image.save(path, **options)
    return path


def test_a_lossless_file_comes_back_as_it_was(tmp_path):
    decoded = decode_image(save(gradient(), tmp_path / "a.png"))
    assert decoded.dtype == torch.uint8 and torch.equal(decoded, tensor(gradient()))


def test_the_camera_s_rotation_is_undone(tmp_path):
    upright = Image.new("RGB", (8, 4), BLUE)
    upright.paste(RED, (0, 0, 8, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned; a viewer turns it 90 degrees clockwise
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    decoded = decode_image(save(stored, tmp_path / "a.png", exif=exif))
    assert torch.equal(decoded, tensor(upright))


def test_transparency_lies_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (*RED, 0))
    for mode in ("RGBA", "P"):
        decoded = decode_image(save(image.convert(mode), tmp_path / f"{mode}.png"))
        assert decoded[:, 0].T.tolist() == [list(RED), list(WHITE)]


def test_a_palette_with_a_transparent_entry_lies_on_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*GREEN, *BLUE])
    image.putpixel((1, 0), 1)
    decoded = decode_image(save(image, tmp_path / "a.png", transparency=0))
    assert decoded[:, 0].T.tolist() == [list(WHITE), list(BLUE)]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 257 * 100, 65535]], dtype=np.uint16)
    decoded = decode_image(save(Image.fromarray(values), tmp_path / "a.png"))
    assert decoded[:, 0].tolist() == [[0, 1, 100, 255]] * 3


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("L", "png"), ("1", "png"), ("LA", "png")])
def test_other_modes_become_rgb(mode, suffix, tmp_path):
    image = Image.new("RGB", (16, 16), WHITE).convert(mode)
    decoded = decode_image(save(image, tmp_path / f"a.{suffix}"))
    assert decoded.shape == (3, 16, 16) and decoded.min() >= 250


def test_cmyk_keeps_its_colours(tmp_path):
    decoded = decode_image(save(Image.new("RGB", (16, 16), RED).convert("CMYK"), tmp_path / "a.jpg", quality=100))
    assert (decoded[:, 8, 8] - torch.tensor(RED, dtype=torch.uint8)).float().abs().max() < 8


def test_the_content_decides_not_the_name(tmp_path):
    path = save(Image.new("P", (4, 4)), tmp_path / "a.gif").rename(tmp_path / "a.jpg")
    assert decode_image(path).shape == (3, 4, 4)


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode_image(tmp_path / "a.gif")[:, 0, 0].tolist() == list(RED)


def jpeg():
    file = io.BytesIO()
    gradient(100, 100).save(file, "JPEG")
    return file.getvalue()


def bomb():
    """A PNG header that claims 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify image file"),
        (b"no image at all", "cannot identify image file"),
        (jpeg()[:2000], "truncated"),
        (bomb(), "pixels|decompression bomb"),
    ],
    ids=["zero bytes", "text", "truncated", "bomb"],
)
def test_a_bad_file_is_named_with_the_reason_and_what_to_do(content, reason, tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Cannot read image '.*bad\.jpg': .*Expected a complete image") as error:
        decode_image(path)
    assert any(word in str(error.value) for word in reason.split("|"))


def test_floating_point_pixels_have_no_known_scale(tmp_path):
    path = save(Image.fromarray(np.ones((4, 4), np.float32)), tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff': mode F with values from 1.0 to 1.0 has no known scale"):
        decode_image(path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No image '.*none\.png'\. Expected a file"):
        decode_image(tmp_path / "none.png")


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (16, 16), (40, 16)])
def test_the_evaluation_transform_is_torchvisions(shape):
    image = gradient(*shape)
    reference = T.Compose([T.Resize(16, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(16), T.ToTensor()])
    assert torch.equal(prepare_image(tensor(image), 16), reference(image))


def test_the_training_transform_is_torchvisions_at_the_same_draw():
    image = gradient(20, 32)
    resized = T.Resize(16, interpolation=T.InterpolationMode.BICUBIC)(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert resized.size == (25, 16)
    ours = prepare_image(tensor(image), 16, Augmentation(flip=True, top=0.99, left=0.55))
    assert torch.equal(ours, T.functional.to_tensor(T.functional.crop(resized, 0, 5, 16, 16)))


def test_float_images_take_the_same_path_up_to_rounding_and_stay_in_range():
    image = tensor(gradient(40, 60))
    ours = prepare_image(image.float() / 255, 16)
    assert (ours - prepare_image(image, 16)).abs().max() < 1.5 / 255
    stripes = torch.zeros(3, 9, 9)
    stripes[:, :, ::3] = 1
    assert prepare_image(stripes, 27).min() >= 0 and prepare_image(stripes, 27).max() <= 1


def test_draws_are_uniform_and_independent():
    draws = [draw_augmentation(42, 0, f"row-{i}") for i in range(2000)]
    flips, tops, lefts = (np.array(column, dtype=float) for column in zip(*draws, strict=True))
    for values in (flips, tops, lefts):
        assert abs(values.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.07 and abs(np.corrcoef(flips, tops)[0, 1]) < 0.07
    assert tops.min() >= 0 and tops.max() < 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 4, 4, dtype=torch.uint8), r"shape \(1, 4, 4\)\. Expected \(3, H, W\)"),
        (torch.zeros(3, 0, 4), r"shape \(3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"type torch.int64\. Expected torch.uint8"),
        (torch.full((3, 4, 4), 2.0), r"values from 2 to 2\. Expected \[0, 1\]"),
        (torch.full((3, 4, 4), torch.nan), r"values from nan to nan"),
    ],
)
def test_what_is_no_rgb_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        prepare_image(image, 4)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png, extra):
    """A PNG with one more chunk after its header."""
    return png[:33] + extra + png[33:]


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iTXt", b"note\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"tEXt", b"note\0" + bytes(70_000_000)),
    ],
    ids=["zTXt", "iTXt", "iCCP", "tEXt"],
)
def test_large_notes_in_a_png_do_not_cost_its_pixels(extra, tmp_path):
    file = io.BytesIO()
    gradient().save(file, "PNG")
    (tmp_path / "a.png").write_bytes(with_chunk(file.getvalue(), extra))
    assert torch.equal(decode_image(tmp_path / "a.png"), tensor(gradient()))


@pytest.mark.parametrize("value", ["6", (6, 0), 6.0, "left", b"\x06", (99,), 2**31])
def test_an_orientation_of_an_odd_type_costs_no_pixels(value, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = value
    try:
        block = exif.tobytes()
    except Exception:
        block = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x0b\0\0\0\x01@\xc0\0\0\0\0\0\0"  # a float, written by hand
    gradient().save(tmp_path / "a.png", exif=block)
    assert decode_image(tmp_path / "a.png").numel() == tensor(gradient()).numel()


def save_kind(kind, path):
    generator = np.random.default_rng(0)
    if kind == "16 bit":
        return save(Image.fromarray(generator.integers(0, 65536, (20, 20), dtype=np.uint16)), path / "a.png")
    if kind == "32 bit":
        return save(Image.fromarray(generator.integers(0, 65536, (20, 20)).astype(np.int32)), path / "a.tiff")
    if kind == "AVIF":
        return save(gradient(20, 20), path / "a.avif")
    mode = {"alpha": "RGBA", "grey alpha": "LA", "palette": "P", "CMYK": "CMYK"}[kind]
    pixels = Image.fromarray(generator.integers(0, 256, (20, 20, 4), dtype=np.uint8), "RGBA")
    return save(pixels.convert("RGB").convert(mode) if mode == "CMYK" else pixels.convert(mode), path / "a.tiff")


@pytest.mark.parametrize("kind", ["alpha", "grey alpha", "palette", "CMYK", "16 bit", "32 bit", "AVIF"])
def test_training_apply_and_a_prompt_see_the_same_pixels(kind, tmp_path):
    path = save_kind(kind, tmp_path)
    expected = decode_image(path)
    with Image.open(path) as image:
        by_prompt = fit_picture(image, 20)
    assert torch.equal(tensor(by_prompt), expected)
    assert torch.equal(tensor(fit_picture(load_picture(path), 20)), expected)


def test_thirty_two_bits_that_may_be_eight_are_refused(tmp_path):
    path = save(Image.fromarray(np.full((4, 4), 200, np.int32)), tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff': mode I with values from 200 to 200 has no known scale"):
        decode_image(path)


def test_reading_in_threads_leaves_the_filters_of_warnings_as_they_were(tmp_path):
    paths = [save(gradient(), tmp_path / f"{i}.png") for i in range(40)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(decode_image, paths * 5))) == 200
    assert warnings.filters == before
