"""What is made of timed calls: intervals, quantiles, paired ratios and noise floor, against planted truth and SciPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import binom

from archbench.inference_timing.contender import (
    Call,
)
from archbench.inference_timing.summary import (
    needed_count,
    noise_floor,
    quantile_interval,
    speedups,
    summarize,
)


def planted(*, count: int = 9, per_round: int = 10, seed: int = 0, noise: float = 0.01) -> list[Call]:
    """Latencies with a load common to each round; torch takes 2.5 times as long, compiled the same as the twin."""
    draws = np.random.default_rng(seed)
    calls = []
    for number in range(count):
        load = draws.uniform(1, 4)
        for runtime, base, twin in (
            ("torch", 10.0, False),
            ("onnxruntime", 4.0, False),
            ("onnxruntime", 4.0, True),
            ("torch_compile", 4.0, False),
        ):
            calls += [
                Call("m", runtime, 8, number, base * load * draws.uniform(1 - noise, 1 + noise), twin=twin)
                for _ in range(per_round)
            ]
    return calls


def latencies(calls: Sequence[Call], runtime: str) -> np.ndarray:
    return np.array([call.latency_ms for call in calls if call.runtime == runtime and not call.twin])


def test_summary_is_numpys_and_leaves_twins_out() -> None:
    calls = planted()
    rows = summarize(calls)
    assert [row["runtime"] for row in rows] == ["onnxruntime", "torch", "torch_compile"]
    for row in rows:
        mine = latencies(calls, row["runtime"])
        assert row["median_ms"] == pytest.approx(np.median(mine))
        assert row["p95_ms"] == pytest.approx(np.quantile(mine, 0.95))
        assert row["throughput_img_per_s"] == pytest.approx(8 / (np.median(mine) / 1000))
        assert (row["n"], row["batch_size"], row["model"], row["n_rounds"]) == (90, 8, "m", 9)
        assert row["low_ms"] <= row["median_ms"] <= row["high_ms"]
        assert row["throughput_low"] == pytest.approx(8000 / row["high_ms"])
        assert row["p99_ms"] is None, "90 calls say nothing of one call in a hundred"


def test_the_interval_of_the_median_is_that_of_the_rounds() -> None:
    """Nine values: the second and the eighth enclose the median with 96 %, as in every table of the sign test."""
    calls = planted()
    medians = sorted(
        np.median([c.latency_ms for c in calls if c.round == k and c.runtime == "torch"]) for k in range(9)
    )
    row = next(row for row in summarize(calls) if row["runtime"] == "torch")
    assert (row["low_ms"], row["high_ms"]) == pytest.approx((medians[1], medians[7]))


@pytest.mark.parametrize(("q", "count"), [(0.5, 6), (0.95, 72), (0.99, 368)])
def test_a_quantile_needs_enough_calls(q: float, count: int) -> None:
    assert needed_count(q) == count
    assert 1 - q**count >= 0.975 > 1 - q ** (count - 1), "the largest value bounds the quantile with 97.5 %"
    assert quantile_interval(np.arange(count - 1.0), q) is None
    assert quantile_interval(np.arange(float(count)), q) is not None


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [400, 1000])
def test_order_statistics_cover_as_promised(q: float, n: int) -> None:
    """Of the values 0..n-1 an order statistic is its own rank, so the binomial says what is covered."""
    found = quantile_interval(np.random.default_rng(0).permutation(n).astype(float), q)
    assert found is not None
    low, high = int(found[0]) + 1, int(found[1]) + 1
    # X_(low) <= quantile < X_(high) has the probability P(low <= B < high)
    assert binom.cdf(high - 1, n, q) - binom.cdf(low - 1, n, q) >= 0.95
    assert binom.cdf(high - 2, n, q) < 0.975, "one rank less would not do"


def test_ratios_are_paired_by_round() -> None:
    """The load varies four times over; ratios within a round don't."""
    calls = planted()
    torch_row, compiled = speedups(calls)
    assert (torch_row["runtime"], torch_row["against"], torch_row["n_rounds"]) == ("torch", "onnxruntime", 9)
    by_hand = [
        np.median([c.latency_ms for c in calls if c.round == k and c.runtime == "torch"])
        / np.median([c.latency_ms for c in calls if c.round == k and c.runtime == "onnxruntime" and not c.twin])
        for k in range(9)
    ]
    assert torch_row["ratio"] == pytest.approx(np.median(by_hand))
    assert min(by_hand) <= torch_row["low"] <= torch_row["ratio"] <= torch_row["high"] <= max(by_hand)
    assert torch_row["verdict"] == "slower"
    assert compiled["verdict"] == "indistinguishable"


def test_what_is_within_the_noise_floor_is_no_difference() -> None:
    """4 % apart: told apart where equal contenders agree to 1 %, not where they differ by 10 %."""
    calm = [call for call in planted(noise=0.002) if call.runtime != "torch_compile"]
    calls = [*calm, *(Call("m", "near", 8, c.round, c.latency_ms * 1.04) for c in calm if c.twin)]
    assert {row["runtime"]: row["verdict"] for row in speedups(calls)}["near"] == "slower"
    restless = [
        Call(c.model, c.runtime, 8, c.round, c.latency_ms * (1.1 if c.twin and c.round % 2 else 1), twin=c.twin)
        for c in calls
    ]
    (noise,) = noise_floor(restless)
    assert noise["floor"] == pytest.approx(1.1, rel=0.01)
    assert {row["runtime"]: row["verdict"] for row in speedups(restless)}["near"] == "indistinguishable"


def test_ratios_repeat_and_follow_the_confidence() -> None:
    calls = [call for call in planted(noise=0.2) if call.round != 4]
    assert speedups(calls) == speedups(calls)
    wide, narrow = (speedups(calls, confidence=c)[0] for c in (0.99, 0.6))
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"]
