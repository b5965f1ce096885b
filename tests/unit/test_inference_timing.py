"""Timing: figures as numpy and the binomial say, contenders in processes of their own, one that fails named."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from archbench.inference_timing import rounds
from archbench.inference_timing.contender import (
    END_TO_END,
    HOST_TO_HOST,
    PREPARED,
    Call,
    Contender,
    Job,
    choose_contenders,
    jobs_of,
    runtime_label,
)
from archbench.inference_timing.decoding import make_end_to_end
from archbench.inference_timing.energy import first_visible
from archbench.inference_timing.isolation import usable_cpus
from archbench.inference_timing.lineup import Plan
from archbench.inference_timing.processes import ContenderError, ContenderProcess
from archbench.inference_timing.result import columns, describe
from archbench.inference_timing.rounds import Measurement
from archbench.inference_timing.summary import (
    needed_count,
    noise_floor,
    quantile_interval,
    speedups,
    stages,
    summarize,
)
from archbench.inference_timing.work import count_work
from archbench.inference_timing.worker import WARMUP_CALLS, WARMUP_WINDOW, warm_up
from archbench.models.building import build_network
from archbench.onnx_session import has_cuda_driver

ROUNDS = 7
SIZE = 32


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


def test_stages_say_where_the_time_goes() -> None:
    calls = [Call("m", "torch", 1, 0, 10.0 + k, END_TO_END, False, 2.0 + k, 5.0) for k in range(5)]
    (row,) = stages([*calls, Call("m", "torch", 1, 0, 99.0)])
    assert (row["decode_ms"], row["preprocess_ms"], row["model_ms"], row["total_ms"]) == (4.0, 5.0, 3.0, 12.0)


def test_a_contender_is_asked_for_what_it_serves() -> None:
    every = jobs_of(Contender("m", "torch"), batch_sizes=[8, 1], regimes=[PREPARED, HOST_TO_HOST, END_TO_END])
    assert [(job.regime, job.batch_size) for job in every] == [
        *((PREPARED, 1), (PREPARED, 8)),
        *((HOST_TO_HOST, 1), (END_TO_END, 1)),
    ]
    fixed = jobs_of(Contender("m", "onnxruntime", batches=(8,)), batch_sizes=[1, 8], regimes=[PREPARED, HOST_TO_HOST])
    assert [(job.regime, job.batch_size) for job in fixed] == [(PREPARED, 8)]
    twin = jobs_of(Contender("m", "torch", twin=True), batch_sizes=[1], regimes=[PREPARED, END_TO_END])
    assert [job.regime for job in twin] == [PREPARED]


def test_large_batches_get_fewer_calls_but_two_at_least() -> None:
    plan = Plan(batch_sizes=[1], regimes=[PREPARED], rounds=7, calls=10)
    one = Contender("m", "torch")
    assert [rounds.calls_of(Job(one, PREPARED, size), plan) for size in (1, 4, 32)] == [10, 2, 2]
    assert [rounds.calls_of(Job(one, regime, 1), plan) for regime in (HOST_TO_HOST, END_TO_END)] == [5, 10]


def test_every_variant_of_an_export_is_shown(tmp_path: Path) -> None:
    variants = [
        {
            "precision": "fp32",
            "file": "model.onnx",
            "status": "passed",
            "batch": "dynamic",
            "inputs": {"normalized": True},
        },
        {"precision": "int8", "file": "onnx/int8.onnx", "status": "failed", "reason": "QWK falls by .2"},
        {"precision": "fp16", "file": None, "status": "unsupported", "reason": "needs a GPU"},
        {
            "precision": "int8_dynamic",
            "file": "a",
            "status": "passed",
            "batch": [1, 8],
            "files": [{"file": "a", "batch": 1}, {"file": "b", "batch": 8}, {"file": "b.data", "batch": None}],
            "inputs": {"normalized": False},
        },
    ]
    found = choose_contenders(
        "m", variants, {"threads": 1}, folder=tmp_path, runtimes=["onnxruntime", "torch"], devices=["cpu"]
    )
    assert [(c.runtime, c.failure, c.twin) for c in found] == [
        ("onnxruntime", None, False),
        ("onnxruntime_int8", "failed: QWK falls by .2", False),
        ("onnxruntime_fp16", "unsupported: needs a GPU", False),
        ("onnxruntime_int8_dynamic", None, False),
        ("torch", None, False),
        ("onnxruntime", None, True),
    ]
    assert found[0].batches == () and found[0].spec["normalized"]
    assert found[3].batches == (1, 8) and not found[3].spec["normalized"]
    assert found[3].spec["onnx_files"] == [(1, f"{tmp_path}/a"), (8, f"{tmp_path}/b")]


def test_runtimes_are_labelled_by_what_is_unusual() -> None:
    assert runtime_label("onnxruntime") == "onnxruntime"
    assert runtime_label("torch", "cuda") == "torch_cuda"
    assert runtime_label("tensorrt", "cuda", "fp16") == "tensorrt_fp16"


def test_energy_and_memory_are_those_of_the_gpu_that_cuda_uses() -> None:
    assert first_visible({}) == 0
    assert first_visible({"CUDA_VISIBLE_DEVICES": "3,1"}) == 3
    assert first_visible({"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c,GPU-1"}) == b"GPU-8932f937-d72c"
    for nothing in ("", "-1", "NoDevFiles"):
        with pytest.raises(OSError, match="no GPU is visible"):
            first_visible({"CUDA_VISIBLE_DEVICES": nothing})


def test_warm_up_ends_when_it_is_stable_and_not_before() -> None:
    falling = iter([100.0 * 0.7**k for k in range(10)] + [2.0] * 100)
    calls, stable = warm_up(lambda: next(falling))
    assert stable and 10 < calls <= 10 + 2 * WARMUP_WINDOW
    restless = iter([1.0 + (k // WARMUP_WINDOW) % 2 for k in range(100)])
    calls, stable = warm_up(lambda: next(restless))
    # windows overlap, so that two of them may agree by chance; what never agrees ends by count
    assert calls <= WARMUP_CALLS
    growing = iter([1.3**k for k in range(100)])
    assert warm_up(lambda: next(growing)) == (WARMUP_CALLS, False)


def test_work_of_a_network_is_counted_and_the_rest_named() -> None:
    """One convolution by hand: 3 x 3 kernels over 3 channels at 16 x 16 places for 8 maps."""
    network = build_network("custom1", num_classes=3, image_size=SIZE)
    found = count_work(network)
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    by_hand = 0
    shapes: list[tuple[Any, torch.Size]] = []
    hooks = [
        module.register_forward_hook(lambda m, _, out: shapes.append((m, out.shape)))
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    network.eval()(torch.zeros(1, 3, SIZE, SIZE))
    for module, shape in shapes:
        places = shape[2] * shape[3] if len(shape) == 4 else 1
        by_hand += module.weight.numel() * places
    for hook in hooks:
        hook.remove()
    assert found["gmacs"] == pytest.approx(by_hand / 1e9)
    assert any("norm" in name for name in found["uncounted"])
    assert not [name for name in found["uncounted"] if "conv" in name or "mm" in name]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small network, exported, with weights and pixels on the disk."""
    from safetensors.torch import save_file

    from archbench.onnx_export import export_onnx

    folder = tmp_path_factory.mktemp("contender")
    torch.manual_seed(0)
    shape = {"architecture": "custom1", "image_size": SIZE}
    network = build_network(**shape, num_classes=3)  # type: ignore[arg-type]
    export_onnx(network, folder / "model.onnx", classes=("a", "b", "c"))
    save_file(network.network.state_dict(), folder / "best.safetensors")
    np.save(folder / "p.npy", np.random.default_rng(0).integers(0, 256, size=(4, SIZE, SIZE, 3), dtype=np.uint8))
    files = _draw_images(folder)
    return {
        "threads": 1,
        "folder": str(folder),
        "pixels": str(folder / "p.npy"),
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "network": shape,
        "num_classes": 3,
        "checkpoint": str(folder / "best.safetensors"),
        "files": files,
        "preprocessing": {"size": SIZE, "crop_border": True},
        "max_pixels": 10**6,
    }


