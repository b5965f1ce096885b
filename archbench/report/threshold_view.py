"""Thresholds of labels and cut points of grades: values, spread over folds, and what decides better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import stdev
from typing import TYPE_CHECKING, Any

from archbench.report.cells import Cell, Column, Table, number_cell, record_cell, undefined_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import GRID_COLOR, OKABE_ITO, Panel, wrap
from archbench.report.labels import format_count, format_value, metric_label
from archbench.report.quality_figures import ranked, ranked_drawn
from archbench.report.quality_tables import caption

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

ALL = "all labels"


def rule_words(tuned: Mapping[str, Any]) -> str:
    """What the thresholds were chosen for."""
    rule = tuned.get("rule") or {}
    value = rule.get("value")
    kinds = {
        "youden": "of highest sensitivity + specificity",
        "sensitivity": f"of highest specificity at a sensitivity of at least {value}",
        "specificity": f"of highest sensitivity at a specificity of at least {value}",
        "cost": f"of least cost, a missed positive counting as {value} false alarms",
    }
    return kinds.get(str(rule.get("kind")), "of highest F1")


def tuned_table(dataset: DatasetResult) -> Table | None:
    """Decisions at threshold .5, at one threshold for all labels, and at one per label."""
    columns = [
        Column("Model", numeric=False),
        Column("Threshold", numeric=False),
        Column("Macro F1"),
        Column("Micro F1"),
        Column("Hamming"),
        Column("Exact match"),
        Column("Called positive", "share of all labels; above 60 % the model over-predicts"),
        Column("Labels per case"),
    ]
    names = ("f1_macro", "f1_micro", "hamming_accuracy", "exact_match", "positive_rate", "labels_per_case")
    rows, rule = [], ""
    for model in ranked(dataset):
        tuned = (model.metrics or {}).get("tuned")
        if tuned is None:
            continue
        rule = rule or rule_words(tuned)
        for title, records in (
            (".5", (model.metrics or {})["metrics"]),
            ("one for all", (tuned.get("global") or {}).get("metrics")),
            ("one per label", (tuned.get("label") or {}).get("metrics")),
        ):
            absent = tuned.get("reason") or "not computed"
            cells = [record_cell((records or {}).get(name), absent=absent) for name in names]
            rows.append([Cell(model.name, model.name.lower()), Cell(title, title), *cells])
    if not rows:
        return None
    text = f"decisions at threshold .5 and at thresholds {rule}, fitted for each fold on other patients."
    return Table(f"thresholds-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def threshold_table(dataset: DatasetResult, model: ModelResult) -> Table | None:
    """The fitted thresholds of one model and their spread over folds and seeds."""
    tuned = (model.metrics or {}).get("tuned") or {}
    parameters = tuned.get("parameters") or []
    if not parameters:
        return None
    few = tuned["rule"]["few_positive_patients"]
    columns = [
        Column("Label", numeric=False),
        Column("Threshold", "mean over folds and seeds"),
        Column("SD"),
        Column("Range over folds"),
        Column("Positive patients", f"fewest among those it was fitted on; below {few} the one for all is taken"),
    ]
    labels = dict.fromkeys(item["label"] for item in parameters)
    rows = [_threshold_row(label, [item for item in parameters if item["label"] == label]) for label in labels]
    of = {"platt": "Platt-scaled", "isotonic": "isotonic"}.get(str(tuned.get("calibration")), "uncalibrated")
    text = f"{model.name}: thresholds of the {of} probability."
    identifier = f"fitted-{dataset.name}-{model.name}"
    return Table(identifier, caption(dataset, text), columns, rows, sortable=True, compact=True)


def _threshold_row(label: str, items: Sequence[Mapping[str, Any]]) -> list[Cell]:
    values = [item["probability"] for item in items if item["probability"] is not None]
    scopes = {item["scope"] for item in items}
    sub = "" if not label or scopes == {"label"} else "takes the one for all"
    if label and scopes == {"label", "global"}:
        sub = "takes the one for all in some folds"
    fewest = min(item["n_positive_patients"] for item in items)
    name = Cell(label or ALL, label.lower(), sub=sub)
    if not values:
        return [name, *(undefined_cell("no threshold could be fitted") for _ in range(3)), Cell(format_count(fewest))]
    mean, spread = sum(values) / len(values), stdev(values) if len(values) > 1 else None
    return [
        name,
        Cell(format_value(mean), mean),
        number_cell(spread, format_value(spread), reason="one fold and seed"),
        Cell(f"{format_value(min(values))} to {format_value(max(values))}", max(values) - min(values)),
        Cell(format_count(fewest), fewest),
    ]


def threshold_panels(dataset: DatasetResult) -> list[Panel]:
    """One panel per model: the threshold of each label, a dot per fold and seed."""
    panels = []
    for model in ranked_drawn(dataset):
        parameters = ((model.metrics or {}).get("tuned") or {}).get("parameters") or []
        labels = sorted(dict.fromkeys(item["label"] for item in parameters), key=bool)
        if not labels:
            continue
        alt = f"Thresholds of {model.name} by label, a dot per fold and seed."
        draw = partial(_draw_thresholds, parameters=parameters, labels=labels)
        panels.append(Panel(model.name, alt, draw, width=4.2, height=1.15 + 0.27 * len(labels)))
    return panels


def _draw_thresholds(figure: FigureBase, *, parameters: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    axes = figure.subplots()
    for scope, filled, words in (("label", True, "its own"), ("global", False, "the one for all")):
        points = [
            (item["probability"], labels.index(item["label"]))
            for item in parameters
            if item["probability"] is not None and item["scope"] == scope
        ]
        face = OKABE_ITO[0] if filled else "white"
        x, y = [p for p, _ in points], [k for _, k in points]
        axes.plot(x, y, "o", color=OKABE_ITO[0], markerfacecolor=face, markersize=4.5, alpha=0.8, label=words)
    axes.axvline(0.5, color="#777777", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(labels)), [wrap(label or ALL, 28) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("threshold (probability)")
    axes.grid(color=GRID_COLOR, linewidth=0.6)
    figure.legend(loc="outside upper center", ncols=2)


def cut_points_of(model: ModelResult) -> dict[str, Any]:
    """The cut points of a model; {} if there are none."""
    return (model.metrics or {}).get("cut_points") or {}


def cut_table(dataset: DatasetResult) -> Table | None:
    """Decisions by fitted cut points beside the decision that is used."""
    shown = [(model, found) for model in ranked(dataset) if (found := cut_points_of(model))]
    if not shown:
        return None
    names = list(dict.fromkeys(name for _, found in shown for name in found.get("metrics") or {}))
    columns = [
        Column("Model", numeric=False),
        Column("Gain in QWK", "at the cut points less the decision that is used, paired over patients"),
        *(Column(f"{metric_label(name).short}", f"{metric_label(name).long} at the cut points") for name in names),
    ]
    rows = []
    for model, found in shown:
        absent = found.get("reason") or "not computed"
        cells = [record_cell((found.get("metrics") or {}).get(name), absent=absent) for name in names]
        gain = record_cell(found.get("gain"), draw=True, absent=absent)
        rows.append([Cell(model.name, model.name.lower()), gain, *cells])
    text = "what cut points of highest QWK, fitted on other patients, would give; nothing else here uses them."
    return Table(f"cuts-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def cut_spread_table(dataset: DatasetResult) -> Table | None:
    """Where one grade ends and the next begins, by model, with the spread over folds and seeds."""
    shown = [(model, found["spread"]) for model in ranked(dataset) if (found := cut_points_of(model)).get("spread")]
    if not shown:
        return None
    spread = shown[0][1]
    columns = [
        Column("Model", numeric=False),
        *(Column(f"{item['below']} | {item['above']}", f"rounding cuts at {item['rounding']:g}") for item in spread),
    ]
    rows = [[Cell(model.name, model.name.lower()), *(_cut_cell(item) for item in items)] for model, items in shown]
    text = "cut points of the mean grade: mean and range over folds and seeds."
    return Table(f"cut-spread-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _cut_cell(item: Mapping[str, Any]) -> Cell:
    if item.get("mean") is None:
        return undefined_cell("no cut point could be fitted")
    spread = f"{format_value(item['low'], 2)} to {format_value(item['high'], 2)}"
    return Cell(format_value(item["mean"], 2), item["mean"], sub=spread)


def cut_panel(dataset: DatasetResult) -> Panel | None:
    """The cut points of each model on the scale of the mean grade, a dot per fold and seed."""
    shown = [(m.name, found) for m in ranked_drawn(dataset) if (found := cut_points_of(m)).get("parameters")]
    if not shown:
        return None
    names = ", ".join(name for name, _ in shown)
    draw = partial(_draw_cuts, shown=shown)
    alt = f"Cut points of the mean grade of {names}, a dot per fold and seed."
    return Panel("Cut points", alt, draw, width=5.4, height=1.0 + 0.34 * len(shown))


def _draw_cuts(figure: FigureBase, *, shown: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    axes = figure.subplots()
    for place, (_, found) in enumerate(shown):
        for item in found["parameters"]:
            for k, cut in enumerate(item["cuts"]):
                axes.plot([cut], [place], "o", color=OKABE_ITO[k % len(OKABE_ITO)], markersize=5, alpha=0.75)
    n_cuts = max(len(item["cuts"]) for _, found in shown for item in found["parameters"])
    for k in range(n_cuts):
        axes.axvline(k + 0.5, color="#777777", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(shown)), [wrap(name, 20) for name, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="y", color=GRID_COLOR, linewidth=0.6)
    axes.set_xlabel("mean grade (dotted: where rounding cuts)")
