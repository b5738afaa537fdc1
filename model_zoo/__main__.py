"""What the zoo needs, getting it and checking it: `python -m model_zoo list | fetch NAME | check NAME | ...`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.whole_files.command_line import answer, parse, suggest
from model_zoo.listing import show_all, show_one
from model_zoo.registry import REGISTRY, canonical, get_entry
from model_zoo.weights.layouts import fetch_command

USAGE = """
usage: python -m model_zoo list [NAME] [weights=DIR] [batch=N]
       python -m model_zoo fetch NAME|hf:ORG/MODEL [weights=DIR] [revision=COMMIT]
       python -m model_zoo apply_delta v0|v1.1 llama=DIR [delta=DIR] [weights=DIR] [to=DIR]
       python -m model_zoo check NAME [weights=DIR]
       python -m model_zoo convert NAME [weights=DIR] to=DIR
       python -m model_zoo tiny FAMILY [weights=DIR]

  list      every MLLM: what it is, its files and where they are published, what is missing below weights=DIR, size on
            disk, memory as a target and, with batch=N, as a source with gradients at N images (measured: takes
            seconds); NAME shows the details, by dtype, of a source at batch=16
  fetch     download what is lacking of a model, of the CLIP `ViT-B-32`, or of any model of the Hugging Face hub (into
            weights/ORG/MODEL: configuration, tokenizer, templates, safetensors; never code). Goes on where it was
            stopped; every file is checked before it gets its name, and recorded in `fetched.json`, by which a later
            fetch mends what is damaged and fetches nothing else. What no program may download, it says how to get
            by hand (exit code 1). For gated models set HF_TOKEN; HF_ENDPOINT names another hub
  apply_delta  Vicuna from LLaMA-7B, which you have, and the published difference (fetch hf:lmsys/vicuna-7b-delta-v0)
  check     are all files there, whole, with the expected names and shapes, and of one model (Vicuna v0 or v1.1)?
            Reads headers only: seconds, little memory. One line per item; exit code 0 when all is well, else 1.
            Of served:MODEL@URL: who answers, and how it is read
  convert   one safetensors folder that loads in one go and gives bit-identical outputs
  tiny      write a random model of a family of the hub, a megabyte, as weights/tiny/FAMILY; its name hf:tiny/FAMILY
            goes wherever a name goes, to try a run before any weights are fetched. `tiny help` lists the families

  revision=COMMIT   or branch or tag of hf:ORG/MODEL; by default the commit that was fetched first stays
  weights=weights   the root that holds the published files of all models (docs/models.md)
"""
KEYS = {
    "list": ("weights", "batch"),
    "fetch": ("weights", "revision"),
    "apply_delta": ("llama", "delta", "weights", "to"),
    "check": ("weights",),
    "convert": ("weights", "to"),
    "tiny": ("weights",),
}


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 well, 1 something is wrong, 2 cannot be done, 130 Ctrl-C."""
    return answer(argv, USAGE, _dispatch)


def _dispatch(argv: list[str]) -> int:
    command, names, options = parse(argv, KEYS)
    if len(names) > 1 or (command != "list" and not names):
        raise ValueError(f"Expected one NAME after '{command}', got {' '.join(names) or 'none'}. See --help.")
    name, weights = names[0] if names else None, Path(options.get("weights", "weights")).expanduser()
    if command == "list":
        return _list(name, weights, options.get("batch"))
    assert name is not None  # one was asked for above
    if command == "fetch":
        return _fetch(name, weights, options)
    if command == "apply_delta":
        return _apply_delta(name, weights, options)
    if command == "tiny":
        return _tiny(name, weights)
    return _check(name, weights) if command == "check" else _convert(name, weights, options)


