"""Tables about given masks: results with intervals, pairs, detection; typed cells for the page, CSV and text."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from archbench.artifacts import write_json, write_text
from archbench.report.cells import Cell, Column, Table, number_cell, record_cell
from archbench.report.labels import format_interval, format_p, format_share, format_value, metric_label

METRIC_DIGITS = {"hd95_mm": 2}
RESULT_KEYS = (
    *("value", "low", "high", "sd", "min", "median", "max"),
    *("n_cases", "n_patients", "undefined_cases", "reason"),
)
RESULT_COLUMNS = ("model", "label", "metric", *RESULT_KEYS, "prompt")
PAIR_COLUMNS = ("label", "metric", "primary", "a", "b", "difference", "low", "high", "p", "p_holm", "verdict")


def tool_label(summary: Mapping[str, Any], tool: str) -> str:
    """A tool's name, with what it was told beside the image."""
    told = summary["models"][tool].get("prompt")
    if not told:
        return tool
    return f"{tool} (told the true {told['kind']})" if told["source"] == "truth" else f"{tool} (given {told['kind']}s)"


def results_table(summary: Mapping[str, Any], structure: str, *, caption: str) -> Table:
    """Every tool, best first, with all metrics of one structure."""
    names = list(next(iter(summary["models"].values()))["structures"][structure])
    columns = [Column("Masks", numeric=False), *(_column(name) for name in names)]
    rows = []
    for tool in summary["order"]:
        records = summary["models"][tool]["structures"][structure]
        cells = [record_cell(records[name], draw=name == "dice", digits=METRIC_DIGITS.get(name, 3)) for name in names]
        rows.append([Cell(tool_label(summary, tool), tool.lower()), *cells])
    return Table(f"results-{structure}", caption, columns, rows, sortable=True)


def slices_table(summary: Mapping[str, Any]) -> Table | None:
    """Dice of single slices by structure; None of pictures."""
    found = summary.get("slices")
    if found is None:
        return None
    structures = list(next(iter(found["models"].values())))
    columns = [Column("Masks", numeric=False), *(Column(f"Dice, {name}") for name in structures)]
    rows = [
        [Cell(tool, tool.lower()), *(record_cell(found["models"][tool][name]) for name in structures)]
        for tool in summary["order"]
    ]
    caption = (
        f"{found['n_slices']} slices, each by itself, mean over patients: a slice that lacks the structure has no "
        "Dice. Models are ranked and compared by whole volumes, above."
    )
    return Table("slices", caption, columns, rows, sortable=True)


def named(table: Table | None, prefix: str) -> Table | None:
    """Return a table whose name starts so: a page of several datasets has each of them several times."""
    return table and replace(table, identifier=f"{prefix}{table.identifier}")


def _column(name: str) -> Column:
    label = metric_label(name)
    return Column(label.short, label.explanation)


def pairs_table(summary: Mapping[str, Any]) -> Table | None:
    """Every pair of tools by the primary metric."""
    pairs = summary["comparison"]["dice"]["pairs"]
    if not pairs:
        return None
    columns = [
        Column("Pair", numeric=False),
        Column("Difference in Dice", "first minus second, over the same redrawn patients"),
        Column("p", "bootstrap over patients, one pair alone"),
        Column("p (Holm)", "corrected over all pairs"),
        Column("Verdict on the first", numeric=False),
    ]
    rows = []
    for pair in pairs:
        record = {"value": pair["difference"], "low": pair["low"], "high": pair["high"]}
        rows.append(
            [
                Cell(f"{pair['a']} − {pair['b']}", pair["a"]),
                record_cell({**record, "reason": "undefined for one of the two"}, draw=True),
                number_cell(pair["p"], format_p(pair["p"]), reason="no test"),
                number_cell(pair["p_holm"], format_p(pair["p_holm"]), reason="no test"),
                Cell(pair["verdict"], pair["verdict"]),
            ]
        )
    return Table("pairs", "Paired comparison of every two.", columns, rows, sortable=True)


def detection_table(summary: Mapping[str, Any]) -> Table:
    """Whether a structure is found where it exists, and left out where not."""
    unit = {"mm2": "mm²", "mm3": "mm³"}[summary["size_unit"]]
    columns = [
        Column("Masks", numeric=False),
        Column("Label", numeric=False),
        Column("Found", "truth and prediction hold it"),
        Column("Missed", "only the truth holds it: Dice 0, HD95 the image diagonal"),
        Column("False", "only the prediction holds it: Dice undefined"),
        Column("Both empty", "Dice undefined, a true negative"),
        Column("Sensitivity", "share of the cases that hold it in which something is found"),
        Column("Specificity", "share of the cases without it in which nothing is drawn"),
        Column(f"False size ({unit})", "mean size of the false ones"),
    ]
    rows = []
    for tool in summary["order"]:
        for name, found in summary["models"][tool]["detection"].items():
            counts = [found[key] for key in ("true_positive", "false_negative", "false_positive", "true_negative")]
            size = found["mean_false_positive_size"]
            cells = [Cell(str(count), count) for count in counts]
            shares = [record_cell(found[key]) for key in ("sensitivity", "specificity")]
            wrong = number_cell(size, format_value(size, 1), reason="no false positive")
            rows.append([Cell(tool, tool.lower()), Cell(name, name.lower()), *cells, *shares, wrong])
    return Table("detection", "Cases by whether their masks are empty.", columns, rows, sortable=True)


