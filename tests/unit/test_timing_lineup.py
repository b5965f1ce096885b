"""Who is timed, and how: contenders and their calls, labels, warm-up, counted work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

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
from archbench.inference_timing.energy import first_visible
from archbench.inference_timing.lineup import Plan
from archbench.inference_timing.summary import (
    stages,
)
from archbench.inference_timing.work import count_work
from archbench.inference_timing.worker import WARMUP_CALLS, WARMUP_WINDOW, warm_up
from archbench.models.building import build_network


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
    network = build_network("custom1", num_classes=3, image_size=32)
    found = count_work(network)
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    by_hand = 0
    shapes: list[tuple[Any, torch.Size]] = []
    hooks = [
        module.register_forward_hook(lambda m, _, out: shapes.append((m, out.shape)))
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    network.eval()(torch.zeros(1, 3, 32, 32))
    for module, shape in shapes:
        places = shape[2] * shape[3] if len(shape) == 4 else 1
        by_hand += module.weight.numel() * places
    for hook in hooks:
        hook.remove()
    assert found["gmacs"] == pytest.approx(by_hand / 1e9)
    assert any("norm" in name for name in found["uncounted"])
    assert not [name for name in found["uncounted"] if "conv" in name or "mm" in name]