def _draw_images(folder: Path) -> list[tuple[str, None]]:
    from PIL import Image

    draws = np.random.default_rng(1)
    files: list[tuple[str, None]] = []
    for k in range(2):
        picture = np.zeros((60, 80, 3), np.uint8)
        picture[10:50, 10:70] = draws.integers(60, 255, size=(40, 60, 3))
        Image.fromarray(picture).save(folder / f"{k}.png")
        files.append((str(folder / f"{k}.png"), None))
    return files


def contenders_of(spec: dict[str, Any], **changes: Any) -> list[Contender]:
    variants = [{"precision": "fp32", "file": "model.onnx", "status": "passed"}]
    chosen = {"runtimes": ["onnxruntime", "torch"], "devices": ["cpu"], "folder": Path(spec["folder"]), **changes}
    return choose_contenders("m", chosen.pop("variants", variants), spec, **chosen)


@pytest.fixture(scope="module")
def measured(spec: dict[str, Any]) -> Measurement:
    contenders = contenders_of(spec)
    broken = {**spec, "engine": "torch", "device": "cpu", "checkpoint": "/nowhere/best.safetensors"}
    contenders.append(Contender("broken", "torch", spec=broken))
    contenders.append(Contender("lost", "onnxruntime", failure="unsupported: no rung exports it"))
    plan = Plan(batch_sizes=[1, 4], regimes=[PREPARED, HOST_TO_HOST, END_TO_END], rounds=ROUNDS, calls=4, cold_starts=1)
    return rounds.measure(contenders, plan)