def success_table(summary: Mapping[str, Any]) -> Table:
    """How many cases could be scored."""
    columns = [Column("Masks", numeric=False), Column("Cases"), Column("Usable"), Column("Share"), Column("Compared")]
    rows = []
    for tool in summary["order"]:
        found = summary["models"][tool]
        counts = [Cell(str(found[key]), found[key]) for key in ("total", "successful")]
        share = Cell(format_share(found["success_rate"]), found["success_rate"])
        rows.append([Cell(tool, tool.lower()), *counts, share, Cell(str(found["scored"]), found["scored"])])
    return Table("success", "Cases that could be used; tools are compared on those all have.", columns, rows)


def inference_table(summary: Mapping[str, Any]) -> Table:
    """What predicting the masks took."""
    columns = [
        Column("Masks", numeric=False),
        Column("Seconds per case", "network alone, in batches, mean over the test cases; of a volume all its slices"),
        Column("Peak memory (MiB)", "of the whole process, or of the GPU"),
    ]
    rows = []
    for tool in summary["order"]:
        found = summary["models"][tool]
        seconds, memory = found["inference_seconds"], found["peak_memory_mib"]
        told = number_cell(memory, format_value(memory, 0), reason="this system doesn't tell")
        rows.append([Cell(tool, tool.lower()), Cell(format_value(seconds, 4), seconds), told])
    return Table("inference", "Predicting the test masks with torch.", columns, rows, sortable=True)


def results_csv(summary: Mapping[str, Any]) -> str:
    """One row per tool, label and metric."""
    return _csv([[*RESULT_COLUMNS], *_result_rows(summary)])


def study_csv(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per dataset, model, label and metric."""
    rows = [[dataset, *row] for dataset, summary in summaries.items() for row in _result_rows(summary)]
    return _csv([["dataset", *RESULT_COLUMNS], *rows])


def _result_rows(summary: Mapping[str, Any]) -> list[list[Any]]:
    told = {tool: summary["models"][tool].get("prompt") for tool in summary["order"]}
    prompts = {tool: f"{entry['kind']} of {entry['source']}" if entry else "" for tool, entry in told.items()}
    return [
        [tool, structure, metric, *(record[key] for key in RESULT_KEYS), prompts[tool]]
        for tool in summary["order"]
        for structure, records in summary["models"][tool]["structures"].items()
        for metric, record in records.items()
    ]


def pairs_csv(summary: Mapping[str, Any]) -> str:
    """One row per pair, label and metric; only the primary one has a verdict."""
    rows = []
    for structure, by_metric in summary["pairs"].items():
        for metric, pairs in by_metric.items():
            primary = structure == summary["structures"][0] and metric == "dice"
            for pair in pairs:
                values = {**pair, "label": structure, "metric": metric, "primary": "yes" if primary else "no"}
                rows.append([values[key] if primary or key != "verdict" else "" for key in PAIR_COLUMNS])
    return _csv([list(PAIR_COLUMNS), *rows])


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write a summary of masks as JSON, its results and comparisons as CSV, and all of it as text."""
    write_text(folder / "results.csv", results_csv(summary))
    write_text(folder / "comparison.csv", pairs_csv(summary))
    write_text(folder / "comparison.txt", to_text(summary))
    write_json(folder / "summary.json", summary)


def _csv(rows: list[list[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def to_text(summary: Mapping[str, Any]) -> str:
    """The results of the first structure, and the pairs, for a terminal."""
    structure = summary["structures"][0]
    names = list(next(iter(summary["models"].values()))["structures"][structure])
    head = ["masks", *(metric_label(name).short for name in names)]
    rows = []
    for tool in summary["order"]:
        records = summary["models"][tool]["structures"][structure]
        rows.append(
            [tool_label(summary, tool), *(format_interval(records[name], METRIC_DIGITS.get(name, 3)) for name in names)]
        )
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    level = f"{100 * summary['settings']['confidence']:g} %"
    counts = f"{summary['n_cases']} cases of {summary['n_patients']} patients"
    lines = [f"{structure}: mean over patients with {level} intervals, {counts}"]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    for pair in summary["comparison"]["dice"]["pairs"]:
        value = format_interval({**pair, "value": pair["difference"]})
        lines.append(f"{pair['a']} − {pair['b']}: {value}, p (Holm) {format_p(pair['p_holm'])}, {pair['verdict']}")
    lines += [f"Note: {warning}" for warning in summary["warnings"]]
    return "\n".join(line.rstrip() for line in lines) + "\n"
