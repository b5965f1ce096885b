"""Prediction sets that hold the truth with a chosen chance for a case of a new patient.

Patients, not images, are exchangeable: every patient of the rows to fit on counts once, whatever the number of its
images. Sets are made per class (each true class is covered as often as promised) or per label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.metrics.metric import Array
from archbench.metrics.table_rows import distinct
from archbench.out_of_fold import OutOfFold, source_rows
from archbench.recalibration import label_rows


def patient_quantile(scores: Array, patients: Array, coverage: float) -> float:
    """Return the score that a new patient's case stays below with the wanted chance.

    Args:
        scores: Nonconformity, larger is stranger, shape (N,).
        patients: A small number for the patient of each case, none below 0, shape (N,).
        coverage: 1 - alpha.
    Returns:
        Infinity if there are too few patients for a finite promise: everything belongs to the set.
    Source:
        Lee, Barber and Willett, 2023 (hierarchical conformal prediction): each of P patients weighs 1 / (P + 1),
        shared by its images. With one image per patient it is split conformal prediction (Vovk et al., 2005).
    """
    counts = np.bincount(patients)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum((1.0 / counts[patients])[order]) / ((counts > 0).sum() + 1)
    enough = np.flatnonzero(reached >= coverage - 1e-12)
    return float(scores[order[enough[0]]]) if len(enough) else float("inf")


@dataclass(frozen=True)
class ClassSets:
    """A class belongs to the set if 1 minus its probability is at most its limit.

    Attributes:
        classes: Names, length K.
        limits: Shape (K,); infinite where too few patients have the class.
        coverage: What was promised for each true class.
        n_patients: Patients behind each limit, shape (K,).
        ordinal: Gaps are filled, so that a set is a run of grades.
    """

    classes: tuple[str, ...]
    limits: Array
    coverage: float
    n_patients: Array
    ordinal: bool

    def sets(self, logits: Array) -> Array:
        """Return which classes belong to each row's set, boolean (N, K)."""
        inside = 1.0 - softmax(logits) <= self.limits + 1e-12
        if not self.ordinal:
            return inside
        begun = np.maximum.accumulate(inside, axis=1)
        ends = np.maximum.accumulate(inside[:, ::-1], axis=1)[:, ::-1]
        return begun & ends


def fit_class_sets(source: OutOfFold, *, applied: Predictions, seed: int, coverage: float, ordinal: bool) -> ClassSets:
    """Fit the limit of each class on rows of other patients (LAC scores, by true class).

    Args:
        source: Rows of a task with one label, of other patients than those in `applied`.
        applied: The rows they will be applied to.
        seed: Training seed.
        coverage: Chance that the set holds the truth, for each true class.
        ordinal: Fill gaps between grades; coverage can only grow.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
        ValueError: If the coverage is not between 0 and 1.
    Source:
        Sadinle, Lei and Wasserman, 2019, with the patients' quantile of `patient_quantile`.
    """
    _check_coverage(coverage)
    rows = source_rows(source, applied=applied)
    rows = rows.select(rows.seed == seed)
    strange = 1.0 - softmax(rows.logits)
    limits, n_patients = [], []
    for k in range(len(rows.classes)):
        mine = rows.y_true == k
        limits.append(patient_quantile(strange[mine, k], rows.patient_code[mine], coverage))
        n_patients.append(distinct(rows.patient_code[mine]))
    return ClassSets(rows.classes, np.array(limits), coverage, np.array(n_patients), ordinal)


@dataclass(frozen=True)
class LabelSets:
    """Each label may be called present, absent, both (undecided) or neither.

    Attributes:
        labels: Names, length L.
        limits: Of the strangeness 1 - P(truth) for absent and present, shape (2, L).
        coverage: What was promised for the present and for the absent cases of each label.
        n_patients: Patients behind each limit, shape (2, L).
    """

    labels: tuple[str, ...]
    limits: Array
    coverage: float
    n_patients: Array

    def sets(self, log_odds: Array) -> Array:
        """Return whether absent and present belong to each label's set, boolean (N, L, 2)."""
        present = 1.0 / (1.0 + np.exp(-np.clip(log_odds, -500, 500)))
        return np.stack([present <= self.limits[0] + 1e-12, 1.0 - present <= self.limits[1] + 1e-12], axis=2)


def fit_label_sets(source: OutOfFold, *, applied: Predictions, seed: int, coverage: float) -> LabelSets:
    """Fit both limits of each label on rows of other patients; unknown targets count for nothing.

    Args:
        source: Rows with one logit per label, of other patients than those in `applied`.
        applied: The rows they will be applied to.
        seed: Training seed.
        coverage: Chance that the set holds the truth, among the present and among the absent cases.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
        ValueError: If the coverage is not between 0 and 1.
    """
    _check_coverage(coverage)
    rows, _ = label_rows(source, applied=applied, seed=seed)
    present = 1.0 / (1.0 + np.exp(-np.clip(rows.logits.astype(np.float64), -500, 500)))
    patients = rows.patient_code
    limits, n_patients = np.empty((2, len(rows.labels))), np.empty((2, len(rows.labels)), dtype=np.int64)
    for answer, strange in enumerate((present, 1.0 - present)):
        for label in range(len(rows.labels)):
            mine = rows.targets[:, label] == answer
            limits[answer, label] = patient_quantile(strange[mine, label], patients[mine], coverage)
            n_patients[answer, label] = distinct(patients[mine])
    return LabelSets(rows.labels, limits, coverage, n_patients)


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        raise ValueError(f"the coverage of a conformal set lies between 0 and 1, got {coverage}")
