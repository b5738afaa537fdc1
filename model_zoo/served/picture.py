"""A frame as a server is shown it: an 8-bit PNG, never JPEG."""

from __future__ import annotations

import hashlib
import io
from base64 import b64encode
from typing import NamedTuple

import numpy as np
from PIL import Image

RULE = "PNG, 8-bit RGB, clipped to [0, 1]"


class Picture(NamedTuple):
    """url: the PNG as a data URL. digest: sha256 over its size and pixels. side: in pixels."""

    url: str
    digest: str
    side: int


def picture_of(pixels: np.ndarray) -> Picture:
    """The picture of uint8 pixels (S, S, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    return Picture("data:image/png;base64," + b64encode(file.getvalue()).decode(), digest, pixels.shape[0])
