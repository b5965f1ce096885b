"""Timing: interleaved, complete, and summarised as numpy would."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from archbench import inference_timing
from archbench.inference_timing import (
    WARMUP_CALLS,
    Call,
    Contender,
    describe_hardware,
    make_contenders,
    speedups,
    summarize,
    time_rounds,
)
from archbench.models.building import build_network

ROUNDS = 7


def sleeper(seconds: float, log: list[str], name: str) -> Callable[[], None]:
    def call() -> None:
        log.append(name)
        time.sleep(seconds)

    return call


@pytest.fixture(scope="module")
def timed() -> tuple[list[Call], list[str]]:
    """Four contenders that sleep: model a takes 4 ms in torch and 1 in ONNX Runtime, b 2 in both."""
    log: list[str] = []
    spans = {("a", "torch"): 0.004, ("a", "onnxruntime"): 0.001, ("b", "torch"): 0.002, ("b", "onnxruntime"): 0.002}
    contenders = [Contender(m, r, 1, sleeper(s, log, f"{m} {r}")) for (m, r), s in spans.items()]
    return time_rounds(contenders, rounds=ROUNDS, calls=4), log


def test_every_contender_runs_in_every_round(timed: tuple[list[Call], list[str]]) -> None:
    counts = Counter((call.round, call.model, call.runtime) for call in timed[0])
    assert len(counts) == ROUNDS * 4
    assert set(counts.values()) == {4}


def test_rounds_are_interleaved_in_shuffled_order(timed: tuple[list[Call], list[str]]) -> None:
    calls = timed[0]
    assert [call.round for call in calls] == sorted(call.round for call in calls)
    orders = [
        tuple(dict.fromkeys((c.model, c.runtime) for c in calls if c.round == number)) for number in range(ROUNDS)
    ]
    assert all(len(order) == 4 for order in orders)
    assert len(set(orders)) > 2, "the same order each round favours whoever runs after an easy neighbour"


def test_warmup_is_not_timed(timed: tuple[list[Call], list[str]]) -> None:
    calls, log = timed
    assert Counter(log) == dict.fromkeys(set(log), WARMUP_CALLS + ROUNDS * (4 + 1))
    assert log[: 4 * WARMUP_CALLS] == [name for name in dict.fromkeys(log) for _ in range(WARMUP_CALLS)]
    assert len(calls) == 4 * 4 * ROUNDS


def test_latencies_are_milliseconds(timed: tuple[list[Call], list[str]]) -> None:
    for call in timed[0]:
        least = {("a", "torch"): 4, ("a", "onnxruntime"): 1}.get((call.model, call.runtime), 2)
        assert call.latency_ms >= least * 0.99


def test_large_batches_get_fewer_calls_but_two_at_least() -> None:
    contenders = [Contender("a", "torch", size, lambda: None) for size in (1, 4, 32)]
    calls = time_rounds(contenders, rounds=1, calls=10)
    assert Counter(call.batch_size for call in calls) == {1: 10, 4: 2, 32: 2}


def planted(*, rounds: int = 9, per_round: int = 10, seed: int = 0) -> list[Call]:
    """Latencies with a disturbance common to each round; torch takes 2.5 times as long."""
    draws = np.random.default_rng(seed)
    calls = []
    for number in range(rounds):
        load = draws.uniform(1, 4)
        for runtime, base in (("torch", 10.0), ("onnxruntime", 4.0)):
            calls += [Call("m", runtime, 8, number, base * load * draws.uniform(0.99, 1.01)) for _ in range(per_round)]
    return calls


def test_summary_is_numpys() -> None:
    calls = planted()
    for row in summarize(calls):
        latencies = np.array([c.latency_ms for c in calls if c.runtime == row["runtime"]])
        assert row["median_ms"] == pytest.approx(np.median(latencies))
        assert row["p95_ms"] == pytest.approx(np.quantile(latencies, 0.95))
        assert row["throughput_img_per_s"] == pytest.approx(8 / (np.median(latencies) / 1000))
        assert (row["n"], row["batch_size"], row["model"]) == (90, 8, "m")


@pytest.mark.parametrize(("n", "given"), [(59, False), (60, True)])
def test_a_95th_percentile_needs_enough_calls(n: int, given: bool) -> None:
    calls = [Call("m", "torch", 1, 0, float(k)) for k in range(n)]
    assert (summarize(calls)[0]["p95_ms"] is not None) == given
    # From 59 independent calls on the largest one bounds the 95th percentile with 95 % confidence.
    assert 1 - 0.95**n > 0.95


def test_ratios_are_paired_by_round() -> None:
    """The load varies four times over; ratios within a round don't."""
    calls = planted()
    (row,) = speedups(calls)
    assert row["ratio"] == pytest.approx(2.5, rel=0.02)
    assert 2.4 < row["low"] <= row["ratio"] <= row["high"] < 2.6
    assert row["n_rounds"] == 9
    by_hand = [
        np.median([c.latency_ms for c in calls if c.round == k and c.runtime == "torch"])
        / np.median([c.latency_ms for c in calls if c.round == k and c.runtime == "onnxruntime"])
        for k in range(9)
    ]
    assert row["ratio"] == pytest.approx(np.median(by_hand))
    assert min(by_hand) <= row["low"] and row["high"] <= max(by_hand)


def test_ratios_repeat_and_follow_the_confidence() -> None:
    calls = [call for call in planted() if call.round != 4]
    assert speedups(calls) == speedups(calls)
    wide, narrow = (speedups(calls, confidence=c)[0] for c in (0.99, 0.6))
    assert wide["high"] - wide["low"] >= narrow["high"] - narrow["low"]


def test_real_contenders_answer_alike(tmp_path: Path) -> None:
    from archbench.onnx_export import export_onnx

    torch.manual_seed(0)
    network = build_network("custom1", num_classes=3, image_size=32)
    export_onnx(network, tmp_path / "m.onnx", classes=("a", "b", "c"))
    images = np.random.default_rng(0).integers(0, 256, size=(3, 32, 32, 3), dtype=np.uint8)
    contenders = make_contenders(
        {"m": network}, {"m": tmp_path / "m.onnx"}, {"m": (images, np.array([2, 0]))}, batch_sizes=[1, 4], threads=1
    )
    assert [(c.runtime, c.batch_size) for c in contenders] == [
        ("torch", 1),
        ("onnxruntime", 1),
        ("torch", 4),
        ("onnxruntime", 4),
    ]
    for ours, theirs in zip(contenders[::2], contenders[1::2], strict=True):
        mine, other = ours.call(), theirs.call()[0]  # type: ignore[index]
        assert isinstance(mine, torch.Tensor) and len(mine) == ours.batch_size
        np.testing.assert_allclose(mine.numpy(), other, atol=1e-4)


def test_hardware_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    found = describe_hardware(threads=2)
    assert found["threads"] == 2 and found["cores"] >= 1 and found["memory_gib"] > 0 and found["cpu"]
    assert 1 <= inference_timing.usable_threads() <= found["cores"]
