"""Tables of the page about pairs of models, their ranks, and values fold by fold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.report.cells import Cell, Column, Table, number_cell, record_cell, undefined_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.labels import (
    format_p,
    format_share,
    format_value,
    metric_label,
    pair_of,
    predict_the_same,
)
from archbench.report.quality_figures import ranked
from archbench.report.quality_tables import caption
from archbench.report.text import join_names
from archbench.report.variance import retraining

DELONG_HINT = "cross-check without resampling: DeLong's test with patients as clusters (Obuchowski), uncorrected"
RETRAINING_HINT = (
    "for a claim about models trained anew: corrected t-test over folds, seeds averaged first (Nadeau and Bengio), "
    "uncorrected, with the interval of the difference below; the verdicts hold for these trained models"
)
VERDICT_TONES = {
    "better": "good",
    "worse": "bad",
    "better but trivial": "even",
    "worse but trivial": "even",
    "equivalent": "even",
    "inconclusive": "open",
}
SAME = "the same predictions"  # such as an ensemble that fell back to this member


def pairs_table(dataset: DatasetResult) -> Table | None:
    """Every pair of models with its difference, p values and verdict."""
    pairs = (dataset.comparison or {}).get("pairs") or []
    if not pairs:
        return None
    with_delong = any("p_delong" in pair for pair in pairs)
    columns = [
        Column("Pair", numeric=False),
        Column("Difference", "first minus second"),
        Column("p", "bootstrap over patients, one pair alone"),
        Column("p (Holm)", "corrected over all pairs"),
        *([Column("p (DeLong)", DELONG_HINT)] if with_delong else []),
        Column("p (trained anew)", RETRAINING_HINT),
        Column("Verdict on the first", numeric=False),
    ]
    rows = [_pair_row(dataset, pair, with_delong) for pair in pairs]
    text = f"paired differences in {metric_label(dataset.primary).long} over the same redrawn patients."
    return Table(f"pairs-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _pair_row(dataset: DatasetResult, pair: Mapping[str, Any], with_delong: bool) -> list[Cell]:
    record = {"value": pair["difference"], "low": pair.get("low"), "high": pair.get("high")}
    anew = retraining(dataset, pair["a"], pair["b"])
    interval = f"{format_value(anew.test.low)} to {format_value(anew.test.high)}" if anew.test else ""
    p_anew = anew.test.p if anew.test else None
    delong = number_cell(pair.get("p_delong"), format_p(pair.get("p_delong")), reason="no DeLong test of this pair")
    return [
        Cell(f"{pair['a']} − {pair['b']}", pair["a"]),
        record_cell({**record, "reason": "undefined for one of the two"}, draw=True),
        number_cell(pair.get("p"), format_p(pair.get("p")), reason="no test"),
        number_cell(pair.get("p_holm"), format_p(pair.get("p_holm")), reason="no test"),
        *([delong] if with_delong else []),
        number_cell(p_anew, format_p(p_anew), reason=anew.reason, sub=interval),
        Cell(words := _verdict(dataset.comparison, pair), words, tone=VERDICT_TONES.get(pair["verdict"], "")),
    ]


def _verdict(comparison: Mapping[str, Any] | None, pair: Mapping[str, Any]) -> str:
    return SAME if predict_the_same(comparison, pair["a"], pair["b"]) else str(pair["verdict"])


def verdict_matrix(dataset: DatasetResult) -> Table | None:
    """Every model against every other one: the row's difference to the column and the verdict on the row."""
    comparison = dataset.comparison or {}
    names = [row["model"] for row in comparison.get("models") or []]
    if len(names) < 3 or not comparison.get("pairs"):
        return None
    columns = [Column("Model", numeric=False), *(Column(f"−\u00a0{name}") for name in names)]
    rows = [
        [Cell(name, name.lower()), *(_verdict_cell(comparison, pair_of(comparison, name, other)) for other in names)]
        for name in names
    ]
    text = (
        f"the row minus the column in {metric_label(dataset.primary).long}, and the verdict on the row "
        "(Holm over all pairs). Inconclusive is not equal."
    )
    return Table(f"verdicts-{dataset.name}", caption(dataset, text), columns, rows)


def _verdict_cell(comparison: Mapping[str, Any], pair: Mapping[str, Any] | None) -> Cell:
    if pair is None:
        return Cell("·")
    if pair["difference"] is None:
        return undefined_cell("undefined for one of the two")
    sign = "+" if pair["difference"] > 0 else ""
    text = f"{sign}{format_value(pair['difference'])}"
    tone = VERDICT_TONES.get(pair["verdict"], "")
    return Cell(text, pair["difference"], sub=_verdict(comparison, pair), tone=tone)


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
                number_cell(share, format_share(share), reason="not ranked", sub=_tie(row)),
            ]
        )
    return Table(f"ranks-{dataset.name}", caption(dataset, "ranks with their uncertainty."), columns, rows)


def _tie(row: Mapping[str, Any]) -> str:
    """A tie shares the first place: its halves are no sign of doubt."""
    return f"shared with {join_names(row['tied_with'])}" if row.get("tied_with") and row.get("p_rank1") else ""


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
