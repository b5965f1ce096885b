"""Tables of the page about quality: the main table, per class, confusion, pairs, ensemble, planted truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from archbench.report.cells import Cell, Column, Table, number_cell, record_cell, undefined_cell
from archbench.report.collect import FAILED, DatasetResult, ModelResult
from archbench.report.labels import (
    architecture_of,
    format_count,
    format_duration,
    format_interval,
    format_ms,
    format_share,
    format_si,
    format_value,
    metric_label,
    verdict_against_best,
    weights_of,
)
from archbench.report.quality_figures import ranked
from archbench.report.tables import cost_of, headline_metrics
from archbench.report.timing import runtime_name

NOT_EVALUATED = "the model has no result: it failed, or was not finished"


def caption(dataset: DatasetResult, text: str) -> str:
    """A table caption that names the dataset and says so where the data are phantoms."""
    return f"{'Phantom data. ' if dataset.phantom else ''}Dataset {dataset.name}: {text}"


def main_table(dataset: DatasetResult) -> Table:
    """Model, primary metric with its interval drawn, verdict, calibration, latency, size, training."""
    names = headline_metrics(dataset)
    columns = [
        Column("Model", "architecture, input size and starting weights below the name", numeric=False),
        *(Column(metric_label(name).short, _metric_hint(name)) for name in names),
        Column("Against the best", "paired test over patients, corrected over all pairs (Holm)", numeric=False),
        Column("ECE", "expected calibration error after calibration, before it below; 0 is perfect"),
        Column(
            f"ms / {dataset.unit}",
            f"{runtime_name(dataset.headline_runtime)}, batch 1, median; "
            f"{dataset.unit}s per second at the best batch below"
            + ("; ! other work disturbed the timing" if dataset.timing_disturbed else ""),
        ),
        Column("Parameters", "and the size of the ONNX file"),
        Column("Training", "all folds and seeds together"),
    ]
    rows = [_main_row(dataset, model, names) for model in [*ranked(dataset), *dataset.without_result]]
    level = f"{100 * dataset.confidence:g}\u00a0%"
    text = f"results with {level} intervals over patients, best first. A drawn bar is the interval, its dot the value."
    return Table(f"results-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _metric_hint(name: str) -> str:
    label = metric_label(name)
    return f"{label.long}: {label.explanation}" if label.explanation else label.long


def _main_row(dataset: DatasetResult, model: ModelResult, names: list[str]) -> list[Cell]:
    absent = NOT_EVALUATED if model.metrics is None else "not computed for this model"
    metrics = [record_cell(model.record(name), draw=name == names[0], absent=absent) for name in names]
    return [
        Cell(model.name, sort=model.name.lower(), sub=describe(model)),
        *metrics,
        _verdict_cell(dataset, model),
        _ece_cell(model, absent),
        *_cost_cells(dataset, model),
    ]


def describe(model: ModelResult) -> str:
    """Architecture, input size and weights of a model; the members of an ensemble."""
    if model.is_ensemble:
        return str((model.decision or {}).get("choice") or "")
    size = next(iter(model.settings("image_size")), model.entry.get("image_size"))
    words = [architecture_of(model.entry), f"{size}\u00a0px" if size else "", weights_of(model.entry)]
    return ", ".join(word for word in words if word and word != "none")


def _verdict_cell(dataset: DatasetResult, model: ModelResult) -> Cell:
    if model.metrics is None:
        return Cell(model.status, sort=model.status, tone="bad" if model.status == FAILED else "open")
    verdict = verdict_against_best(dataset.comparison, model.name)
    if verdict is None:
        return undefined_cell("only one model was evaluated" if len(dataset.evaluated) == 1 else "not compared")
    return Cell(verdict.word, sort=verdict.word, sub=verdict.detail, tone=verdict.tone)


def _ece_cell(model: ModelResult, absent: str) -> Cell:
    ece = (model.calibration or {}).get("ece") or {}
    cell = record_cell(ece.get("calibrated"), absent=absent if model.metrics is None else "not calibrated")
    raw = (ece.get("raw") or {}).get("value")
    if cell.reason or raw is None:
        return cell
    return Cell(cell.text, cell.sort, sub=f"before {format_value(raw)}")


def _cost_cells(dataset: DatasetResult, model: ModelResult) -> list[Cell]:
    cost = cost_of(dataset, model)
    if model.is_ensemble:
        reason = "the ensemble is not exported or timed as one model: it costs the sum of its members"
        return [undefined_cell(reason) for _ in range(3)]
    onnx = "" if cost["onnx_mib"] is None else f"{cost['onnx_mib']:.1f}\u00a0MiB"
    rate = cost["throughput_img_per_s"]
    speed = "" if rate is None else f"{rate:,.0f}\u00a0/\u00a0s".replace(",", "\u202f")
    untimed, unexported, untrained = "not timed", "not exported", "training did not finish"
    if model.metrics is None:
        untimed = unexported = untrained = NOT_EVALUATED
    elif model.entry.get("checkpoint"):
        untrained = "given checkpoint, not trained"
    elif model.entry.get("predictions"):
        untimed = unexported = untrained = "made elsewhere, only its predictions were given"
    latency = number_cell(cost["latency_ms"], format_ms(cost["latency_ms"]), reason=untimed, sub=speed)
    if dataset.timing_disturbed and latency.reason is None:
        latency = replace(latency, tone="warn")
    return [
        latency,
        number_cell(cost["parameters"], format_si(cost["parameters"]), reason=unexported, sub=onnx),
        number_cell(cost["train_seconds"], format_duration(cost["train_seconds"]), reason=untrained),
    ]


def other_metrics_table(dataset: DatasetResult) -> Table | None:
    """The metrics that the main table leaves out."""
    shown = headline_metrics(dataset)
    names = [n for m in dataset.evaluated if m.metrics for n in m.metrics["metrics"] if n not in shown]
    names = list(dict.fromkeys(names))
    if not names:
        return None
    columns = [Column("Model", numeric=False), *(Column(metric_label(n).short, _metric_hint(n)) for n in names)]
    rows = [[Cell(m.name, m.name.lower()), *(record_cell(m.record(n)) for n in names)] for m in ranked(dataset)]
    text = "further metrics with their intervals."
    return Table(f"metrics-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def class_table(dataset: DatasetResult, model: ModelResult) -> Table:
    """Support, precision, recall, F1 and AUROC per class of one model."""
    keys = {"precision": "Precision", "recall": "Recall", "f1": "F1", "auroc": "AUROC"}
    columns = [Column("Class", numeric=False), Column("Cases"), *(Column(title) for title in keys.values())]
    rows = []
    for name, values in ((model.metrics or {}).get("per_class") or {}).items():
        support = values.get("support")
        first = number_cell(support, format_count(support), reason="not counted")
        cells = [record_cell(values.get(key), draw=key == "recall") for key in keys]
        rows.append([Cell(name, name.lower()), first, *cells])
    text = f"{model.name}, each class with its intervals."
    return Table(f"classes-{dataset.name}-{model.name}", caption(dataset, text), columns, rows, sortable=True)


def calibration_table(dataset: DatasetResult) -> Table | None:
    """Temperature, ECE, log loss and Brier score before and after calibration."""
    calibrated = [model for model in ranked(dataset) if model.calibration]
    if not calibrated:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Temperature", "range over folds and seeds; above 1 the raw model was too sure; for labels 1 / slope"),
        Column("ECE before"),
        Column("ECE after"),
        Column("Null floor", "ECE that a perfectly calibrated model would show with so many cases"),
        Column("Log loss before"),
        Column("Log loss after"),
    ]
    rows = [_calibration_row(model, model.calibration or {}) for model in calibrated]
    scaling = {"labels": "Platt scaling of each label", "zones": "one temperature per zone"}
    means = "; ECE is the mean over them" if dataset.outputs in scaling else ""
    text = (
        f"calibration by {scaling.get(dataset.outputs, 'one temperature')} per fold, fitted on other patients{means}."
    )
    return Table(f"calibration-{dataset.name}", caption(dataset, text), columns, rows)


def _calibration_row(model: ModelResult, calibration: Mapping[str, Any]) -> list[Cell]:
    parameters = calibration.get("parameters") or []
    temperatures = [p["temperature"] for p in parameters if p.get("temperature")]
    temperatures += [1.0 / p["slope"] for p in parameters if p.get("slope")]
    spread = (
        " to ".join(dict.fromkeys(f"{t:.2f}" for t in (min(temperatures), max(temperatures)))) if temperatures else ""
    )
    ece, loss = calibration.get("ece") or {}, calibration.get("log_loss") or {}
    floor = ece.get("null_floor")
    return [
        Cell(model.name, model.name.lower()),
        Cell(spread, temperatures[0]) if temperatures else undefined_cell("no temperature was fitted"),
        record_cell(ece.get("raw")),
        record_cell(ece.get("calibrated")),
        number_cell(floor, format_value(floor), reason="not computed"),
        record_cell(loss.get("raw")),
        record_cell(loss.get("calibrated")),
    ]


def ensemble_table(dataset: DatasetResult, decision: Mapping[str, Any]) -> Table:
    """The candidates of the ensemble, their values and gains."""
    columns = [
        Column("Candidate", numeric=False),
        Column(metric_label(dataset.primary).short),
        Column("Gain", "paired gain over the simpler candidate, with its 90 % interval"),
        Column("Over", numeric=False),
        Column("Chosen", numeric=False),
    ]
    rows = []
    for candidate in decision.get("candidates") or []:
        gain = candidate.get("gain") or {}
        record = {"value": gain.get("value"), "low": gain.get("low90"), "high": gain.get("high90")}
        chosen = candidate["name"] == decision.get("choice")
        rows.append(
            [
                Cell(candidate["name"], candidate["name"]),
                record_cell({**candidate, "reason": "undefined"}, draw=True),
                record_cell({**record, "reason": "the simplest candidate: nothing to gain over"}),
                Cell(candidate.get("against") or ""),
                Cell("chosen" if chosen else "", tone="good" if chosen else ""),
            ]
        )
    text = "what was tried, from simple to complex, on out-of-fold predictions."
    return Table(f"ensemble-{dataset.name}", caption(dataset, text), columns, rows)


def planted_words(dataset: DatasetResult) -> str:
    """What a phantom plants."""
    return "findings" if dataset.outputs == "labels" else "grades"


def planted_table(dataset: DatasetResult) -> Table | None:
    """Phantoms only: whether the planted grades and lesions were found, against chance."""
    if not dataset.phantom or not dataset.evaluated:
        return None
    label = metric_label(dataset.primary)
    columns = [
        Column("Model", numeric=False),
        Column(f"Planted {planted_words(dataset)} recovered ({label.short})"),
        Column("By chance"),
        Column("CAM maxima inside a lesion"),
        Column("By chance", "share of the image area that lesions cover"),
        Column("Pictures"),
    ]
    by_slice = any((model.gradcam or {}).get("slice_hit") for model in dataset.evaluated)
    if by_slice:
        columns.append(
            Column(
                "Heaviest slice shows a finding",
                "share of the explained volumes in which the slice that weighs most in the pooling cuts a planted "
                "finding; below, by chance. One figure per volume, apart from the metrics of volumes",
            )
        )
    rows = [[*_planted_row(dataset, model), *([_slice_cell(model)] if by_slice else [])] for model in ranked(dataset)]
    text = "whether what was planted is found."
    return Table(f"planted-{dataset.name}", caption(dataset, text), columns, rows)


def _slice_cell(model: ModelResult) -> Cell:
    hit = (model.gradcam or {}).get("slice_hit")
    if not hit:
        return undefined_cell("it weighs no slices, or all of them alike")
    text = format_interval({key: 100 * hit[key] for key in ("value", "low", "high")}, 0).replace("[", "% [")
    return Cell(text, hit["value"], sub=f"by chance {format_share(hit['chance'])}")


def _planted_row(dataset: DatasetResult, model: ModelResult) -> list[Cell]:
    chance = metric_label(dataset.primary).chance
    hit = (model.gradcam or {}).get("lesion_hit")
    reason = "an ensemble has no CAM of its own" if model.is_ensemble else "no CAM, or no picture with a lesion"
    cells = [Cell(model.name, model.name.lower()), record_cell(model.record(dataset.primary), draw=True)]
    cells.append(number_cell(chance, format_value(chance), reason="depends on the class counts"))
    if not hit or hit.get("value") is None:
        return [*cells, *(undefined_cell(reason) for _ in range(3))]
    record = {key: None if hit.get(key) is None else 100 * hit[key] for key in ("value", "low", "high")}
    text = format_interval(record, 0).replace("[", "% [")
    return [
        *cells,
        Cell(text, hit["value"]),
        number_cell(hit.get("chance"), format_share(hit.get("chance")), reason="not computed"),
        Cell(format_count(hit.get("n_cases")), hit.get("n_cases")),
    ]
