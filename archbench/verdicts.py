"""What a paired difference between two models means: margins of equivalence, and the words of a comparison."""

from __future__ import annotations

DELTAS = {"auroc": 0.01, "qwk": 0.02, "dice": 0.01}
OTHER_DELTA = 0.02


def default_delta(metric: str) -> float:
    """Return the margin of equivalence: .01 for AUROC and Dice, .02 for QWK and all others."""
    return next((delta for prefix, delta in DELTAS.items() if metric.startswith(prefix)), OTHER_DELTA)


def verdict(
    *,
    gain: float,
    significant: bool,
    inner: tuple[float, float],
    delta: float,
) -> str:
    """Put a paired difference into words.

    Args:
        gain: Difference in favour of the first model.
        significant: The corrected test rejects "no difference".
        inner: 90 % interval of the gain; NaN where there is none.
        delta: Margin of equivalence.
    Returns:
        "better", "better but trivial", "equivalent", "inconclusive" or "worse". What is not significant is
        equivalent only if the interval says so.
    """
    within = bool(-delta < inner[0] and inner[1] < delta)
    if significant and gain > 0:
        return "better but trivial" if within else "better"
    if within:
        return "equivalent"
    return "worse" if significant else "inconclusive"
