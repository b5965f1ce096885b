"""Which rows may be fitted on for which: every fold and seed that is scored, and the rows of other patients.

Whatever is fitted for a report (temperatures, Platt's lines, thresholds, cut points, conformal limits) goes through
here, so that there is one place where the rule of the protocol is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archbench.artifacts import Predictions
from archbench.metrics.table_rows import distinct, parts
from archbench.out_of_fold import OutOfFold, fitting_problem, fitting_source


@dataclass(frozen=True)
class CrossedPart:
    """The scored rows of one fold and seed, and the rows of other patients that may be fitted on for them.

    Attributes:
        fold: Fold that is applied to.
        seed: Training seed.
        source: Rows of this seed and of other patients.
        applied: The rows to apply to.
        inside: Which rows of the scored table these are, boolean.
    """

    fold: int
    seed: int
    source: OutOfFold
    applied: Predictions
    inside: np.ndarray

    @property
    def described(self) -> str:
        """What is fitted on, in words."""
        if not self.source.crossed:
            return self.source.described
        folds = np.unique(self.source.rows.fold).tolist()
        others = f"fold{'s' * (len(folds) > 1)} {', '.join(str(fold) for fold in folds)}"
        return f"{self.source.described} of {others}"

    def origin(self) -> dict[str, int | str]:
        """What every fitted parameter says of itself."""
        rows = self.source.rows
        counts = {"n_cases": len(rows), "n_patients": distinct(rows.patient_code)}
        return {"fold": self.fold, "seed": self.seed, "fitted_on": self.described, **counts}


def crossed_parts(predictions: Predictions) -> list[CrossedPart]:
    """Return every fold and seed of the scored test rows with what may be fitted on for it, seeds first.

    Empty where nothing can be fitted, see `fitting_problem`.

    Raises:
        LeakError: If a patient is on both sides.
    """
    if fitting_problem(predictions) is not None:
        return []
    source, test = fitting_source(predictions), predictions.test.known()
    others = {int(fold): source.without(fold) if source.crossed else source for fold in np.unique(test.fold)}
    return [
        CrossedPart(fold, seed, others[fold].of_seed(seed), rows, (test.fold == fold) & (test.seed == seed))
        for seed, fold, rows in parts(test)
        if len(rows)
    ]
