"""Conformal sets: whether they hold the truth as often as promised, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from archbench.report.cells import Cell, Column, Table, number_cell, record_cell, undefined_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.labels import format_count, format_share
from archbench.report.quality_figures import ranked
from archbench.report.quality_tables import caption

_WHAT = {
    "classes": "a set of classes per case",
    "labels": "present, absent or both for each label of a case",
    "zones": "a set of grades for each zone of a case",
}
_BY = {
    "coverage": Column("Coverage", "share of sets that hold the truth"),
    "coverage_present": Column("Where present"),
    "coverage_absent": Column("Where absent"),
    "mean_size": Column("Mean size"),
}


def conformal_table(dataset: DatasetResult) -> Table | None:
    """Coverage, set size and shares of empty, single and full sets of every model."""
    shown = [(model, found) for model in ranked(dataset) if (found := conformal_of(model))]
    if not shown:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Promised"),
        Column("Coverage", "share of sets that hold the truth; marked where its interval lies below the promise"),
        Column("Mean size", "answers in a set"),
        Column("One answer", "share of sets with exactly one answer"),
        Column("Empty", "share of sets without any answer"),
        Column("All answers", "share of sets that exclude nothing"),
    ]
    rows = [_model_row(model, found) for model, found in shown]
    what = _WHAT.get(str(shown[0][1].get("kind")), "")
    text = f"sets that hold the truth with a chosen chance ({what}), fitted on other patients."
    return Table(f"conformal-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def conformal_of(model: ModelResult) -> dict[str, Any]:
    """The conformal section of a model; {} if there is none."""
    return (model.metrics or {}).get("conformal") or {}


def _model_row(model: ModelResult, found: Mapping[str, Any]) -> list[Cell]:
    target, absent = found.get("target"), found.get("reason") or "not computed"
    shares = (found.get(key) for key in ("single", "empty", "full"))
    return [
        Cell(model.name, model.name.lower()),
        number_cell(target, format_share(target), reason=absent),
        _coverage_cell(found.get("coverage"), target, absent),
        record_cell(found.get("mean_size"), digits=2, absent=absent),
        *(number_cell(share, format_share(share), reason=absent) for share in shares),
    ]


def _coverage_cell(record: Mapping[str, Any] | None, target: float | None, absent: str) -> Cell:
    cell = record_cell(record, draw=True, absent=absent)
    if record and target is not None and record.get("high") is not None and record["high"] < target:
        return replace(cell, tone="bad")
    return cell


def conformal_parts_table(dataset: DatasetResult, model: ModelResult) -> Table | None:
    """Coverage and size by class, label or zone of one model."""
    found = conformal_of(model)
    by: Mapping[str, Mapping[str, Any]] = found.get("by") or {}
    if not by:
        return None
    keys = [key for key in _BY if any(key in values for values in by.values())]
    with_undecided = any("undecided" in values for values in by.values())
    columns = [
        Column("Class, label or zone", numeric=False),
        *(_BY[key] for key in keys),
        *([Column("Undecided", "share of cases called both present and absent")] if with_undecided else []),
        Column("Patients", "fewest patients that a limit was fitted on"),
    ]
    rows = []
    for name, values in by.items():
        cells = [_coverage_cell(values.get(key), _target(key, found), "not computed") for key in keys]
        if with_undecided:
            share = values.get("undecided")
            cells.append(number_cell(share, format_share(share), reason="not computed"))
        patients = values.get("n_patients_fitted")
        fitted = undefined_cell("not counted") if patients is None else Cell(format_count(patients), patients)
        rows.append([_name_cell(name, values), *cells, fitted])
    text = f"{model.name}, conformal sets by class, label or zone."
    return Table(f"sets-{dataset.name}-{model.name}", caption(dataset, text), columns, rows, sortable=True)


def _target(key: str, found: Mapping[str, Any]) -> float | None:
    return None if key == "mean_size" else found.get("target")


def _name_cell(name: str, values: Mapping[str, Any]) -> Cell:
    return Cell(name, name.lower(), sub="too few patients: in every set" if values.get("always_inside") else "")
