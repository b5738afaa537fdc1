"""`served:MODEL@http://host:port`: which model, where. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

PREFIX = "served:"
EXAMPLE = "served:Qwen/Qwen3-VL-8B-Instruct@http://127.0.0.1:8000"
ONLY_SCORES = (
    "'{name}' stands behind a server and only scores: no gradient and no features come through it. Expected a model "
    "whose weights are here as the source; give this one as a target."
)


class Address(NamedTuple):
    """model: the id under which the server lists it. url: what stands before `/v1`."""

    model: str
    url: str


def is_served(name: str) -> bool:
    """Whether a name is one of this room."""
    return str(name).startswith(PREFIX)


def address_of(name: str) -> Address:
    """The parts of a name. Raises ValueError that says what one looks like, never repeating a password."""
    model, at, url = name.removeprefix(PREFIX).rpartition("@http")
    parts = urlsplit(f"http{url}") if at else urlsplit("")
    if "@" in parts.netloc or (at and "@http" in model):
        raise ValueError(
            "A served model's name holds a user or a password, and names are written into records. Expected "
            f"{EXAMPLE}; a key is read from TVP_SERVED_KEY only."
        )
    try:
        whole = bool(model and parts.scheme in ("http", "https") and parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        whole = False
    if not is_served(name) or not whole or parts.query or parts.fragment:
        raise ValueError(f"'{name}' names no model behind a server. Expected served:MODEL@URL, such as {EXAMPLE}.")
    return Address(model, f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/").removesuffix("/v1"))
