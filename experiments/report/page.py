"""The page, put together from sections. Same input, same bytes: no time, host or path."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report import tables
from experiments.report.charts import swatch
from experiments.report.load import Material
from experiments.report.sections.curves import curves_section, drift_section
from experiments.report.sections.examples import examples_section, regressions_section
from experiments.report.sections.gallery import Gallery
from experiments.report.sections.headline import alarms_section, headline_section, reading_section
from experiments.report.sections.headroom import headroom_section
from experiments.report.sections.matrix import matrix_section
from experiments.report.sections.prompts import prompts_section
from experiments.report.sections.runs import runs_section
from experiments.report.sections.why import why_section
from experiments.report.verdict import EMBEDDED, about, verdicts
from experiments.tracking.heat_map import GAIN, LOSS

HERE = Path(__file__).parent


def page(material: Material) -> str:
    """One HTML document that needs no other file and asks for none."""
    gallery, said = Gallery(), about(material.statistics)
    # Key (its id and its template `<key>.html`), title, and the plain data that the template shows as `it`.
    headroom, why = headroom_section(material.folder), why_section(material.folder)
    sections = [
        ("headline", "Average gains", headline_section(material)),
        ("negative", "Negative transfer", alarms_section(material)),
        ("matrix", "Source × target", matrix_section(material)),
        *([("headroom", "Headroom before training", headroom)] if headroom else []),
        ("curves", "Gain curves", curves_section(material)),
        ("prompts", "The prompts", prompts_section(material)),
        ("examples", "Prompted examples", examples_section(material, gallery)),
        ("regressions", "Worst regressions", regressions_section(material, gallery)),
        ("drift", "Feature drift and gain", drift_section(material)),
        *([("why", "Why: features, frames, offsets", why)] if why else []),
        ("runs", "Runs", runs_section(material)),
        ("missing", "Missing or failed", tables.missing(material.statistics)),
        ("reading", "How to read this", reading_section(material)),
    ]
    plain = said.replace(EMBEDDED, "").strip()
    return (
        environment()
        .get_template("page.html")
        .render(
            material=material,
            about=plain[:1].upper() + plain[1:],
            tiny=EMBEDDED if EMBEDDED in said else "",
            verdicts=verdicts(material.statistics),
            sections=sections,
            reasons=gallery.reasons(),
            gain=GAIN,
            loss=LOSS,
        )
    )


def environment() -> Environment:
    """Text is escaped wherever a template puts it; only charts say of themselves (`Markup`) that they are SVG."""
    made = Environment(
        loader=FileSystemLoader([HERE / "templates", HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["swatch"] = swatch
    made.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":"), "allow_nan": False}
    return made
