"""How much a value changes from fold to fold, from seed to seed, and for models trained anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from archbench.report.cells import Cell, Column, Table, number_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import GRID_COLOR, MARKERS, OKABE_ITO, Panel, wrap
from archbench.report.labels import format_value, metric_label
from archbench.report.quality_figures import ranked
from archbench.report.quality_tables import caption

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from archbench.significance import RetrainingTest

ONE_SEED = "one seed: the variance between trainings was not estimated"


def fold_values(model: ModelResult, metric: str) -> dict[tuple[int, int], float | None]:
    """Value of a metric in each (seed, fold), None where it is undefined there."""
    rows = (model.metrics or {}).get("per_fold") or []
    return {(row["seed"], row["fold"]): row["metrics"].get(metric) for row in rows}


def variance_panel(dataset: DatasetResult) -> Panel | None:
    """A dot per fold and seed of each model, a bar at its value; None with a single fold and seed."""
    rows = [(m, values) for m in ranked(dataset) if len(values := fold_values(m, dataset.primary)) > 1]
    if not rows:
        return None
    label = metric_label(dataset.primary)
    lines = sum(1 + 0.6 * wrap(model.name, 20).count("\n") for model, _ in rows)
    seeds = sorted({seed for _, values in rows for seed, _ in values})
    return Panel(
        "Fold by fold" if len(seeds) == 1 else "Folds and seeds",
        f"Dot plot of the {label.long} of each model in every fold{' and seed' if len(seeds) > 1 else ''}.",
        partial(_draw, rows=rows, primary=dataset.primary, seeds=seeds),
        width=4.6,
        height=(1.2 if len(seeds) > 1 else 0.95) + 0.34 * lines,
    )


def _draw(
    figure: FigureBase,
    *,
    rows: Sequence[tuple[ModelResult, dict[tuple[int, int], float | None]]],
    primary: str,
    seeds: Sequence[int],
) -> None:
    axes = figure.subplots()
    step = 0.56 / max(len(seeds) - 1, 1) if len(seeds) > 1 else 0.0
    for place, (model, values) in enumerate(rows):
        for k, seed in enumerate(seeds):
            found = [value for (of, _), value in sorted(values.items()) if of == seed and value is not None]
            height = place + (k - (len(seeds) - 1) / 2) * step
            named = f"seed {seed}" if not place and len(seeds) > 1 else None
            color, marker = OKABE_ITO[k % len(OKABE_ITO)], MARKERS[k % len(MARKERS)]
            at = [height] * len(found)
            axes.plot(found, at, linestyle="", marker=marker, color=color, markersize=5, alpha=0.75, label=named)
        value = (model.record(primary) or {}).get("value")
        if value is not None:
            axes.plot([value, value], [place - 0.36, place + 0.36], color="black", linewidth=1.4)
    axes.set_yticks(range(len(rows)), [wrap(model.name, 20) for model, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=GRID_COLOR, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{metric_label(primary).short}: a dot per fold, the bar is the reported value")
    if len(seeds) > 1:
        figure.legend(loc="outside upper center", ncols=min(len(seeds), 4))


def variance_table(dataset: DatasetResult) -> Table | None:
    """Spread over folds and seeds and both parts of the standard error of the primary metric."""
    shown = [model for model in ranked(dataset) if model.record(dataset.primary)]
    if not shown:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("SE, patients", "standard error from redrawing patients; the interval is made of it"),
        Column("SE, seeds", "standard error from the spread between trainings; added to the interval"),
        Column("SE, both", "root of the sum of squares"),
        Column("SD between seeds"),
        Column("SD between folds", "seeds averaged first; folds differ in patients and in training data"),
    ]
    rows = [_variance_row(model, dataset.primary) for model in shown]
    text = f"where the uncertainty of the {metric_label(dataset.primary).long} comes from."
    return Table(f"variance-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _variance_row(model: ModelResult, primary: str) -> list[Cell]:
    metrics = model.metrics or {}
    errors = (metrics.get("standard_errors") or {}).get(primary) or {}
    seed_sd = (metrics.get("seed_sd") or {}).get(primary)
    patients, seeds = errors.get("patients"), errors.get("seeds")
    one_seed = ONE_SEED if len(metrics.get("seeds") or []) <= 1 else "undefined"
    both = None if patients is None else (patients**2 + (seeds or 0.0) ** 2) ** 0.5
    by_fold = list(fold_means(model, primary).values())
    between = stdev(by_fold) if len(by_fold) > 1 else None
    return [
        Cell(model.name, model.name.lower()),
        number_cell(patients, format_value(patients, 4), reason="not computed"),
        number_cell(seeds, format_value(seeds, 4), reason=one_seed),
        number_cell(both, format_value(both, 4), reason="not computed"),
        number_cell(seed_sd, format_value(seed_sd, 4), reason=one_seed),
        number_cell(between, format_value(between, 4), reason="fewer than two folds with a value"),
    ]


def fold_means(model: ModelResult, metric: str) -> dict[int, float]:
    """Mean over the seeds in each fold that has a value in every seed."""
    folds: dict[int, list[float | None]] = {}
    for (_, fold), value in sorted(fold_values(model, metric).items()):
        folds.setdefault(fold, []).append(value)
    found = {fold: [value for value in values if value is not None] for fold, values in folds.items()}
    return {fold: fmean(values) for fold, values in found.items() if values and len(values) == len(folds[fold])}


@dataclass(frozen=True)
class Retraining:
    """A pair's test for models trained anew, or why there is none."""

    test: RetrainingTest | None
    reason: str = ""


def retraining(dataset: DatasetResult, a: str, b: str) -> Retraining:
    """Compare two models for a claim about models trained anew: Nadeau and Bengio over folds, seeds averaged first."""
    import numpy as np

    from archbench.significance import nadeau_bengio

    first, second = dataset.find(a), dataset.find(b)
    if first is None or second is None:
        return Retraining(None, "one of the two has no result")
    means = [fold_means(model, dataset.primary) for model in (first, second)]
    folds = sorted(set(means[0]) & set(means[1]))
    n_folds = len((first.metrics or {}).get("folds") or [])
    if n_folds < 2:
        return Retraining(None, "one fold: nothing to learn about models trained anew")
    if len(folds) < n_folds:
        return Retraining(None, "undefined in a fold")
    share = test_share(dataset)
    if share is None:
        return Retraining(None, "the audit does not say how many cases trained and tested a fold")
    differences = np.array([[means[0][fold] - means[1][fold]] for fold in folds])
    test = nadeau_bengio(differences, test_share=share, confidence=dataset.confidence)
    return Retraining(None, "undefined") if np.isnan(test.p) else Retraining(test)


def test_share(dataset: DatasetResult) -> float | None:
    """Cases tested per fold over cases trained on, mean over the folds; None where the audit does not say."""
    shares = []
    for fold in (dataset.audit or {}).get("folds") or []:
        parts: dict[str, Any] = fold.get("parts") or {}
        train, test = ((parts.get(name) or {}).get("n_cases") for name in ("train", "test"))
        if not train or not test:
            return None
        shares.append(test / train)
    return fmean(shares) if shares else None
