"""How much faster the bootstrap's kernel is than a scikit-learn loop, and what a million rows cost.

    python benchmarks/resampling.py

First part: 10,000 cases x 14 labels, 1,000 resamples of patients with 1 to 9 cases, AUROC and average precision;
scikit-learn is called for a few resamples of the same draw in the same run and scaled per resample, and both must
agree to 1e-12. Second part: 1,000,000 rows x 14 labels, 200 resamples, in a process of its own, whose peak memory
is reported. Run by hand on a quiet machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from typing import Any

import numpy as np

from archbench.resampling import question_draws
from archbench.statistics import patient_weights

Array = np.ndarray[Any, np.dtype[Any]]
LABELS = 14
PREVALENCE = np.linspace(0.02, 0.5, LABELS)


def cohort(n: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Scores (N, 14), targets (N, 14) and the patient of each case (N,); patients have 1 to 9 cases."""
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n), generator.integers(1, 10, size=n))[:n]
    targets = (generator.random((n, LABELS)) < PREVALENCE).astype(float)
    return targets + generator.normal(size=(n, LABELS)), targets, patients


def ours(n: int, draws: int) -> tuple[float, float, Array, Array, tuple[Any, ...]]:
    """Seconds for drawing the weights and for the kernel, and what it found."""
    scores, targets, patients = cohort(n)
    begun = time.perf_counter()
    drawn = patient_weights(patients, strata=np.zeros(n, dtype=int), resamples=draws, seed=0)
    rows = np.searchsorted(drawn.patients, patients.astype(str))
    drawing = time.perf_counter() - begun
    begun = time.perf_counter()
    areas, precisions = question_draws(scores, targets, drawn.weights.T, rows)
    return drawing, time.perf_counter() - begun, areas, precisions, (scores, targets, drawn.weights, rows)


def theirs(data: tuple[Any, ...], areas: Array, precisions: Array, sampled: int) -> tuple[float, float]:
    """Seconds per resample of the scikit-learn loop, and its largest difference to ours."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, targets, weights, rows = data
    largest, seconds = 0.0, 0.0
    for draw in range(sampled):
        weight = weights[draw, rows].astype(float)
        begun = time.perf_counter()
        found = [
            (
                roc_auc_score(targets[:, q], scores[:, q], sample_weight=weight),
                average_precision_score(targets[:, q], scores[:, q], sample_weight=weight),
            )
            for q in range(LABELS)
        ]
        seconds += time.perf_counter() - begun
        both = np.stack([areas[:, draw], precisions[:, draw]], axis=1)
        largest = max(largest, float(np.abs(np.array(found) - both).max()))
    return seconds / sampled, largest


def _million(rows: int, draws: int, answers: Any) -> None:
    drawing, seconds, areas, _, _ = ours(rows, draws)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # KiB on Linux
    answers.put((drawing, seconds, peak, bool(np.isfinite(areas).all())))


def main() -> int:
    """Measure both parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampled", type=int, default=5, help="resamples that scikit-learn computes")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the second part")
    arguments = parser.parse_args()
    ours(2_000, 16)  # imports and first calls are not what is measured
    drawing, seconds, areas, precisions, data = ours(10_000, 1000)
    loop, largest = theirs(data, areas, precisions, arguments.sampled)
    print(f"10,000 x {LABELS}, {data[2].shape[1]} patients, 1,000 draws: {seconds:.2f} s (+ {drawing:.2f} s to draw)")
    print(f"scikit-learn: {loop:.3f} s a draw, {1000 * loop:.0f} s for all, {1000 * loop / seconds:.0f} times as long")
    print(f"largest difference: {largest:.1e}")
    answers: Any = multiprocessing.get_context("spawn").Queue()
    child = multiprocessing.get_context("spawn").Process(target=_million, args=(arguments.rows, 200, answers))
    child.start()
    drawing, seconds, peak, finite = answers.get()
    child.join()
    print(f"{arguments.rows:,} x {LABELS}, 200 draws: {seconds:.1f} s (+ {drawing:.1f} s to draw), peak {peak:.1f} GiB")
    return 0 if largest <= 1e-12 and finite else 1


if __name__ == "__main__":
    sys.exit(main())