def test_every_contender_runs_in_every_round(measured: Measurement) -> None:
    assert measured.kept == list(range(ROUNDS)), "no repeats were allowed"
    counts = Counter((c.round, c.runtime, c.twin, c.regime, c.batch_size) for c in measured.calls)
    jobs = {key[1:] for key in counts}
    assert len(jobs) == 2 * 4 + 2  # two runtimes with four jobs each, the twin with two
    assert {key[1:]: count for key, count in counts.items() if key[0] == 0} == {
        job: 4 if job[3] == 1 and job[2] != HOST_TO_HOST else 2 for job in jobs
    }
    assert len(counts) == ROUNDS * len(jobs)


def test_the_order_of_each_round_is_shuffled(measured: Measurement) -> None:
    orders = [
        tuple(dict.fromkeys((c.runtime, c.twin, c.regime, c.batch_size) for c in measured.calls if c.round == number))
        for number in range(ROUNDS)
    ]
    assert len(set(orders)) > ROUNDS // 2, "the same order each round favours whoever runs after an easy neighbour"


def test_one_that_fails_is_named_and_the_others_go_on(measured: Measurement) -> None:
    found = describe(measured, models={"m": {}}, headline="onnxruntime", confidence=0.95)
    status = {(c["model"], c["runtime"]): (c["status"], c["reason"]) for c in found["contenders"]}
    assert status["m", "torch"] == status["m", "onnxruntime"] == ("timed", None)
    assert status["lost", "onnxruntime"] == ("unsupported", "no rung exports it")
    assert status["broken", "torch"][0] == "failed" and "/nowhere/best.safetensors" in str(status["broken", "torch"][1])
    assert {row["model"] for row in found["results"]} == {"m"}


def test_the_account_says_what_start_and_memory_cost(measured: Measurement) -> None:
    found = describe(measured, models={"m": {}}, headline="onnxruntime", confidence=0.95)
    onnx, plain = (next(c for c in found["contenders"] if c["runtime"] == r) for r in ("onnxruntime", "torch"))
    for account in (onnx, plain):
        assert account["starts_ms"][0] > account["load_ms"] > 0
        assert 0 < account["rss_before_mib"] < account["peak_memory_mib"]["1"] <= account["peak_memory_mib"]["4"]
        assert account["threads"] == 1
    # ONNX Runtime's process must not carry torch along, nor what its parent was before
    assert onnx["rss_before_mib"] < 100
    assert onnx["peak_memory_mib"]["4"] < 0.6 * plain["peak_memory_mib"]["4"]
    assert onnx["provider"] == "CPUExecutionProvider"
    assert onnx["bytes"] == pytest.approx(plain["bytes"], rel=0.2)


def test_every_call_is_kept(measured: Measurement) -> None:
    table = columns(measured.calls, measured.kept)
    assert len(set(map(len, table.values()))) == 1 and all(table["kept"])
    whole = [k for k, regime in enumerate(table["regime"]) if regime == END_TO_END]
    for k in whole:
        assert table["latency_ms"][k] > table["decode_ms"][k] + table["preprocess_ms"][k] > 0
    assert all(table["decode_ms"][k] is None for k in range(len(table["regime"])) if k not in set(whole))


