"""Any image file to RGB, with every conversion spelled out, and every failure naming the file: the only reader.

Training, scoring, `apply`, `ask` and `Prompt` on a PIL image all see the pixels `to_rgb` makes.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 100_000_000  # larger than any photograph of the data sets; a bomb claims more in a few bytes

# Decoded inside Pillow: its EPS and WMF readers would start other programs, its icons are no photographs.
_WANTED = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA", "PCX", "QOI", "SGI")
Image.init()
FORMATS = tuple(kind for kind in _WANTED if kind in Image.OPEN)  # old builds of Pillow lack AVIF
ENDINGS = frozenset(end for end, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO"))
"""Every ending, lower case, of a file that the reader may be able to read."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


@cache
def reader_version() -> str:
    """Names what turns stored bytes into pixels, for whatever is remembered about decoded pictures."""
    sources = [Path(__file__).with_name(name).read_bytes() for name in ("images.py", "transforms.py")]
    digest = hashlib.sha256(b"".join(sources)).hexdigest()[:16]
    return f"{digest} Pillow {PIL.__version__} torchvision {version('torchvision')}"


def decode_image(path: str | Path) -> Tensor:
    """(3, H, W) uint8 RGB of the first frame, upright: `load_picture` as a tensor, with its errors."""
    return _to_tensor(load_picture(path))


def decode_bytes(data: bytes, name: str) -> Tensor:
    """Decode a file's bytes as `decode_image` does; `name` says in errors where they are from."""
    return _to_tensor(_read(data, name))


def load_picture(path: str | Path) -> Image.Image:
    """The first frame of an image file as upright 8-bit RGB.

    The content decides the format, not the file's name. Texts and colour profiles in the file are not read, however
    large or damaged. See `to_rgb` for the pixels.
    Raises: FileNotFoundError; ValueError naming the file and what is wrong with it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No image '{path}'. Expected a file; restore it, or rebuild the list it is named in.")
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(str(path), error) from error
    return _read(data, str(path))


def to_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as upright RGB.

    EXIF orientation is applied, and ignored where it cannot be read. Transparency is composited over white (opaque
    images are unchanged); 16-bit grey is scaled (value / 257), not clipped; CMYK, palette and grey are converted by
    Pillow; colour profiles are ignored, as the reference ignores them.
    Raises: ValueError for values without a known scale.
    """
    turn = _TURNS.get(_orientation(image))
    rgb = _convert(image if turn is None else image.transpose(turn))
    rgb.info = {}  # what it said of the orientation is true no longer: read again, it would turn it twice
    return rgb


def _read(data: bytes, name: str) -> Image.Image:
    try:
        return _open(data)
    except Exception as error:  # decoders raise whatever they like: OSError, SyntaxError, struct.error, EOFError, ...
        if data.startswith(_PNG_START) and (bare := _without_notes(data)) != data:
            with suppress(Exception):
                return _open(bare)
        raise _unreadable(name, error) from error


def _open(data: bytes) -> Image.Image:
    with _quietly(), Image.open(BytesIO(data), formats=FORMATS) as image:
        _check_size(image)
        image.load()
        return to_rgb(image)


@contextmanager
def _quietly() -> Iterator[None]:
    """No warnings about metadata: damaged ones are no reason to refuse the pixels, and nothing to act on.

    Python's filters are one list for all threads; two that change it at once may leave it changed for good. In other
    threads than the main one warnings are therefore left as they are.
    """
    if threading.current_thread() is threading.main_thread():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    else:
        yield


def _unreadable(name: str, error: Exception) -> ValueError:
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # Pillow would name the buffer
        reason = f"cannot identify image file, its content is none of {', '.join(FORMATS)}"
    return ValueError(
        f"Cannot read image '{name}': {reason}. Expected a complete image file; restore or convert it, or take it out "
        "of the data set."
    )


def _without_notes(data: bytes) -> bytes:
    """A PNG without texts and colour profile: Pillow refuses a file whose notes unpack to more than a megabyte."""
    kept, place = [_PNG_START], len(_PNG_START)
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        chunk = data[place : place + 12 + size]
        if chunk[4:8] not in _PNG_NOTES:
            kept.append(chunk)
        place += len(chunk)
    return b"".join(kept) + data[place:]


def _orientation(image: Image.Image) -> int:
    """1 to 8, or 0 where the file says none that can be read."""
    with suppress(Exception):  # camera software writes texts, fractions and lists where a short belongs
        with _quietly():
            value = image.getexif().get(ExifTags.Base.Orientation)
        return int(value[0] if isinstance(value, tuple | list) else value or 0)
    return 0


def _convert(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16 bits as they say; 32 bits where only 16 can be meant: up to 255 they may be 8."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    known = image.mode.startswith("I;16") or (image.mode == "I" and (high > 255 or high == 0))
    if not known or low < 0 or high > 65535:
        raise ValueError(
            f"mode {image.mode} with values from {low} to {high} has no known scale, only 8 and 16 bits do: convert it"
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than the {MAX_PIXELS:,} allowed (a decompression bomb?)")


def _to_tensor(rgb: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()
