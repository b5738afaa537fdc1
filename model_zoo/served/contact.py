"""The one probe of a served model: who answers, the best way to its likelihoods, is it the model of last time."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

from datamodules.whole_files.disk import cache_root, read_json, write_json
from model_zoo.served.address import address_of
from model_zoo.served.client import Client, ServerGoneError, UnansweredError
from model_zoo.served.picture import RULE, picture_of
from model_zoo.served.texts import Texts
from model_zoo.served.ways import (
    INPUT,
    PROMPT,
    THINKING_OFF,
    WRITTEN,
    OtherModelError,
    Server,
    prompt_ids,
    sglang_likelihood,
    vllm_likelihood,
    write,
)

QUESTION, ANSWERS = "What is in the picture?", ("a cat", "a dog")
TOLERANCE = 0.5  # nats between two probes of one model: another batch or kernel moves them by hundredths
TIMEOUT = "TVP_SERVED_TIMEOUT"
PROBE_ATTEMPTS = 3
Number = TypeVar("Number", int, float)


class Contact(NamedTuple):
    """What one probe found.

    server: kind and version, such as `vllm 0.13.0`. model, url: see `Address`. root: what the server says it loaded;
    empty where it does not. way: one of `PROMPT`, `INPUT` (exact likelihoods) and `WRITTEN`; why: there is no better
    one. tokens: digest of the probe's prompt in the server's tokens; empty where it does not show them. probe: what
    was answered: the nats of two answers, or a text. extras: see `Server`.
    """

    server: str
    model: str
    url: str
    root: str
    way: str
    why: str
    tokens: str
    probe: list[float] | str
    extras: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """sha256 over what names the model; the weights themselves cannot be read."""
        parts = (self.server, self.model, self.root, self.way, self.tokens)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def facts(self) -> dict[str, str]:
        """The columns of a record."""
        return {"server": self.server, "served_model": self.root or self.model, "way": self.way, "pictures": RULE}


@lru_cache
def contact(name: str, weights: str) -> Contact:
    """Probe the server of a name, once a process.

    Raises ServerGoneError where it cannot be used, ValueError for a malformed name, OtherModelError where it is
    another model than at the first contact, which is kept below `cache/served`.
    """
    model, url = address_of(name)
    client = Client(url, timeout=seconds(), attempts=PROBE_ATTEMPTS)
    listed = client.get("/v1/models")
    entries = [e for e in (listed or {}).get("data") or [] if isinstance(e, dict)] if isinstance(listed, dict) else []
    mine = next((entry for entry in entries if entry.get("id") == model), None)
    if mine is None:
        there = ", ".join(f"'{entry.get('id')}'" for entry in entries) or "no model"
        raise ServerGoneError(
            f"{url} lists {there} at /v1/models, not '{model}'. Expected the id it lists: give that in the name, or "
            "start the server with this model."
        )
    server, root = _kind(client, mine)
    found = _best(server, model, url, root, client, weights)
    if found.why:
        print(f"{name}: only answers it writes can be read, no likelihoods. {found.why}", flush=True)
    return _same_as_recorded(name, found)


def seconds() -> float:
    """Seconds without a byte after which a request is tried again: TVP_SERVED_TIMEOUT, or 120."""
    return number_of(TIMEOUT, 120.0)


def number_of(variable: str, default: Number) -> Number:
    """The positive number in an environment variable, of the default's kind. Raises ValueError naming the variable."""
    said = os.environ.get(variable, "").strip()
    with suppress(ValueError):
        number = type(default)(said or default)
        if 0 < number < float("inf"):
            return number
    kind = "whole number" if isinstance(default, int) else "number"
    raise ValueError(f"{variable}={said}: expected a {kind} above 0, such as {default:g}; unset it for that.")


def _kind(client: Client, mine: dict[str, Any]) -> tuple[str, str]:
    """(kind and version of a server, what it says it loaded)."""
    owner, root = mine.get("owned_by"), mine.get("root") or ""
    if owner == "vllm":
        return f"vllm {(client.get('/version') or {}).get('version', '?')}", root
    info = client.get("/get_model_info")
    if owner == "sglang" or (isinstance(info, dict) and "model_path" in info):
        more = client.get("/server_info") or client.get("/get_server_info") or {}
        return f"sglang {more.get('version', '?')}", (info or {}).get("model_path") or root
    paths = (client.get("/openapi.json") or {}).get("paths") or {}
    return "transformers serve" if "/load_model" in paths else "unknown", root


def _best(server: str, model: str, url: str, root: str, client: Client, weights: str) -> Contact:
    """The first way that works."""
    picture = picture_of(np.full((224, 224, 3), 255, np.uint8))
    asked = Server(client, model, THINKING_OFF)

    def by_vllm() -> tuple[str, list[float]]:
        prompt = prompt_ids(asked, picture, QUESTION)
        nats = [vllm_likelihood(asked, picture, QUESTION, answer, prompt).nats for answer in ANSWERS]
        return hashlib.sha256(json.dumps(prompt).encode()).hexdigest(), nats

    def by_sglang() -> tuple[str, list[float]]:
        texts = Texts(model, weights)
        nats = [sglang_likelihood(client, picture, *texts.parts(QUESTION, answer)).nats for answer in ANSWERS]
        return texts.digest(QUESTION), nats

    way, exact = (INPUT, by_sglang) if server.startswith("sglang") else (PROMPT, by_vllm)
    try:
        tokens, nats = exact()
        return Contact(server, model, url, root, way, "", tokens, nats, THINKING_OFF)
    except (OtherModelError, ServerGoneError):
        raise
    except (ValueError, OSError) as error:
        why = str(error)
    for extras in (THINKING_OFF, {}):  # strict servers refuse fields they do not know
        try:
            text = write(asked._replace(extras=extras), picture, QUESTION, 8)
            return Contact(server, model, url, root, WRITTEN, why, "", text, extras)
        except UnansweredError as error:
            said = error
    raise ServerGoneError(f"{url} ({server}) answers no question about a picture: {said}. Expected a VLM.")


def _same_as_recorded(name: str, found: Contact) -> Contact:
    """`found`, with the probe of the first contact. Raises OtherModelError where another model answers now."""
    path = cache_root() / "served" / "known" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
    known = read_json(path, "what a server was", "delete it: the next contact writes it anew")
    if known is not None:
        old = found._replace(**{key: known[key] for key in ("server", "root", "way", "tokens", "probe")})
        if what := _difference(old, found):
            raise OtherModelError(
                f"Another model stands behind {found.url} than recorded on {known['first']} in {path}: {what}. Scores "
                f"of two models would bear one name, '{name}'. Serve the recorded one, or delete that file."
            )
        if (old.server, old.way) == (found.server, found.way):
            return found._replace(probe=old.probe)
    with suppress(OSError):  # a cache that cannot be written: said by whoever needs it
        write_json(path, {**found._asdict(), "name": name, "first": date.today().isoformat()})
    return found


def _difference(old: Contact, new: Contact) -> str:
    """What shows that another model answers now; empty where nothing does.

    Another version or way may count tokens and answer otherwise: then only what it says it loaded is compared.
    """
    if old.root and new.root and old.root != new.root:
        return "it says it loaded something else"
    if (old.server, old.way) != (new.server, new.way):
        return ""
    if old.tokens != new.tokens:
        return "its tokens of the same prompt are others"
    if isinstance(old.probe, str) or isinstance(new.probe, str):
        other = old.probe != new.probe
    else:
        other = max(abs(a - b) for a, b in zip(old.probe, new.probe, strict=True)) > TOLERANCE
    return "it answers the same question about the same picture otherwise" if other else ""
