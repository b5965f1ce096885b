"""Tables of the page about labels and zones: each one's metrics, risk classes, counts before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.report.cells import Cell, Column, Table, number_cell, record_cell, undefined_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.labels import format_count, format_share
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
