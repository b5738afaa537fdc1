"""The report's tables and verdict as Markdown: report.md, and the section of the docs."""

from __future__ import annotations

from experiments.report import tables
from experiments.report.load import Material
from experiments.report.numbers import TextTable
from experiments.report.sections.examples import regression_table
from experiments.report.sections.headroom import headroom_section
from experiments.report.sections.why import why_section
from experiments.report.verdict import about, verdicts

PAGE_LINE = "Curves, pictures and the matrix with intervals: [report.html](report.html)."


def markdown_table(table: TextTable) -> str:
    """The table with its caption below, or a line that says there is nothing."""
    if not table.rows:
        return f"{table.caption} None.\n"
    lines = [f"| {' | '.join(table.header)} |", "|---" + "|---:" * (len(table.header) - 1) + "|"]
    rows = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table.rows]
    return "\n".join([*lines, *(f"| {row} |" for row in rows), "", table.caption]) + "\n"


def result_section(statistics: dict, *, label: str) -> str:
    """docs/results.md on a sweep: what it is, the verdict in words, the headline tables, one table a data set, alarms.

    label: what the sweep is called in the text, e.g. `sweep=embedded`.
    """
    data_sets = sorted({cell["data"] for cell in statistics["cells"]})
    parts = [f"{label}: {about(statistics)}", "\n".join(f"* {text}" for text in verdicts(statistics))]
    parts += [markdown_table(tables.headline(statistics)), markdown_table(tables.headline(statistics, "source"))]
    parts += [markdown_table(tables.differences(statistics))]
    parts += [markdown_table(tables.shared(statistics))]
    parts += [markdown_table(tables.by_target(statistics, data)) for data in data_sets]
    parts += [markdown_table(tables.controls(statistics)), markdown_table(_few(tables.alarms(statistics), 10))]
    return "\n\n".join(part.strip() for part in parts)


def _few(table: TextTable, most: int) -> TextTable:
    left = len(table.rows) - most
    more = f" The {most} largest losses; {left} more are in the report." if left > 0 else ""
    return table._replace(caption=table.caption + more, rows=table.rows[:most])


def report_markdown(material: Material) -> str:
    """report.md: the verdict in words and every table of numbers."""
    statistics = material.statistics
    named = [
        ("Average gains", tables.headline(statistics)),
        ("On the source itself", tables.headline(statistics, "source")),
        ("Paired differences", tables.differences(statistics)),
        ("Negative transfer", tables.alarms(statistics)),
        *((f"Targets: {data}", tables.by_target(statistics, data)) for data in material.data_sets()),
        ("By what source and target share", tables.shared(statistics)),
        *tables.finer(statistics).items(),
        ("Without a learned prompt", tables.controls(statistics)),
        ("Worst regressions", regression_table(material)),
        ("Missing or failed", tables.missing(statistics)),
    ]
    parts = [f"# Transfer report: {material.name}", *([material.label] if material.label else []), about(statistics)]
    parts += ["\n".join(f"* {text}" for text in verdicts(statistics))]
    parts += [PAGE_LINE]
    parts += [f"## {title}\n\n{markdown_table(content).strip()}" for title, content in named]
    for part in headroom_section(material.folder):
        parts += [f"## Headroom before training: {part['data']}", "\n".join(f"* {text}" for text in part["verdict"])]
        parts += [markdown_table(content).strip() for content in part["tables"]]
    for part in (why_section(material.folder) or {"parts": []})["parts"]:
        parts += [f"## Why: {part['data']}", "\n".join(f"* {text}" for text in part["says"])]
        parts += [markdown_table(content).strip() for content in part["tables"]]
    return "\n\n".join(parts) + "\n"
