"""Intervals where resampling says nothing: a precision of 1 in every resample is not known to be 1.

A plain proportion of 0 or 1 gets Wilson's score interval with patients, not images, as cases: with agreement that
perfect a patient's images can't be taken as independent. Anything else that no resample changes has no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from archbench.metrics.drawn import Drawn
from archbench.metrics.metric import Metric
from archbench.metrics.scoring import frozen_classes
from archbench.metrics.table_rows import distinct
from archbench.metrics.views import decided, is_grouped, risk_view
from archbench.statistics import Estimate, wilson_interval

ALIKE = 1e-12
Behind = Callable[[], Sequence[int]]


def no_proportion() -> Sequence[int]:
    """Return that a quantity is no proportion of anything."""
    return ()


def settled(
    found: Estimate, behind: Behind, *, confidence: float, from_share: Callable[[float], float] | None = None
) -> Estimate:
    """Return an estimate as it is, or with an interval (or none) that does not rest on resamples that are all alike.

    Args:
        found: By the bootstrap.
        behind: Asked only if needed: the number of patients that a proportion is a share of, one number, or one of
            each label of a mean over labels; nothing for what is no proportion.
        confidence: Level.
        from_share: As in `Metric`.
    """
    if np.isnan(found.low) or found.high - found.low > ALIKE:
        return found
    patients = list(behind()) if found.value in (0.0, 1.0) else []
    if not patients:
        reason = "no interval: every resample of the patients gives the same value"
        return replace(found, low=np.nan, high=np.nan, reason=reason)
    bounds = [wilson_interval(found.value * n, n, confidence) for n in patients]
    if from_share is not None:
        bounds = [(from_share(low), from_share(high)) for low, high in bounds]
    low, high = (float(np.mean(ends)) for ends in zip(*bounds, strict=True))
    each = "label" if from_share is None else "label or class"
    of = f"{patients[0]} patients" if len(patients) == 1 else f"{min(patients)} to {max(patients)} patients a {each}"
    what = "" if from_share is None else " of the overlap of what is called and what is true"
    reason = f"every resample gives {found.value:g}: Wilson's score interval{what} with patients as cases ({of})"
    return replace(found, low=low, high=high, reason=reason, method="wilson")


def patients_behind(drawn: Drawn, metric: Metric) -> Sequence[int]:
    """Return the number of patients that a metric is a share of, see `settled`."""
    if metric.share is None:
        return ()
    rows, unit = drawn.predictions, drawn.unit
    if metric.of == "risk":
        table = drawn.table(risk_view(rows))
        rows, unit = table.predictions, table.unit
    if not is_grouped(rows):
        masks = np.atleast_2d(metric.share(rows.y_true, rows.decisions))
        return [n for mask in masks if (n := distinct(unit[mask]))]
    called, truth = decided(rows)
    inside = metric.share(truth, called) & ~np.isnan(truth)
    if inside.ndim > truth.ndim:  # classes of zones: one number of each of both
        inside = np.concatenate(list(inside), axis=1)
    if metric.of != "each":
        return [distinct(unit[inside.any(axis=1)])]
    counted = frozen_classes(rows).any(axis=1) if rows.outputs == "labels" else inside.any(axis=0)
    return [n for column in inside[:, counted].T if (n := distinct(unit[column]))]
