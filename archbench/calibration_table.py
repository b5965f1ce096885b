"""How well each label's or class's probabilities mean what they say, before and after: `table` of calibration.json.

The format stands in docs/result_files.md.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from archbench.artifacts import MetricRecord, Predictions
from archbench.metrics.metric import Array, defined_or_none, mean_defined
from archbench.metrics.scoring import Scores
from archbench.metrics.views import Question, binary_questions
from archbench.reliability import CalibrationLine, binary_reliability, calibration_draws, calibration_line, ece_floor
from archbench.resampled import Resampled
from archbench.statistics import Estimate, seed_standard_error

MEASURES = ("ece", "mce", "brier", "log_loss")
GROWS_WITH_NOISE = ("ece", "mce")
BOUNDS = {"ece": (0.0, 1.0), "mce": (0.0, 1.0), "brier": (0.0, 1.0), "log_loss": (0.0, np.inf)}
NO_CASE = "no case is known"


def calibration_table(sample: Resampled, calibrated: Predictions | None, *, seed: int) -> dict[str, Any]:
    """Return the calibration of every question by itself, and the mean over the questions.

    Args:
        sample: The scored rows.
        calibrated: The same rows after calibration; None where nothing could be fitted.
        seed: Of the simulated null floor.
    """
    versions = {"raw": sample.rows, "calibrated": calibrated}
    macro: dict[str, Any] = {}
    questions: dict[str, dict[str, Any]] = {}
    for version, rows in versions.items():
        if rows is None:
            macro[version] = None
            for found in questions.values():
                found[version] = None
            continue
        drawn = {q.name: (q, _draws(q, sample)) for q in binary_questions(rows) if len(q.members)}
        for name, (question, scores) in drawn.items():
            questions.setdefault(name, {})[version] = _question(question, scores, sample, seed=seed)
        floors = [questions[name][version]["null_floor"] for name in drawn]
        macro[version] = _macro([scores for _, scores in drawn.values()], floors, sample)
    return {"macro": macro, "questions": questions}


def _draws(question: Question, sample: Resampled) -> dict[str, Scores]:
    """Each measure, of every training seed and resample."""
    probabilities, of_seed = question.probabilities, sample.seed[question.members]
    by_seed = []
    for seed in np.unique(of_seed):
        mine = of_seed == seed
        unit = sample.unit[question.members[mine]]
        by_seed.append(calibration_draws(probabilities[mine], question.targets[mine], sample.columns, unit))
    result = {}
    for name in MEASURES:
        values = np.stack([getattr(found, name) for found in by_seed])
        result[name] = Scores(points=values[:, 0], draws=values[:, 1:])
    return result


def _question(question: Question, scores: dict[str, Scores], sample: Resampled, *, seed: int) -> dict[str, Any]:
    members, counts = question.members, sample.counts(question.members)
    of_seed = sample.seed[members]
    each = [of_seed == value for value in np.unique(of_seed)]
    floors = [ece_floor(question.probabilities[mine], seed=seed) for mine in each]
    unit = sample.unit[members]
    lines = [calibration_line(question.log_odds[mine], question.targets[mine], unit[mine]) for mine in each]
    bins = binary_reliability(
        question.probabilities, question.targets, sample.columns[:, 1:], unit, confidence=sample.confidence
    )
    return {
        **_records(scores, sample, counts),
        "null_floor": float(np.mean(floors)),
        "slope": _line("slope", lines, sample, counts),
        "intercept": _line("intercept", lines, sample, counts),
        "bins": [
            {key: defined_or_none(value) if key in ("low", "high") else value for key, value in asdict(item).items()}
            for item in bins
        ],
    }


def _records(scores: dict[str, Scores], sample: Resampled, counts: tuple[int, int]) -> dict[str, MetricRecord]:
    return {
        name: sample.record(name, found, NO_CASE, bounds=BOUNDS[name], centred=name in GROWS_WITH_NOISE, counts=counts)
        for name, found in scores.items()
    }


def _line(which: str, lines: list[CalibrationLine], sample: Resampled, counts: tuple[int, int]) -> MetricRecord:
    """Mean over the seeds with a normal interval; the seeds share their patients, so that errors don't average out."""
    values = np.array([getattr(line, which) for line in lines])
    errors = np.array([getattr(line, f"{which}_se") for line in lines])
    reason = next((line.reason for line in lines if line.reason), None) or "undefined"
    between = seed_standard_error(values)
    spread = float(np.hypot(errors.mean(), 0.0 if np.isnan(between) else between))
    value = float(values.mean())
    low, high = CalibrationLine(value, spread, value, spread, None).interval(which, sample.confidence)
    missing = "no interval: all cases are of one patient" if np.isnan(spread) else None
    found = Estimate(value, low, high, float(errors.mean()), between, 0, missing, method="normal")
    return sample.written(which, found, reason, counts=counts)


def _macro(scores: list[dict[str, Scores]], floors: list[float], sample: Resampled) -> dict[str, Any]:
    """Mean over the questions."""
    result: dict[str, Any] = {}
    for name in MEASURES:
        points: Array = np.stack([found[name].points for found in scores])
        draws: Array = np.stack([found[name].draws for found in scores])
        mean = Scores(points=mean_defined(points, axis=0), draws=mean_defined(draws, axis=0))
        result[name] = sample.record(name, mean, NO_CASE, bounds=BOUNDS[name], centred=name in GROWS_WITH_NOISE)
    result["null_floor"] = float(np.mean(floors)) if floors else None
    return result
