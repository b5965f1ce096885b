"""From timed calls to figures: quantiles with intervals, paired ratios, and what is within the noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from archbench.inference_timing.contender import END_TO_END, PREPARED, Call

QUANTILES = {"median": 0.5, "p95": 0.95, "p99": 0.99}
DRAWS = 2000


def quantile_interval(values: np.ndarray, q: float, *, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the order statistics that enclose a quantile, free of any distribution.

    The number of values below the quantile is binomial (n, q). None where even the largest value bounds the quantile
    with less than this confidence.

    Args:
        values: Independent values, shape (n,).
    Source:
        David and Nagaraja, Order Statistics, 2003, section 7.1.
    """
    from scipy.stats import binom

    n, tail = len(values), (1 - confidence) / 2
    if n < needed_count(q, confidence=confidence):
        return None
    ordered = np.sort(values)
    low, high = int(binom.ppf(tail, n, q)), int(binom.ppf(1 - tail, n, q)) + 1
    return float(ordered[max(low, 1) - 1]), float(ordered[min(high, n) - 1])


def needed_count(q: float, *, confidence: float = 0.95) -> int:
    """Return how many values an interval of a quantile needs: 6 for the median, 72 for p95, 368 for p99."""
    tail, extreme = (1 - confidence) / 2, max(q, 1 - q)
    return math.ceil(math.log(tail) / math.log(extreme))


def summarize(calls: Iterable[Call], *, confidence: float = 0.95, regime: str = PREPARED) -> list[dict[str, Any]]:
    """Return the figures of each contender and batch size in one regime, twins left out.

    p95 and p99 are None below the count that their intervals need. `low_ms` and `high_ms` enclose the median by
    the medians of the rounds, which are what was repeated: calls within a round share its luck.
    """
    groups = _grouped(call for call in calls if call.regime == regime and not call.twin)
    return [_figures(key, groups[key], confidence) for key in sorted(groups)]


def _grouped(calls: Iterable[Call]) -> dict[tuple[str, str, int], list[Call]]:
    groups: dict[tuple[str, str, int], list[Call]] = {}
    for call in calls:
        groups.setdefault((call.model, call.runtime, call.batch_size), []).append(call)
    return groups


def _figures(key: tuple[str, str, int], calls: Sequence[Call], confidence: float) -> dict[str, Any]:
    model, runtime, batch_size = key
    latencies = np.array([call.latency_ms for call in calls])
    row: dict[str, Any] = {"model": model, "runtime": runtime, "batch_size": batch_size, "n": len(latencies)}
    for name, q in QUANTILES.items():
        interval = quantile_interval(latencies, q, confidence=confidence)
        known = interval is not None or name == "median"
        row[f"{name}_ms"] = float(np.quantile(latencies, q)) if known else None
        row[f"{name}_low_ms"], row[f"{name}_high_ms"] = interval or (None, None)
    rounds = quantile_interval(np.array(list(_medians(calls).values())), 0.5, confidence=confidence)
    median = row["median_ms"]
    low, high = (None, None) if rounds is None else (min(rounds[0], median), max(rounds[1], median))
    row |= {"low_ms": low, "high_ms": high, "n_rounds": len(_medians(calls))}
    row["throughput_img_per_s"] = 1000 * batch_size / median
    row["throughput_low"] = None if high is None else 1000 * batch_size / high
    row["throughput_high"] = None if low is None else 1000 * batch_size / low
    return row


def _medians(calls: Sequence[Call]) -> dict[int, float]:
    rounds: dict[int, list[float]] = {}
    for call in calls:
        rounds.setdefault(call.round, []).append(call.latency_ms)
    return {number: float(np.median(values)) for number, values in sorted(rounds.items())}


def stages(calls: Iterable[Call]) -> list[dict[str, Any]]:
    """Return where the time goes from file to logits: median milliseconds of each step."""
    groups = _grouped(call for call in calls if call.regime == END_TO_END)
    found = []
    for (model, runtime, _), of in sorted(groups.items()):
        parts = np.array([(c.decode_ms, c.preprocess_ms, c.latency_ms) for c in of], dtype=np.float64)
        decode, prepare, total = parts.T
        steps = {"decode_ms": decode, "preprocess_ms": prepare, "model_ms": total - decode - prepare, "total_ms": total}
        row = {"model": model, "runtime": runtime, "n": len(of)}
        found.append(row | {name: float(np.median(values)) for name, values in steps.items()})
    return found


def speedups(
    calls: Sequence[Call], *, reference: str = "onnxruntime", confidence: float = 0.95, seed: int = 0
) -> list[dict[str, Any]]:
    """Return how many times longer each runtime takes than the reference one, prepared input.

    The ratio is the median of the rounds' ratios, with a bootstrap interval over rounds. The verdict on a runtime is
    faster or slower only if its whole interval lies outside the noise floor of the model and batch size.

    Args:
        reference: The runtime that the others are divided by.
    """
    floors = {(row["model"], row["batch_size"]): row["floor"] for row in noise_floor(calls, confidence=confidence)}
    groups = _grouped(call for call in calls if call.regime == PREPARED and not call.twin)
    found = []
    for (model, runtime, batch_size), of in sorted(groups.items()):
        base = groups.get((model, reference, batch_size))
        if runtime == reference or base is None:
            continue
        row = _ratio(of, base, confidence=confidence, seed=seed)
        if row is None:
            continue
        floor = floors.get((model, batch_size))
        names = {"model": model, "runtime": runtime, "against": reference, "batch_size": batch_size}
        found.append({**names, **row, "floor": floor, "verdict": _verdict(row, floor)})
    # plain torch first: it is what a reader looks for
    return sorted(found, key=lambda row: (row["model"], row["batch_size"], row["runtime"] != "torch", row["runtime"]))


def noise_floor(calls: Sequence[Call], *, confidence: float = 0.95, seed: int = 0) -> list[dict[str, Any]]:
    """Return the ratio of each twin to its original, and the factor that counts as noise.

    `floor` is the factor by which two equal contenders may seem to differ: the further end of the interval,
    above 1.
    """
    twins = _grouped(call for call in calls if call.regime == PREPARED and call.twin)
    originals = _grouped(call for call in calls if call.regime == PREPARED and not call.twin)
    found = []
    for key in sorted(twins.keys() & originals.keys()):
        row = _ratio(twins[key], originals[key], confidence=confidence, seed=seed)
        if row is not None:
            floor = math.exp(max(abs(math.log(row["low"])), abs(math.log(row["high"]))))
            model, runtime, batch_size = key
            found.append({"model": model, "runtime": runtime, "batch_size": batch_size, **row, "floor": floor})
    return found


def _ratio(calls: Sequence[Call], base: Sequence[Call], *, confidence: float, seed: int) -> dict[str, Any] | None:
    mine, others = _medians(calls), _medians(base)
    ratios = np.array([mine[number] / others[number] for number in sorted(mine.keys() & others.keys())])
    if not len(ratios):
        return None
    draws = np.random.default_rng(seed).choice(ratios, size=(DRAWS, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"ratio": float(np.median(ratios)), "low": float(low), "high": float(high), "n_rounds": len(ratios)}


def _verdict(row: dict[str, Any], floor: float | None) -> str:
    """What can be said of a runtime against the reference: slower, faster or indistinguishable."""
    limit = 1.0 if floor is None else floor
    if row["low"] > limit:
        return "slower"
    return "faster" if row["high"] < 1 / limit else "indistinguishable"
