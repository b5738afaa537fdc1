"""The model card of a prompt: README.md beside its files, made from the manifest alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.prompt_kinds import prompt_kind
from lightning_modules.vocabulary import INPUT_NAMES

LIBRARY = "transferable-visual-prompting"
WORDS = ("metric", "split")
"""Entries of `scores` that are no model."""


def prompt_card(manifest: Mapping[str, Any], name: str | None = None) -> str:
    """Markdown with the hub's metadata in front.

    Args:
        manifest: of the artefact; what it does not say is left out.
        name: what `Prompt.from_pretrained` is to be given; the folder itself without one.
    """
    sources = [str(each) for each in manifest.get("source", ())]
    tags = ["visual-prompt", "tvp", *filter(None, [manifest.get("method"), manifest.get("task")])]
    head = {"library_name": LIBRARY, "tags": list(dict.fromkeys(map(str, tags))), "license": "other"}
    parts = [
        _front(head),
        f"# {name or 'A visual prompt'}",
        _about(manifest, sources),
        "![The prompt](prompt.png)",
        "## Use",
        _usage(manifest, name),
        *(["## Scores", _scores(manifest["scores"], sources)] if manifest.get("scores") else []),
        "## Licence",
        _sentence(str(manifest.get("licence") or "Not stated")),
        "## Files",
        f"`prompt.safetensors` holds what was learned, `prompt.png` the same in 8 bits (at most "
        f"{255 * manifest['png_max_error']:.2f}/255 off), `manifest.json` the rest. Prompt `{manifest['prompt']}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _front(head: Mapping[str, Any]) -> str:
    # JSON values are YAML values, and no word of a manifest can break out of them.
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---"])


def _about(manifest: Mapping[str, Any], sources: Sequence[str]) -> str:
    numbers = {key: manifest.get(key) for key in ("pad", "frame", "scale", "rank")}
    text = (
        f"{prompt_kind(manifest['kind']).words.format(**numbers)} on a {manifest['frame']} x {manifest['frame']} frame"
    )
    learned = [f"learned on {', '.join(sources)}"] if sources else []
    learned += [f"with {manifest['data']}"] if manifest.get("data") else []
    learned += [f"by {manifest['method']}"] if manifest.get("method") else []
    learned += [f"(seed {manifest['seed']})"] if "seed" in manifest else []
    how = f", {' '.join(learned)}" if learned else ""
    return f"{text}{how}. It is one picture, and any model that reads pictures can be given it."


def _usage(manifest: Mapping[str, Any], name: str | None) -> str:
    code = [
        "from PIL import Image",
        "from lightning_modules import Prompt",
        "",
        f"prompt = Prompt.from_pretrained({json.dumps(name or '.')})",
        'prompt(Image.open("photo.jpg")).save("prompted.png")',
    ]
    fenced = "\n".join(["```python", *code, "```"])
    return f"{fenced}\n\nWithout this library: {manifest['preprocessing']['words']}"


def _scores(scores: Mapping[str, Any], sources: Sequence[str]) -> str:
    models = {name: given for name, given in scores.items() if name not in WORDS}
    inputs = [given for given in INPUT_NAMES if any(given in each for each in models.values())]
    rows = [["model", "", *(INPUT_NAMES[given] for given in inputs)], ["---"] * (2 + len(inputs))]
    for name, each in models.items():
        role = "source" if name in sources else "target"
        rows.append([f"`{name}`", role, *(_score(each.get(given)) for given in inputs)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    what = " on ".join(str(scores[word]) for word in WORDS if word in scores)
    return (
        f"{table}\n\n{_sentence(f'{what}, with 95 % intervals')} The columns without a prompt are controls: a "
        "gain is what stands above the best of them."
    )


def _score(entry: Mapping[str, Any] | None) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]" if entry else ""
