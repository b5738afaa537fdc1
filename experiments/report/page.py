"""The page and its Markdown sister, put together from sections. Same input, same bytes: no time, host or path."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template

from experiments.report.load import Material
from experiments.report.markup import paragraph
from experiments.report.sections.curves import curves_section, drift_section
from experiments.report.sections.examples import examples_section, regressions_section
from experiments.report.sections.gallery import Gallery
from experiments.report.sections.headline import alarms_section, headline_section, reading_section
from experiments.report.sections.matrix import heatmap
from experiments.report.sections.prompts import prompts_section
from experiments.report.sections.runs import missing_section, runs_section
from experiments.report.verdict import EMBEDDED, about, verdicts

HERE = Path(__file__).parent


def page(material: Material) -> str:
    """One HTML document that needs no other file and asks for none."""
    gallery = Gallery()
    sections = {
        "headline": ("Average gains", headline_section(material)),
        "negative": ("Negative transfer", alarms_section(material)),
        "matrix": ("Source × target", heatmap(material)),
        "curves": ("Gain curves", curves_section(material)),
        "prompts": ("The prompts", prompts_section(material)),
        "examples": ("Prompted examples", examples_section(material, gallery)),
        "regressions": ("Worst regressions", regressions_section(material, gallery)),
        "drift": ("Feature drift and gain", drift_section(material)),
        "runs": ("Runs", runs_section(material)),
        "missing": ("Missing or failed", missing_section(material)),
        "reading": ("How to read this", reading_section(material)),
    }
    intros = _intros(material, gallery)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{escape(title)}</h2>'
        f"{paragraph(intros[key], 'intro') if key in intros else ''}{inner}</section>"
        for key, (title, inner) in sections.items()
    )
    links = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, (title, _) in sections.items())
    return Template((HERE / "page.html").read_text()).substitute(
        title=escape(f"Transfer report: {material.name}"),
        name=escape(material.name),
        about=_about(material),
        verdicts=f"<ul>{''.join(map(_verdict, verdicts(material.statistics)))}</ul>",
        links=links,
        body=body,
        style=(HERE / "page.css").read_text(),
        script=(HERE / "page.js").read_text(),
    )


def _about(material: Material) -> str:
    text = about(material.statistics)
    plain = text.replace(EMBEDDED, "").strip()
    note = f'<p class="note"><b>Tiny models.</b> {escape(EMBEDDED)}</p>' if EMBEDDED in text else ""
    note = (f'<p class="note">{escape(material.label)}</p>' if material.label else "") + note
    return f"<p>{escape(plain[:1].upper() + plain[1:])}</p>{note}"


def _verdict(text: str) -> str:
    """A sentence `lead: rest` as a list item, its lead in bold; several parts `a; b; c` are a list of their own."""
    lead, colon, rest = text.partition(": ")
    parts = rest.rstrip(".").split("; ")
    inner = f"<ul>{''.join(f'<li>{escape(part)}</li>' for part in parts)}</ul>" if len(parts) > 2 else escape(rest)
    return f"<li><b>{escape(lead + colon)}</b>{inner}</li>"


def _intros(material: Material, gallery: Gallery) -> dict[str, str]:
    """What the reader should know before a section."""
    method = material.method
    reasons = "; ".join(gallery.reasons())
    where = f" Pictures are absent where the data are not here: {reasons}." if reasons else ""
    return {
        "matrix": "How much the prompt of each source changes each target. Interval, n, seeds and p on focus or hover.",
        "prompts": f"What {method} learned on each source (lowest seed), the other methods' prompts beside it.",
        "examples": f"The first {material.examples} test samples by id with {method}'s prompt (lowest seed), not "
        f"chosen by outcome: answers with the black border before, with the prompt after.{where}",
        "regressions": "Chosen because they are the worst; they are not typical. Samples: right with the black border, "
        f"wrong with the prompt, the largest loss of the right answer's lead first.{where}",
    }
