"""The results table as CSV, text and LaTeX: one row per dataset and model, the ensemble among them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from archbench.report.collect import DatasetResult, ModelResult, StudyResult
from archbench.report.labels import (
    architecture_of,
    format_duration,
    format_interval,
    format_ms,
    format_rate,
    format_si,
    format_value,
    metric_label,
    pair_with_best,
    verdict_against_best,
    weights_of,
)

MIB = 1024 * 1024
HEADLINE_METRICS = (
    *("accuracy", "macro_f1", "auroc_macro"),
    *("f1_macro", "hamming_accuracy", "positive_rate"),
    *("score_mae", "risk_accuracy", "rmse", "pearson", "r2"),
)
LABEL_HEADLINE = "auprc_macro"
PHANTOM_HEADING = "PHANTOM DATA: drawn by the program, with known truth. Not a result about patients."


def metric_names(datasets: Sequence[DatasetResult]) -> list[str]:
    """All metrics of the datasets, the primary ones first, then in the order of the artifacts."""
    names = dict.fromkeys(dataset.primary for dataset in datasets)
    for dataset in datasets:
        for model in dataset.evaluated:
            names.update(dict.fromkeys(model.metrics["metrics"] if model.metrics else ()))
    return list(names)


def headline_metrics(dataset: DatasetResult) -> list[str]:
    """The primary metric and the few that stand beside it in the main table."""
    known = metric_names([dataset])
    wanted = (LABEL_HEADLINE, *HEADLINE_METRICS) if dataset.outputs == "labels" else HEADLINE_METRICS
    return [dataset.primary, *(name for name in wanted if name in known and name != dataset.primary)]


def result_rows(study: StudyResult) -> list[dict[str, Any]]:
    """One flat row per dataset and model; a value that does not exist is None.

    Returns:
        Rows with the same keys in the same order: identity, every metric with its interval,
        calibration, cost, counts, verdict, status. Values are those of the artifacts, unrounded.
    """
    names = metric_names(study.datasets)
    return [_result_row(dataset, model, names) for dataset in study.datasets for model in dataset.models]


def _result_row(dataset: DatasetResult, model: ModelResult, names: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "dataset": dataset.name,
        "model": model.name,
        "architecture": architecture_of(model.entry),
        "image_size": next(iter(model.settings("image_size")), model.entry.get("image_size")),
        "weights": weights_of(model.entry),
    }
    for name in names:
        row.update(_record_columns(name, model.record(name)))
    row.update(_record_columns("ece", ((model.calibration or {}).get("ece") or {}).get("calibrated")))
    row.update(cost_of(dataset, model))
    metrics = model.metrics or {}
    pair = pair_with_best(dataset.comparison, model.name)
    verdict = verdict_against_best(dataset.comparison, model.name)
    row.update(
        n_cases=metrics.get("n_cases"),
        n_patients=metrics.get("n_patients"),
        verdict=verdict.word if verdict else None,
        difference_to_best=None if pair is None else pair["difference"],
        status=model.status,
        data="phantom" if dataset.phantom else "real",
    )
    return row


def _record_columns(name: str, record: Mapping[str, Any] | None) -> dict[str, Any]:
    record = record or {}
    return {name: record.get("value"), f"{name}_low": record.get("low"), f"{name}_high": record.get("high")}


def cost_of(dataset: DatasetResult, model: ModelResult) -> dict[str, float | None]:
    """What a model costs: latency and throughput (of the headline's runtime), parameters, file size, training.

    Returns:
        latency_ms is the median at batch 1; throughput_img_per_s the highest over the batch
        sizes; train_seconds the sum over folds and seeds, None unless all of them are known.
    """
    timing = dataset.latency(model.name)
    rates = [
        row["throughput_img_per_s"]
        for row in (dataset.timing or {}).get("results", [])
        if row["model"] == model.name and row["runtime"] == dataset.headline_runtime
    ]
    export = model.export or {}
    seconds = model.settings("train_seconds")
    onnx_bytes = export.get("onnx_bytes")
    return {
        "latency_ms": timing["median_ms"] if timing else None,
        "throughput_img_per_s": max(rates, default=None),
        "parameters": export.get("parameters") or next(iter(model.settings("parameters")), None),
        "onnx_mib": None if onnx_bytes is None else onnx_bytes / MIB,
        "train_seconds": sum(seconds) if seconds and len(seconds) == len(model.runs) else None,
    }


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with full precision; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else ["dataset"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def to_text(study: StudyResult) -> str:
    """The results as aligned plain text: per dataset a table of quality and one of cost."""
    blocks = [f"Results of study {study.name}"]
    for dataset in study.datasets:
        heading = [f"Dataset {dataset.name}{_size_of(dataset)}"]
        if dataset.phantom:
            heading.insert(0, PHANTOM_HEADING)
        blocks += ["\n".join(heading), _align(_quality_grid(dataset)), _align(_cost_grid(dataset))]
        absent = [f"{m.status.upper()} {m.name}: {'; '.join(m.missing.values())}" for m in dataset.without_result]
        blocks += ["\n".join(absent)] if absent else []
    return "\n\n".join(blocks) + "\n"


def _size_of(dataset: DatasetResult) -> str:
    metrics = next((model.metrics for model in dataset.evaluated if model.metrics), None)
    return f": {metrics['n_cases']} cases of {metrics['n_patients']} patients" if metrics else ""


def _quality_grid(dataset: DatasetResult) -> list[list[str]]:
    names = headline_metrics(dataset)
    grid = [["model", *(metric_label(name).short for name in names)]]
    for model in dataset.models:
        grid.append([model.name, *(format_interval(model.record(name)) for name in names)])
    return grid


def _cost_grid(dataset: DatasetResult) -> list[list[str]]:
    speed = (f"ms/{dataset.unit}", f"{dataset.unit}s/s")
    grid = [["model", "against best", "ECE", *speed, "params", "MiB", "training", "status"]]
    for model in dataset.models:
        row = _result_row(dataset, model, ())
        grid.append(
            [
                model.name,
                row["verdict"] or "–",
                format_value(row["ece"]),
                format_ms(row["latency_ms"]),
                format_rate(row["throughput_img_per_s"]),
                format_si(row["parameters"]),
                format_value(row["onnx_mib"], 1),
                format_duration(row["train_seconds"]),
                model.status,
            ]
        )
    return grid


def _align(grid: Sequence[Sequence[str]]) -> str:
    plain = [[cell.replace("\u00a0", " ").replace("\u202f", " ") for cell in row] for row in grid]
    widths = [max(len(row[k]) for row in plain) for k in range(len(plain[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in plain
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(line.rstrip() for line in lines)


_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "≥": r"$\geq$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\u00a0": "~",
    "\u202f": r"\,",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """Text with every character that LaTeX reads as a command escaped."""
    return "".join(_LATEX_SPECIAL.get(character, character) for character in text)


def to_latex(study: StudyResult) -> str:
    """The results as LaTeX tables (booktabs), one per dataset."""
    return "\n".join(_latex_table(study, dataset) for dataset in study.datasets)


def _latex_table(study: StudyResult, dataset: DatasetResult) -> str:
    names = headline_metrics(dataset)
    head = ["Model", *(metric_label(n).short for n in names), "Against best", "ECE", "Latency (ms)", "Params"]
    body = []
    for model in dataset.models:
        row = _result_row(dataset, model, ())
        cells = [model.name, *(format_interval(model.record(name)) for name in names)]
        cells += [row["verdict"] or "–", format_value(row["ece"]), format_ms(row["latency_ms"])]
        body.append([*cells, format_si(row["parameters"])])
    phantom = "Phantom data. " if dataset.phantom else ""
    caption = f"{phantom}Study {study.name}, dataset {dataset.name}{_size_of(dataset)}."
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{escape_latex(caption)} Intervals resample patients.}}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(escape_latex(cell) for cell in head) + r" \\",
        r"\midrule",
        *(" & ".join(escape_latex(cell) for cell in row) + r" \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