def _list(name: str | None, weights: Path, batch: str | None) -> int:
    if batch is not None and (not batch.isdigit() or int(batch) < 1):
        raise ValueError(f"Expected a number of images for batch, got '{batch}'. For example: batch=16.")
    images = int(batch) if batch else None
    print(show_one(name, weights, images or 16) if name else show_all(weights, images))
    return 0


def _fetch(name: str, weights: Path, options: dict[str, str]) -> int:
    from model_zoo.fetch.steps import fetch

    left = fetch(name, weights, revision=options.get("revision"), show=lambda line: print(line, flush=True))
    if left:
        print("\nTo do by hand:\n\n" + "\n\n".join(left))
        return 1
    if canonical(name) in REGISTRY:
        print(f"Look at names and shapes with: python -m model_zoo check {name} weights={shlex.quote(str(weights))}")
    return 0


def _apply_delta(version: str, weights: Path, options: dict[str, str]) -> int:
    from model_zoo.weights.delta import VICUNAS, apply_delta

    if version not in VICUNAS:
        raise ValueError(f"Unknown Vicuna '{version}'.{suggest(version, VICUNAS)} Expected v0 or v1.1.")
    if not options.get("llama"):
        raise ValueError("Missing llama=DIR, the folder of LLaMA-7B in Hugging Face's format. See --help.")
    delta, to = options.get("delta"), options.get("to")
    place = Path(delta).expanduser() if delta else weights / f"lmsys/vicuna-7b-delta-{version}"
    if not place.is_dir():
        command = fetch_command(f"hf:lmsys/vicuna-7b-delta-{version}", weights)
        raise FileNotFoundError(f"No folder '{place}'. Expected the published difference; get it with: {command}")
    target = Path(to).expanduser() if to else weights / VICUNAS[version].path
    print(f"Wrote {apply_delta(version, Path(options['llama']).expanduser(), place, target)}.")
    return 0


def _tiny(family: str, weights: Path) -> int:
    from model_zoo.hf.tiny.families import TINY
    from model_zoo.hf.tiny.write import write_tiny

    if family not in TINY:
        raise ValueError(f"Unknown family '{family}'.{suggest(family, TINY)} Available: {', '.join(TINY)}.")
    folder = weights / "tiny" / family
    print(f"Wrote {folder}." if write_tiny(family, folder) else f"{folder} is there already; nothing was written.")
    return 0


def _check(name: str, weights: Path) -> int:
    from model_zoo.check import check_all

    findings = check_all(name, weights, show=lambda finding: print(_line(finding), flush=True))
    bad = [finding for finding in findings if finding.state in ("WRONG", "MISSING")]
    if bad:
        if any(finding.state == "MISSING" for finding in bad) and not get_entry(name).embedded:
            print(f"Get what is missing with: {fetch_command(name, weights)}")
        print(f"\n{name}: {len(bad)} of {len(findings)} items need attention; it cannot be loaded from '{weights}'.")
        return 1
    if get_entry(name).served:
        print(f"\n{name}: it answers.")
        return 0
    print(f"\n{name}: complete; names, shapes and structure are as published. Values are not checked.")
    return 0


def _line(finding: tuple[str, str, str]) -> str:
    state, item, text = finding
    indented = text.replace("\n", "\n" + " " * 11)
    return f"{state:8} {item}: {indented}"


def _convert(name: str, weights: Path, options: dict[str, str]) -> int:
    if not options.get("to"):
        raise ValueError("Missing to=DIR, the folder to write. See --help.")

    if get_entry(name).embedded:
        raise ValueError(f"'{name}' ships with the package as safetensors. There is nothing to convert.")
    if get_entry(name).served:
        raise ValueError(f"'{name}' stands behind a server, so no weights of it are here to convert.")
    if get_entry(name).hf:
        raise ValueError(f"'{name}' is loaded from its Hugging Face folder as it is. There is nothing to convert.")
    from model_zoo.weights.convert import convert

    folder = convert(canonical(name), weights, Path(options["to"]).expanduser())
    print(f"Wrote {folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
