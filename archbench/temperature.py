"""Temperature scaling, fitted on rows of other patients: one temperature per fold and seed, for zones one per zone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archbench.artifacts import Predictions
from archbench.metrics.metric import Array
from archbench.out_of_fold import OutOfFold, source_rows

LOG_TEMPERATURE_BOUNDS = (-3.0, 3.0)  # temperatures from 1/20 to 20


@dataclass(frozen=True)
class Temperature:
    """Calibrated logits are logits / temperature.

    Attributes:
        temperature: Above 1 the model was too sure.
        n_cases: Cases it was fitted on.
        n_patients: Patients it was fitted on.
    """

    temperature: float
    n_cases: int
    n_patients: int

    def log_odds(self, logits: Array) -> Array:
        """Return calibrated logits, (N, K) -> (N, K)."""
        return logits.astype(np.float64) / self.temperature


def fit_temperature(source: OutOfFold, *, applied: Predictions, seed: int) -> Temperature:
    """Return the temperature that minimises the log loss of rows of other patients.

    Args:
        source: Out-of-fold rows of other patients than those in `applied`.
        applied: The rows that will be divided by the temperature.
        seed: Training seed.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among the rows.
    Source:
        Guo et al., 2017.
    """
    fit = source_rows(source, applied=applied)
    fit = fit.select(fit.seed == seed)
    return Temperature(minimise_log_loss(fit.logits, fit.y_true), len(fit), len(np.unique(fit.patient_id)))


def minimise_log_loss(logits: Array, y_true: Array) -> float:
    """Return the temperature with the least log loss, searched over its logarithm; the loss is convex in 1/T."""
    from scipy.optimize import minimize_scalar

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    of_truth = shifted[np.arange(len(y_true)), y_true]

    def loss(log_temperature: float) -> float:
        slope = np.exp(-log_temperature)
        return float((np.log(np.exp(slope * shifted).sum(axis=1)) - slope * of_truth).mean())

    found = minimize_scalar(loss, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
