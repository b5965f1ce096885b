"""Any table of the report as CSV or LaTeX, with the reasons of undefined values, in the page and as files."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from archbench.artifacts import write_text
from archbench.report.cells import Cell, Table
from archbench.report.tables import escape_latex

# A longer table doesn't fit on a page, longer words not on a line: longtable and a column of sentences then.
LONGEST_FLOAT = 40
LONGEST_WORDS = 48
SENTENCE_WIDTH = 0.5
_INTERVAL = re.compile(r"[−-]?[\d.]+ to [−-]?[\d.]+")


def latex_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str,
    label: str = "",
    numeric: Sequence[bool] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return a booktabs table (a longtable if it is longer than a page); all text is escaped.

    Args:
        head: Column titles.
        rows: Cells, as many as titles.
        caption: Above the table.
        label: For \\ref; none if empty.
        numeric: Which columns are set to the right; None all but the first.
        notes: Lines below the table, e.g. why a value is undefined.
    Raises:
        ValueError: If a row has another number of cells than there are titles.
    """
    for k, row in enumerate(rows, start=1):
        if len(row) != len(head):
            raise ValueError(f"row {k} has {len(row)} cells, expected {len(head)}")
    right = [k > 0 for k in range(len(head))] if numeric is None else list(numeric)
    layout = "".join("r" if is_right else _words_column([row[k] for row in rows]) for k, is_right in enumerate(right))
    title = rf"\caption{{{escape_latex(caption)}}}" + (rf"\label{{{label}}}" if label else "")
    body = [r"\toprule", _line(head), r"\midrule", *(_line(row) for row in rows), r"\bottomrule"]
    below = [rf"\par\footnotesize {escape_latex(note)}" for note in notes]
    if len(rows) > LONGEST_FLOAT:
        lines = [r"{\small", rf"\begin{{longtable}}{{{layout}}}", rf"{title}\\", *body, r"\end{longtable}", *below, "}"]
    else:
        tabular = [rf"\begin{{tabular}}{{{layout}}}", *body, r"\end{tabular}"]
        lines = [r"\begin{table}", r"\centering\small", title, *tabular, *below, r"\end{table}"]
    return "\n".join(lines) + "\n"


def _words_column(cells: Sequence[str]) -> str:
    """A column of words; one with sentences is broken into lines."""
    return rf"p{{{SENTENCE_WIDTH}\linewidth}}" if any(len(cell) > LONGEST_WORDS for cell in cells) else "l"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"


def table_latex(table: Table) -> str:
    """Return a table of the page as LaTeX: values with their intervals, notes below."""
    return latex_table(
        [column.title for column in table.columns],
        [[_text(cell) for cell in row] for row in table.rows],
        caption=table.caption,
        label=f"tab:{table.identifier}",
        numeric=[column.numeric for column in table.columns],
        notes=[f"–: {note}" for note in table.notes],
    )


def table_csv(table: Table) -> str:
    """Return a table of the page as CSV, text as shown; lower lines and reasons have columns of their own.

    A column with lower lines is followed by one named "… (interval)", or "… (below)" where they are no intervals;
    reasons of undefined values stand in a last column.
    """
    below = [[row[k].sub for row in table.rows if row[k].sub] for k in range(len(table.columns))]
    with_reason = bool(table.notes)
    head: list[str] = []
    for column, lines in zip(table.columns, below, strict=True):
        title = _plain(column.title)
        what = "interval" if all(_INTERVAL.match(line) for line in lines) else "below"
        head += [title, f"{title} ({what})"] if lines else [title]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, "undefined because"] if with_reason else head)
    for row in table.rows:
        cells: list[str] = []
        for cell, second in zip(row, below, strict=True):
            shown = "" if cell.reason else _plain(cell.text)
            cells += [shown, _plain(cell.sub)] if second else [shown]
        reasons = "; ".join(dict.fromkeys(cell.reason for cell in row if cell.reason))
        writer.writerow([*cells, reasons] if with_reason else cells)
    return text.getvalue()


def _plain(text: str) -> str:
    """With the ordinary blanks and minus signs that a program expects."""
    return text.replace("\u00a0", " ").replace("\u202f", " ").replace("−", "-")


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.sub})" if cell.sub else cell.text


def tables_in(content: Any) -> Iterator[Table]:
    """Every table of the page's content, in its order."""
    if isinstance(content, Table):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from tables_in(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from tables_in(value)


def file_stem(table: Table) -> str:
    """The name of a table's files: its identifier without what a file name may not have."""
    return re.sub(r"[^\w.-]+", "_", table.identifier)


def write_tables(content: Any, folder: Path) -> None:
    """Write every table of the page as CSV and LaTeX into a folder of their own; tables of an earlier report go."""
    written = set()
    for table in tables_in(content):
        for text, suffix in ((table_csv(table), "csv"), (table_latex(table), "tex")):
            path = folder / f"{file_stem(table)}.{suffix}"
            write_text(path, text)
            written.add(path)
    for path in [*folder.glob("*.csv"), *folder.glob("*.tex")]:
        if path not in written:
            path.unlink()


def data_uri(text: str, kind: str) -> str:
    """A file inside the page: its link works without network and without the files beside the page."""
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"
