"""Do the intervals cover and do the tests keep their level, with patients of 1 to 9 images?

    python benchmarks/coverage.py --runs 1000

Simulates cohorts of 60, 150 and 500 patients. A patient's images share part of their truth and of each model's
error. Two models of equal skill are compared: 95 % intervals should hold the true value in 93 to 97 % of the
cohorts, tests at 5 % should reject in 3 to 8 %. Resampling images instead of patients is shown for contrast. The
true accuracy is that of 2,000,000 images; the true AUROC of the normal scores is known.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from archbench.delong import auroc_interval, clustered_auroc, paired_p_value
from archbench.metrics.scoring import Scores
from archbench.resampling import auroc, mean_draws
from archbench.statistics import bootstrap_p_value, difference, estimate, patient_weights

Array = np.ndarray[Any, np.dtype[Any]]
SKILL = 1.5
SHARED = 0.5  # share of the variance of a model's error that the images of a patient have in common


@dataclass(frozen=True)
class Cohort:
    """Two models of equal skill: scores (2, N), truth (N,), patient of each image (N,)."""

    scores: Array
    positive: Array
    patients: Array


def simulate(generator: np.random.Generator, patients: int, *, largest: int = 9, skill: float = SKILL) -> Cohort:
    """Draw a cohort; the AUROC of each model is Phi(skill / sqrt 2)."""
    owner = np.repeat(np.arange(patients), generator.integers(1, largest + 1, size=patients))
    sick = generator.normal(size=patients)[owner] + generator.normal(size=len(owner)) > 0
    common = generator.normal(size=(2, patients))[:, owner]
    own = generator.normal(size=(2, len(owner)))
    return Cohort(skill * sick + np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own, sick, owner)


def correct(cohort: Cohort, skill: float = SKILL) -> Array:
    """Which images each model calls rightly at the best threshold, (2, N)."""
    return ((cohort.scores > skill / 2) == cohort.positive).astype(float)


def run(cohort: Cohort, truth: dict[str, float], *, draws: int, seed: int) -> dict[str, float]:
    """One cohort: 1 where an interval covers or a test rejects."""
    found: dict[str, float] = {}
    for unit, of in (("patient", cohort.patients), ("image", np.arange(len(cohort.patients)))):
        weights = patient_weights(
            np.char.zfill(of.astype(str), 7), strata=np.zeros(len(of)), resamples=draws, seed=seed
        )
        columns = np.concatenate([np.ones((1, len(weights.patients))), weights.weights]).T
        values = {
            "AUROC": [auroc(scores, cohort.positive, columns, of) for scores in cohort.scores],
            "accuracy": [mean_draws(right, columns, of) for right in correct(cohort)],
        }
        for metric, pair in values.items():
            a, b = (Scores(points=value[:1], draws=value[None, 1:]) for value in pair)
            interval = estimate(a, confidence=0.95, bounds=(0.0, 1.0))
            found[f"{metric}, {unit} bootstrap, covers"] = interval.low <= truth[metric] <= interval.high
            found[f"{metric}, {unit} bootstrap, rejects"] = bootstrap_p_value(difference(a, b)) < 0.05
    both = clustered_auroc(cohort.scores, cohort.positive, cohort.patients)
    low, high = auroc_interval(both, 0, 0.95)
    found["AUROC, logit DeLong by patient, covers"] = low <= truth["AUROC"] <= high
    found["AUROC, DeLong by patient, rejects"] = paired_p_value(both, 0, 1) < 0.05
    by_image = clustered_auroc(cohort.scores, cohort.positive, np.arange(len(cohort.patients)))
    found["AUROC, DeLong by image, rejects"] = paired_p_value(by_image, 0, 1) < 0.05
    return found


def truths(skill: float = SKILL) -> dict[str, float]:
    """AUROC and accuracy in the population."""
    from scipy.stats import norm

    large = simulate(np.random.default_rng(1), 400_000, skill=skill)
    return {"AUROC": float(norm.cdf(skill / np.sqrt(2))), "accuracy": float(correct(large, skill).mean())}


def main() -> int:
    """Simulate, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--patients", type=int, nargs="+", default=[60, 150, 500])
    arguments = parser.parse_args()
    truth, columns, begun = truths(), {}, time.perf_counter()
    for patients in arguments.patients:
        generator = np.random.default_rng([0, patients])
        runs = [run(simulate(generator, patients), truth, draws=arguments.draws, seed=k) for k in range(arguments.runs)]
        columns[patients] = {name: 100 * float(np.mean([found[name] for found in runs])) for name in runs[0]}
    print(f"true AUROC {truth['AUROC']:.3f}, accuracy {truth['accuracy']:.3f}; {time.perf_counter() - begun:.0f} s")
    print("| % of cohorts | " + " | ".join(f"{patients} patients" for patients in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in next(iter(columns.values())):
        print(f"| {name} | " + " | ".join(f"{values[name]:.1f}" for values in columns.values()) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