def test_the_end_to_end_regime_sees_what_the_image_cache_holds(spec: dict[str, Any]) -> None:
    from archbench_predict.images import Preprocessing, decode, preprocess

    seen: list[np.ndarray] = []

    class Spy:
        def answer(self, pixels: np.ndarray) -> None:
            seen.append(pixels)

    call = make_end_to_end(Spy(), spec)  # type: ignore[arg-type]
    for _ in range(3):
        total, decoded, prepared = call()
        assert total >= decoded + prepared
    settings = Preprocessing(**spec["preprocessing"])
    for pixels, (file, _) in zip(seen, [*spec["files"], spec["files"][0]], strict=True):
        expected = preprocess(decode(Path(file).read_bytes(), max_pixels=10**6), settings)[0]
        np.testing.assert_array_equal(pixels, expected[None])


def test_a_contender_that_answers_something_else_is_not_timed(spec: dict[str, Any]) -> None:
    """The same file, told that it normalises inside: other logits, so another model."""
    wrong = contenders_of(
        spec,
        runtimes=["onnxruntime"],
        variants=[{"precision": "fp32", "file": "model.onnx", "status": "passed", "inputs": {"normalized": False}}],
    )[0]
    right = contenders_of(spec, runtimes=["torch"])[0]
    plan = Plan(batch_sizes=[1], regimes=[PREPARED], rounds=1, calls=2)
    found = rounds.measure([right, wrong], plan)
    assert found.running[0].failure is None
    assert "logits differ" in str(found.running[1].failure)
    assert {call.runtime for call in found.calls} == {"torch"}


def test_a_busy_neighbour_marks_the_measurement(spec: dict[str, Any]) -> None:
    """Each round beside others that keep every processor busy is repeated as often as allowed, in vain."""
    burn = "while True: sum(range(10000))"
    neighbours = [subprocess.Popen([sys.executable, "-c", burn]) for _ in usable_cpus()]
    try:
        plan = Plan(batch_sizes=[1], regimes=[PREPARED], rounds=2, calls=30, repeats=1)
        found = rounds.measure(contenders_of(spec, runtimes=["onnxruntime"])[:1], plan)
    finally:
        for process in neighbours:
            process.kill()
            process.wait()
    assert found.isolation["disturbed"] and found.isolation["repeated_rounds"] == 1
    assert len(found.isolation["rounds"]) == 3 and len(found.kept) == 2
    assert "others used the processors" in found.isolation["reasons"]


def test_models_that_do_not_fit_together_are_timed_one_after_the_other(spec: dict[str, Any]) -> None:
    first = contenders_of(spec, runtimes=["onnxruntime"])
    second = [replace(contender, model="n") for contender in first]
    plan = Plan(batch_sizes=[1], regimes=[PREPARED], rounds=2, calls=3, memory_mib=50.0)
    found = rounds.measure([*first, *second], plan)
    assert {(call.model, call.round) for call in found.calls} == {("m", 0), ("m", 1), ("n", 2), ("n", 3)}
    assert found.kept == [0, 1, 2, 3] and [row["round"] for row in found.isolation["rounds"]] == [0, 1, 2, 3]
    (mine, other) = describe(found, models={}, headline="onnxruntime", confidence=0.95)["results"]
    assert mine["n_rounds"] == other["n_rounds"] == 2
    roomy = rounds.measure([*first, *second], replace(plan, memory_mib=10_000.0))
    assert {(call.model, call.round) for call in roomy.calls} == {(m, k) for m in "mn" for k in (0, 1)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="nothing falls back where there is a GPU")
def test_a_silent_fall_back_to_the_cpu_is_that_contenders_error(spec: dict[str, Any]) -> None:
    contenders = contenders_of(spec, devices=["cuda"])
    assert [c.runtime for c in contenders[:2]] == ["onnxruntime_cuda", "torch_cuda"]
    with pytest.raises(RuntimeError, match="no contender could be timed") as caught:
        rounds.measure(contenders[:2], Plan(batch_sizes=[1], regimes=[PREPARED], rounds=1, calls=2))
    if not has_cuda_driver():
        assert "no CUDA driver (libcuda)" in str(caught.value), "said before a session could fall back"
    else:
        assert "not the cuda that was asked for" in str(caught.value)
    assert "torch sees no CUDA device" in str(caught.value)


def test_a_killed_contender_is_an_error_not_a_hang() -> None:
    with ContenderProcess({"threads": 1}) as process:
        process.process.kill()
        with pytest.raises(ContenderError, match="killed by signal 9"):
            process.ask("load")
