"""Tables of the page about labels and zones: each one's metrics, thresholds, risk classes, counts before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.report.cells import Cell, Column, Table, number_cell, record_cell, undefined_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.labels import format_count, format_share, format_value
from archbench.report.quality_figures import ranked
from archbench.report.quality_tables import caption

ALARM_RATE = 0.6
_ZONE_COLUMNS = {
    "macro_f1": "Macro F1",
    "weighted_f1": "Weighted F1",
    "accuracy": "Accuracy",
    "qwk": "QWK",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}


def label_table(dataset: DatasetResult, model: ModelResult) -> Table:
    """Counts and metrics of each label of one model, at threshold .5 and at thresholds of other patients."""
    columns = [
        Column("Label", "descriptive: too few patients on one side, so it counts in no macro mean", numeric=False),
        Column("Positives", "cases with the label, and their share"),
        Column("Called", "share of cases called positive at threshold .5; above 60 % the model over-predicts"),
        Column("AUROC"),
        Column("AUPRC", "average precision; guessing reaches the share of positives"),
        Column("Precision"),
        Column("Recall"),
        Column("Specificity"),
        Column("F1", "at threshold .5"),
        Column("F1 tuned", "at the label's threshold, fitted on other patients"),
    ]
    tuned = (((model.metrics or {}).get("tuned") or {}).get("label") or {}).get("per_label") or {}
    rows = [
        _label_row(name, values, tuned.get(name) or {})
        for name, values in ((model.metrics or {}).get("per_class") or {}).items()
    ]
    text = f"{model.name}, each label with its intervals."
    return Table(f"classes-{dataset.name}-{model.name}", caption(dataset, text), columns, rows, sortable=True)


def _label_row(name: str, values: Mapping[str, Any], tuned: Mapping[str, Any]) -> list[Cell]:
    rate, share = values.get("positive_rate"), values.get("prevalence")
    alarm = "bad" if rate is not None and rate > ALARM_RATE else ""
    called = undefined_cell("no case of it is known") if rate is None else Cell(format_share(rate), rate, tone=alarm)
    keys = ("auroc", "auprc", "precision", "recall", "specificity", "f1")
    return [
        Cell(name, name.lower(), sub="" if values.get("counted") else "descriptive"),
        Cell(format_count(values.get("support")), values.get("support"), sub=format_share(share)),
        called,
        *(record_cell(values.get(key), draw=key == "auroc") for key in keys),
        record_cell(tuned.get("f1"), absent="no threshold could be fitted on other patients"),
    ]


def zone_table(dataset: DatasetResult, model: ModelResult) -> Table:
    """Metrics of each zone of one model over the grades that exist there; ungradable ones are no grade."""
    columns = [
        Column("Zone", numeric=False),
        Column("Graded", "cases in which the zone is gradable; ungradable ones below"),
        *(Column(title) for title in _ZONE_COLUMNS.values()),
    ]
    rows = []
    for name, values in ((model.metrics or {}).get("per_zone") or {}).items():
        ungradable = f"{format_count(values.get('n_ungradable'))} ungradable"
        graded = Cell(format_count(values.get("support")), values.get("support"), sub=ungradable)
        cells = [record_cell(values.get(key), draw=key == "macro_f1") for key in _ZONE_COLUMNS]
        rows.append([Cell(name, name.lower()), graded, *cells])
    text = f"{model.name}, each zone with its intervals."
    return Table(f"classes-{dataset.name}-{model.name}", caption(dataset, text), columns, rows, sortable=True)


def risk_table(dataset: DatasetResult) -> Table | None:
    """Risk class by mean grade of a case: how many of each are found, for every model."""
    shown = [model for model in ranked(dataset) if (model.metrics or {}).get("risk")]
    if not shown:
        return None
    classes = shown[0].metrics["risk"]["classes"] if shown[0].metrics else []
    columns = [
        Column("Model", numeric=False),
        *(Column(f"{name} found", "share of the cases of this true risk class that are called so") for name in classes),
        Column("Without a risk class", "cases without any gradable zone: they are not low risk, they are undefined"),
    ]
    rows = []
    for model in shown:
        risk = (model.metrics or {})["risk"]
        cells = []
        for k, line in enumerate(risk["confusion_matrix"]):
            total = sum(line)
            of = f"{format_count(line[k])} of {format_count(total)}"
            share = line[k] / total if total else None
            cells.append(number_cell(share, format_share(share), reason="no case has this risk class", sub=of))
        undefined = risk.get("n_undefined")
        rows.append([Cell(model.name, model.name.lower()), *cells, Cell(format_count(undefined), undefined)])
    text = "risk class from the mean grade: low up to 1.3, intermediate up to 2.2, high above."
    return Table(f"risk-{dataset.name}", caption(dataset, text), columns, rows)


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
    rows = []
    for model in ranked(dataset):
        tuned = (model.metrics or {}).get("tuned")
        if tuned is None:
            continue
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
    text = "decisions at threshold .5 and at thresholds of highest F1, fitted for each fold on other patients."
    return Table(f"thresholds-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def threshold_table(dataset: DatasetResult, model: ModelResult) -> Table | None:
    """The fitted thresholds of one model, as uncalibrated probabilities, and their spread over folds."""
    parameters = ((model.metrics or {}).get("tuned") or {}).get("parameters") or []
    if not parameters:
        return None
    rows = []
    for label in dict.fromkeys(item["label"] for item in parameters):
        of = [item for item in parameters if item["label"] == label]
        values = [item["probability"] for item in of]
        shared = label and any(item["scope"] == "global" for item in of)
        fewest = min(item["n_positive_patients"] for item in of)
        rows.append(
            [
                Cell(label or "all labels", label.lower(), sub="takes the one for all" if shared else ""),
                Cell(format_value(sum(values) / len(values)), sum(values)),
                Cell(f"{format_value(min(values))} to {format_value(max(values))}", max(values) - min(values)),
                Cell(format_count(fewest), fewest),
            ]
        )
    columns = [
        Column("Label", numeric=False),
        Column("Threshold", "mean over folds and seeds, of the uncalibrated probability"),
        Column("Range over folds"),
        Column("Positive patients", "fewest among those it was fitted on; below 25 the one for all is taken"),
    ]
    return Table(f"fitted-{dataset.name}-{model.name}", caption(dataset, f"{model.name}."), columns, rows, compact=True)


def label_count_tables(dataset: DatasetResult) -> list[Table]:
    """What is known of each label or zone before training."""
    audit = dataset.audit or {}
    tables = []
    if audit.get("labels"):
        keys = ("n_positive", "n_negative", "n_unknown", "n_positive_patients")
        titles = ("Positive", "Negative", "Unknown", "Positive patients")
        rows = [[Cell(r["name"], r["name"].lower()), *(_count(r[key]) for key in keys)] for r in audit["labels"]]
        columns = [Column("Label", numeric=False), *(Column(title) for title in titles)]
        text = "cases with and without each label; unknown ones are neither trained nor scored."
        tables.append(Table(f"labels-{dataset.name}", caption(dataset, text), columns, rows, sortable=True))
    if audit.get("zones"):
        classes = [row["name"] for row in audit["classes"] if row["name"] != "Ungradable"]
        rows = [
            [Cell(z["name"], z["name"]), *(_count(n) for n in z["per_class"]), _count(z["n_ungradable"])]
            for z in audit["zones"]
        ]
        columns = [Column("Zone", numeric=False), *(Column(name) for name in classes), Column("Ungradable")]
        n = format_count(audit.get("n_cases_without_a_gradable_zone"))
        text = f"cases of each grade by zone; {n} cases have no gradable zone."
        tables.append(Table(f"zones-{dataset.name}", caption(dataset, text), columns, rows, sortable=True))
    return tables


def _count(value: Any) -> Cell:
    return Cell(format_count(value), value)
