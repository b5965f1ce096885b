"""Platt scaling of labels, fitted out of fold, each label's slope shrunk to a shared one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from archbench.artifacts import Predictions
from archbench.metrics.metric import Array
from archbench.metrics.scoring import parts
from archbench.metrics.views import view_of
from archbench.out_of_fold import OutOfFold, fitting_problem, fitting_source, source_rows

SHRINKAGE = 20.0  # pull of the shared slope, in units of the log loss of one case
FREE_STRENGTH = 1e-2  # keeps slope and intercepts finite where a label is separable or has no positives


@dataclass(frozen=True)
class Platt:
    """Calibrated logit = slope · logit + intercept, of one label for one fold and seed."""

    label: str
    fold: int
    seed: int
    slope: float
    intercept: float
    fitted_on: str
    n_cases: int
    n_patients: int


def fit_platt(predictions: Predictions) -> list[Platt]:
    """Fit slopes and intercepts for each fold and seed of the test rows; empty without other patients to fit on.

    Source:
        Platt, 1999; the shrinkage towards a shared slope is ours.
    """
    if fitting_problem(predictions) is not None:
        return []
    fitted = []
    for seed, fold, applied in parts(predictions.test):
        source = fitting_source(predictions)
        others = source.without(fold) if source.crossed else source
        rows = source_rows(others, applied=applied)
        rows = rows.select(rows.seed == seed)
        tables = [view_of(rows, group) for group in range(len(rows.labels))]
        slopes, intercepts = solve_platt([(t.logits[:, 1].astype(np.float64), t.targets[:, 0]) for t in tables])
        described = _described(others, rows)
        fitted += [
            Platt(
                label=name,
                fold=fold,
                seed=seed,
                slope=float(slope),
                intercept=float(intercept),
                fitted_on=described,
                n_cases=len(table),
                n_patients=len(np.unique(table.patient_id)),
            )
            for name, slope, intercept, table in zip(rows.labels, slopes, intercepts, tables, strict=True)
        ]
    return fitted


def _described(source: OutOfFold, rows: Predictions) -> str:
    folds = np.unique(rows.fold).tolist()
    others = f"fold{'s' * (len(folds) > 1)} {', '.join(str(fold) for fold in folds)}"
    return f"{source.described} of {others}" if source.crossed else source.described


def solve_platt(columns: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return slopes (L,) and intercepts (L,) that minimise the log loss of all labels, slopes drawn together.

    Args:
        columns: Logits and targets (0 or 1) of each label, of any length.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    n = len(columns)

    def objective(parameters: Array) -> tuple[float, Array]:
        shared, slopes, intercepts = parameters[0], parameters[1 : n + 1], parameters[n + 1 :]
        apart = slopes - shared
        value = 0.5 * SHRINKAGE * (apart**2).sum() + 0.5 * FREE_STRENGTH * ((shared - 1) ** 2 + (intercepts**2).sum())
        gradient = np.concatenate([[FREE_STRENGTH * (shared - 1) - SHRINKAGE * apart.sum()], SHRINKAGE * apart])
        of_intercepts = FREE_STRENGTH * intercepts
        for k, (logits, targets) in enumerate(columns):
            scaled = slopes[k] * logits + intercepts[k]
            value += float((np.logaddexp(0.0, scaled) - targets * scaled).sum())
            residual = expit(scaled) - targets
            gradient[1 + k] += residual @ logits
            of_intercepts[k] += residual.sum()
        return float(value), np.concatenate([gradient, of_intercepts])

    start = np.concatenate([np.ones(n + 1), np.zeros(n)])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return found.x[1 : n + 1], found.x[n + 1 :]


def apply_platt(predictions: Predictions, fitted: Sequence[Platt]) -> Predictions:
    """Return the test rows with every logit scaled by its label's fit for its fold and seed.

    Raises:
        ValueError: If a row has no fit.
    """
    rows = predictions.test
    scaled = np.full(rows.logits.shape, np.nan)
    for item in fitted:
        member = (rows.fold == item.fold) & (rows.seed == item.seed)
        column = rows.labels.index(item.label)
        scaled[member, column] = item.slope * rows.logits[member, column] + item.intercept
    if np.isnan(scaled).any():
        raise ValueError("some rows have no Platt scaling for their fold and seed")
    return replace(rows, logits=scaled.astype(np.float32))
