"""Tables of the page about pairs of models, their ranks, and values fold by fold."""

from __future__ import annotations

from typing import Any

from archbench.report.cells import Cell, Column, Table, number_cell, record_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.labels import format_p, format_share, format_value, metric_label
from archbench.report.quality_figures import ranked
from archbench.report.quality_tables import caption


def pairs_table(dataset: DatasetResult) -> Table | None:
    """Every pair of models with its difference, p value and verdict."""
    pairs = (dataset.comparison or {}).get("pairs") or []
    if not pairs:
        return None
    columns = [
        Column("Pair", numeric=False),
        Column("Difference", "first minus second"),
        Column("p", "bootstrap over patients, one pair alone"),
        Column("p (Holm)", "corrected over all pairs"),
        Column("Verdict on the first", numeric=False),
    ]
    rows = []
    for pair in pairs:
        record = {"value": pair["difference"], "low": pair.get("low"), "high": pair.get("high")}
        rows.append(
            [
                Cell(f"{pair['a']} − {pair['b']}", pair["a"]),
                record_cell({**record, "reason": "undefined for one of the two"}, draw=True),
                number_cell(pair.get("p"), format_p(pair.get("p")), reason="no test"),
                number_cell(pair.get("p_holm"), format_p(pair.get("p_holm")), reason="no test"),
                Cell(pair["verdict"], pair["verdict"]),
            ]
        )
    text = f"paired differences in {metric_label(dataset.primary).long} over the same redrawn patients."
    return Table(f"pairs-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def ranks_table(dataset: DatasetResult) -> Table | None:
    """Mean rank with its interval and the chance of rank one."""
    models = (dataset.comparison or {}).get("models") or []
    if len(models) < 2:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Mean rank", "over the redrawn groups of patients"),
        Column("First in", "share of the redrawn groups in which the model comes first"),
    ]
    rows = []
    for row in models:
        record = {"value": row.get("mean_rank"), "low": row.get("rank_low"), "high": row.get("rank_high")}
        share = row.get("p_rank1")
        rows.append(
            [
                Cell(row["model"], row["model"].lower()),
                record_cell({**record, "reason": "not ranked"}, digits=1),
                number_cell(share, format_share(share), reason="not ranked"),
            ]
        )
    return Table(f"ranks-{dataset.name}", caption(dataset, "ranks with their uncertainty."), columns, rows)


def fold_table_of_values(dataset: DatasetResult) -> Table | None:
    """The primary metric of every model in every fold and seed."""
    keys = sorted({(row["seed"], row["fold"]) for m in dataset.evaluated for row in _per_fold(m)})
    if not keys:
        return None
    seeds = {seed for seed, _ in keys}
    titles = [f"fold {fold}" + (f", seed {seed}" if len(seeds) > 1 else "") for seed, fold in keys]
    columns = [Column("Model", numeric=False), *(Column(title) for title in titles)]
    rows = []
    for model in ranked(dataset):
        values = {(row["seed"], row["fold"]): row["metrics"].get(dataset.primary) for row in _per_fold(model)}
        cells = [number_cell(values.get(k), format_value(values.get(k)), reason="undefined in this fold") for k in keys]
        rows.append([Cell(model.name, model.name.lower()), *cells])
    text = f"{metric_label(dataset.primary).long} fold by fold."
    return Table(f"folds-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _per_fold(model: ModelResult) -> list[dict[str, Any]]:
    return (model.metrics or {}).get("per_fold") or []
