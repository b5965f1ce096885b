"""Timing: contenders run in processes of their own, in every round; one that fails is named and the others go on."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archbench.inference_timing import rounds
from archbench.inference_timing.contender import (
    END_TO_END,
    HOST_TO_HOST,
    PREPARED,
    Contender,
    choose_contenders,
)
from archbench.inference_timing.decoding import make_end_to_end
from archbench.inference_timing.isolation import usable_cpus
from archbench.inference_timing.lineup import Plan
from archbench.inference_timing.processes import ContenderError, ContenderProcess
from archbench.inference_timing.result import columns, describe
from archbench.inference_timing.rounds import Measurement
from archbench.models.building import build_network
from archbench.onnx_session import has_cuda_driver

ROUNDS = 7
SIZE = 32


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
