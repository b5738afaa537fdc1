"""Put a finished prompt on pictures, for use with any model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from datamodules.folder_scan import left_out_text, scan_files
from datamodules.writable import require_writable
from experiments.cli import parse_options, run_command
from lightning_modules.atomic import replace_file

if TYPE_CHECKING:
    from lightning_modules.prompts import Prompt


@dataclass
class Options:
    """
    python -m experiments.apply prompt=DIR images=FILE_OR_DIR out=DIR [key=value ...]
                      e.g. prompt=runs/embedded/ID/prompt images=photos out=prompted

    Reads a picture or a folder of them, writes one lossless PNG of frame x frame pixels for each. Pictures that cannot
    be read (damaged, or over 100 million pixels) are named and skipped; the exit code is then 1.
    """

    prompt: Path
    """a prompt artefact (prompt.png and manifest.json are enough)"""
    images: Path
    """one picture, or a folder of them with its subfolders"""
    out: Path
    """gets NAME.png for each picture, in the same subfolders; originals are never overwritten"""
    fit: Literal["crop", "letterbox"] = "crop"
    """the centre square of each picture, or all of it between black bars"""
    reading: Literal["png", "float"] = "png"
    """the 8-bit prompt, or prompt.safetensors (the results are 8-bit PNGs either way)"""
    overwrite: bool = False
    """replace results of an earlier call"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv)
    if options is None:
        return 0
    plan = plan_outputs(options.images, options.out)
    check_outputs(plan, options.out, overwrite=options.overwrite)
    require_writable(options.out, "the folder of the results", "out=DIR", inside=True)
    from rich.console import Console
    from rich.progress import track

    from lightning_modules.prompts import Prompt

    prompt = Prompt.load(options.prompt, reading=options.reading)
    console, skipped = Console(stderr=True), 0
    for source, target in track(plan.items(), "Prompting", console=console, disable=len(plan) < 8, transient=True):
        skipped += not put_on(prompt, source, target, fit=options.fit)
    print(f"Wrote {len(plan) - skipped} of {len(plan)} pictures ({prompt.frame} x {prompt.frame}) to '{options.out}'.")
    if skipped:
        print(f"Skipped {skipped} that could not be read, named above.", file=sys.stderr)
    return 1 if skipped else 0


def put_on(prompt: Prompt, source: Path, target: Path, *, fit: str) -> bool:
    """Write the prompted picture; False, with the reason on stderr, when `source` cannot be read."""
    from lightning_modules.apply_prompt import load_picture

    try:
        photo = load_picture(source)
    except (ValueError, FileNotFoundError, PermissionError) as error:
        print(f"Skipped: {error}", file=sys.stderr)
        return False
    buffer = BytesIO()
    prompt(photo, fit=fit).save(buffer, format="PNG")
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, buffer.getvalue(), sync=False)
    return True


def plan_outputs(images: Path, out: Path) -> dict[Path, Path]:
    """Picture -> result: NAME.png, or NAME.SUFFIX.png for all where two pictures would otherwise share a name.

    Raises:
        FileNotFoundError: no such file or folder, or a folder without pictures.
        ValueError: `out` lies inside `images`, so that results would mix with originals.
    """
    if images.is_file():
        return {images: out / f"{images.stem}.png"}
    if not images.is_dir():
        raise FileNotFoundError(f"No picture or folder '{images}'. Expected images=FILE or images=DIR.")
    if out.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"out='{out}' lies inside images='{images}'. Expected a folder outside it.")
    from datamodules.images import ENDINGS  # torch; the words are read first

    files = scan_files(images)
    found = [path for path in files if path.suffix.lower() in ENDINGS]
    if not found:
        raise FileNotFoundError(f"No pictures in '{images}'. Expected files ending in {', '.join(sorted(ENDINGS))}.")
    others = [path for path in files if path.suffix.lower() not in ENDINGS]
    if text := left_out_text("no pictures by their ending", others, images):
        print(text, file=sys.stderr)
    short = [out / path.relative_to(images).with_suffix(".png") for path in found]
    if len({str(path).casefold() for path in short}) < len(found):  # casefold: some file systems ignore case
        return {path: out / f"{path.relative_to(images)}.png" for path in found}
    return dict(zip(found, short, strict=True))


def check_outputs(plan: dict[Path, Path], out: Path, *, overwrite: bool) -> None:
    """Raises FileExistsError where a result would replace an original, or an earlier result without `overwrite`."""
    if out.is_file():
        raise FileExistsError(f"out='{out}' is a file. Expected a folder.")
    originals = {path.resolve() for path in plan}
    for target in plan.values():
        if target.resolve() in originals:
            raise FileExistsError(f"'{target}' is one of the originals. Expected another out=DIR.")
    existing = [target for target in plan.values() if target.exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"{len(existing)} of {len(plan)} results exist already, e.g. '{existing[0]}'. Expected a new out=DIR; to "
            "replace them: overwrite=true."
        )


if __name__ == "__main__":
    run_command(main)
