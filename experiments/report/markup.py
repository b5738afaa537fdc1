"""Pieces of HTML: escaped text, tables with captions and scopes, pictures as data."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from experiments.report.charts import DASHES, MARKERS
from experiments.report.numbers import TextTable

LARGE = 96
"""Frames wider than this are stored with loss (WebP) where they illustrate; a page must stay small."""


def table(content: TextTable, *, classes: str = "", rows: Sequence[str] | None = None) -> str:
    """A table in a box that scrolls sideways by itself; the first column's cells are row headers.

    rows: ready-made <tr> instead of those of `content`.
    """
    if not content.rows and not rows:
        return f'<p class="none">{escape(content.caption)} None.</p>'
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in content.header)
    body = "".join(rows if rows is not None else map(_row, content.rows))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(content.caption[:80])}">'
        f'<table class="{classes}"><caption>{escape(content.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[str]) -> str:
    first, *others = cells
    return f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{_value(cell)}</td>" for cell in others)}</tr>'


def _value(text: str) -> str:
    """A number and its interval never break inside; between them they may."""
    value, bracket, interval = text.partition(" [")
    return f"{escape(value)} <span class='iv'>[{escape(interval)}</span>" if bracket else escape(text)


def paragraph(text: str, classes: str = "") -> str:
    return f'<p class="{classes}">{escape(text)}</p>' if classes else f"<p>{escape(text)}</p>"


def bullets(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def details(summary: str, inner: str, *, classes: str = "") -> str:
    return f'<details class="{classes}"><summary>{escape(summary)}</summary>{inner}</details>'


def figure(chart: str, caption: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{chart}</figure>"


def options(label: str, key: str, choices: Sequence[tuple[str, str]], chosen: str) -> str:
    """A <select> the script listens to by its id."""
    parts = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(text)}</option>'
        for value, text in choices
    )
    return f'<label for="{key}">{escape(label)} <select id="{key}">{parts}</select></label>'


def picture(image: Any, alt: str, *, classes: str = "pixels", lossy: bool = False) -> str:
    """A PIL image inline: PNG, or WebP where `lossy`."""
    buffer = io.BytesIO()
    kind = "webp" if lossy else "png"
    image.save(buffer, format=kind, **({"quality": 82, "method": 6} if lossy else {"optimize": True}))
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img class="{classes}" src="data:image/{kind};base64,{data}" width="{image.width}" height="{image.height}" '
        f'alt="{escape(alt)}">'
    )


def data_script(key: str, content: Any) -> str:
    """JSON the page's script reads; it cannot end the script element."""
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{key}">{text}</script>'


SHAPES = {
    "o": '<circle cx="0" cy="0" r="4"/>',
    "s": '<rect x="-3.6" y="-3.6" width="7.2" height="7.2"/>',
    "^": '<path d="M0 -4.4L4.4 3.6H-4.4Z"/>',
    "D": '<path d="M0 -4.8L4.8 0L0 4.8L-4.8 0Z"/>',
    "v": '<path d="M0 4.4L4.4 -3.6H-4.4Z"/>',
    "P": '<path d="M-1.5 -4.4h3v2.9h2.9v3h-2.9v2.9h-3v-2.9h-2.9v-3h2.9Z"/>',
    "X": '<path transform="rotate(45)" d="M-1.5 -4.4h3v2.9h2.9v3h-2.9v2.9h-3v-2.9h-2.9v-3h2.9Z"/>',
    "*": '<path d="M0 -5L1.3 -1.5L5 -1.5L2 .8L3 4.4L0 2.2L-3 4.4L-2 .8L-5 -1.5L-1.3 -1.5Z"/>',
}


def legend(names: Sequence[tuple[int, str]], *, marks: bool = True) -> str:
    """Swatches with the line, marker and name of every series: what `charts` draws for the same place."""
    items = []
    for place, name in names:
        dash = DASHES[place]
        style = "" if dash == "-" else f' stroke-dasharray="{" ".join(str(1.6 * part) for part in dash[1])}"'
        items.append(
            f'<li><svg viewBox="-14 -6 28 12" width="28" height="12" aria-hidden="true" style="color:var(--s{place})">'
            f'<path d="M-13 0H13" stroke="currentColor" stroke-width="1.6"{style}/>'
            f'<g fill="currentColor">{SHAPES[MARKERS[place]] if marks else ""}</g></svg>{escape(name)}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'
