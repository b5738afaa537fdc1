"""Writes the tables of the README that follow from data: `python -m experiments.readme` (a test compares them)."""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def weights_tables() -> str:
    """Every published model with its two commands, then every file once, with who needs it."""
    return "\n".join([*_models(), "", *_files()])


def _models() -> list[str]:
    from model_zoo.memory import source_need, target_need
    from model_zoo.published import PUBLISHED
    from model_zoo.registry import get_entry
    from model_zoo.sizes import PUBLISHED_SIZES

    lines = [
        "| name | what | parameters | GiB as source / target | check the files | train on it |",
        "|---|---|---|---|---|---|",
    ]
    for name in PUBLISHED:
        sizes, entry = PUBLISHED_SIZES[name], get_entry(name)
        source = source_need(sizes, 16, "bfloat16", clip=True).total / 2**30
        target = target_need(sizes, 32, "bfloat16").total / 2**30
        lines.append(
            f"| `{name}` | {entry.description} | {sizes.parameters / 1e6:,.1f} M | {source:.0f} / {target:.0f} "
            f"| `python -m model_zoo check {name} weights=weights` | `make train EXP=cifar10_{name}` |"
        )
    return lines


def _files() -> list[str]:
    from model_zoo.published import PUBLISHED

    users: dict[str, list[str]] = {}
    items = {}
    for name, known in PUBLISHED.items():
        for item in known.files:
            items[item.path] = item
            users.setdefault(item.path, []).append(name)
    lines = ["| below `weights/` | what | published | licence | needed by |", "|---|---|---|---|---|"]
    for path, item in items.items():
        folder = "/" if item.holds else ""
        lines.append(f"| `{path}{folder}` | {item.what} | {item.source} | {item.licence} | {', '.join(users[path])} |")
    return lines


CHOSEN = ("svhn", "eurosat", "oxford_pets", "dtd")
"""Not named by the paper: our choice (METHOD.md section 6)."""


def data_table() -> str:
    """The ten data sets and CIFAR-10-C: task, size, licence, where from, and the command that gets them."""
    from datamodules.published import PUBLISHED

    lines = ["| name | task | what | to get | licence | publisher | command |", "|---|---|---|---|---|---|---|"]
    for name, known in PUBLISHED.items():
        size = sum(max(archive.size or 0 for archive in part) for part in known.parts())
        amount = f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB" if size else "by hand"
        mark = " (our choice)" if name in CHOSEN else ""
        lines.append(
            f"| `{name}`{mark} | {known.task} | {known.what} | {amount} | {known.licence} | {known.homepage} "
            f"| `python -m datamodules prepare {name}` |"
        )
    return "\n".join(lines)


def sections() -> dict[str, str]:
    """Mark -> generated text."""
    return {"weights": weights_tables(), "data": data_table()}


def replace(text: str, mark: str, section: str) -> str:
    """`text` with what lies between `<!-- mark -->` and `<!-- /mark -->` replaced. Raises ValueError without marks."""
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    if start not in text or end not in text:
        raise ValueError(f"README.md has no '{start}' ... '{end}'. Expected both marks; put them back.")
    before, after = text.split(start)[0], text.split(end)[1]
    return f"{before}{start}\n{section}\n{end}{after}"


def main() -> None:
    text = README.read_text()
    for mark, section in sections().items():
        text = replace(text, mark, section)
    README.write_text(text)
    print(f"Wrote {README.name}: {', '.join(sections())}.")


if __name__ == "__main__":
    main()
