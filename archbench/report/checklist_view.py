"""The reporting check lists as a table of the page and as Markdown."""

from __future__ import annotations

from archbench.report.cells import Cell, Column, Table
from archbench.report.checklist import reporting_checklist
from archbench.report.collect import StudyResult


def checklist_table(study: StudyResult) -> Table:
    """The check lists as a table of the page; what the author must fill stands out."""
    items = reporting_checklist(study)
    rows = [
        [
            Cell(f"{item.guideline} {item.number}", f"{item.guideline} {k:03d}"),
            Cell(item.subject, item.subject),
            Cell(item.text, item.text, tone="" if item.answer else "warn"),
        ]
        for k, item in enumerate(items)
    ]
    columns = [
        Column("Item", "number in the guideline, whose own text is to be read where it was published", numeric=False),
        Column("Subject", numeric=False),
        Column("From this run", numeric=False),
    ]
    filled = sum(item.answer is not None for item in items)
    text = (
        f"{filled} of {len(items)} items of CLAIM and TRIPOD+AI are filled from the run, the others are the author's."
    )
    phantom = "Phantom data. " if study.phantom else ""
    return Table("checklist", f"{phantom}Study {study.name}: {text}", columns, rows, sortable=True)


def checklist_markdown(study: StudyResult) -> str:
    """The check lists as Markdown, one table per guideline."""
    lines = [f"# Reporting check list: study {study.name}", ""]
    if study.phantom:
        lines += ["Phantom data: not a result about patients.", ""]
    items = reporting_checklist(study)
    for guideline in dict.fromkeys(item.guideline for item in items):
        lines += [f"## {guideline}", "", "| Item | Subject | From this run |", "|---|---|---|"]
        for item in items:
            if item.guideline == guideline:
                lines.append("| " + " | ".join(_cell(t) for t in (item.number, item.subject, item.text)) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
