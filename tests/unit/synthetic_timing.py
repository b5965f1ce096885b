"""SYNTHETIC timing of all models; no value in it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synthetic_study import provenance_of


def timing_of(dataset: str, alive: Sequence[str]) -> dict[str, Any]:
    rows, whole, stages, contenders, speedups, noise = [], [], [], [], [], []  # type: ignore[var-annotated]
    for k, model in enumerate(alive):
        for runtime, factor in (("onnxruntime", 1.0), ("torch", 1.7)):
            for batch in (1, 8):
                ms = (1.5 + 2.3 * k) * factor * (1 if batch == 1 else 5.5)
                rows.append(_timing_row(model, runtime, batch, ms))
            ms = (1.5 + 2.3 * k) * factor
            whole.append({**_timing_row(model, runtime, 1, ms + 5.0), "p95_ms": 1.3 * (ms + 5.0)})
            steps = {"decode_ms": 3.0, "preprocess_ms": 2.0, "model_ms": ms, "total_ms": ms + 5.0}
            stages.append({"model": model, "runtime": runtime, "n": 90, **steps})
            contenders.append(_contender(model, runtime))
        for batch in (1, 8):
            names = {"model": model, "batch_size": batch, "n_rounds": 9}
            ratio = {"ratio": 1.7, "low": 1.6, "high": 1.8, "floor": 1.05, "verdict": "slower"}
            speedups.append({**names, "runtime": "torch", "against": "onnxruntime", **ratio})
            noise.append({**names, "runtime": "onnxruntime", "ratio": 1.01, "low": 0.97, "high": 1.05, "floor": 1.05})
    uncounted = ["relu", "_native_batch_norm_legit_no_training"]
    size = {"parameters": 1_000_000, "gmacs": 0.25, "counted_by": "a counter", "uncounted": uncounted, "image_size": 64}
    return {
        "provenance": provenance_of(dataset),
        "hardware": {"cpu": "Synthetic CPU", "cores": 2, "threads": 2, "memory_gib": 24, "gpu": None, "os": "Linux"},
        "machine": {"instructions": ["avx2"], "governor": None, "hypervisor": True, "cpu_quota": 1.5, "packages": {}},
        "rounds": 9,
        "headline": "onnxruntime",
        "quantile_calls": {"median": 6, "p95": 72, "p99": 368},
        "isolation": isolation_account(disturbed=False),
        "energy": {"cpu": {"source": None, "reason": "no counter"}},
        "models": dict.fromkeys(alive, size),
        "contenders": contenders,
        "results": rows,
        "host_to_host": [],
        "end_to_end": whole,
        "stages": stages,
        "speedups": speedups,
        "noise": noise,
    }


def _timing_row(model: str, runtime: str, batch: int, ms: float) -> dict[str, Any]:
    row = {"model": model, "runtime": runtime, "batch_size": batch, "n": 90, "n_rounds": 9}
    times = {"median_ms": ms, "low_ms": 0.95 * ms, "high_ms": 1.05 * ms, "p99_ms": None}
    tail = {"p95_ms": ms * 1.2 if batch == 1 else None, "p95_low_ms": ms * 1.1, "p95_high_ms": ms * 1.3}
    rate = 1000 * batch / ms
    return {
        **row,
        **times,
        **tail,
        "throughput_img_per_s": rate,
        "throughput_low": rate / 1.05,
        "throughput_high": rate / 0.95,
        "energy_j_per_image": None,
    }


def _contender(model: str, runtime: str) -> dict[str, Any]:
    return {
        "model": model,
        "runtime": runtime,
        "device": "cpu",
        "twin": False,
        "status": "timed",
        "reason": None,
        "provider": "CPUExecutionProvider",
        "threads": 2,
        "bytes": 4_000_000,
        "starts_ms": [900.0],
        "load_ms": 300.0,
        "peak_memory_mib": {"1": 100.0, "8": 130.0},
        "gpu_memory_mib": None,
    }


def isolation_account(*, disturbed: bool) -> dict[str, Any]:
    """The account of nine rounds and a repeated one, in which others used a third of the machine or nothing."""
    reasons = ["others used 33 % of the processors"] if disturbed else []
    facts = {"seconds": 2.0, "foreign_share": 0.33 if disturbed else 0.01, "pressure_share": 0.1, "throttled": 0}
    return {
        "disturbed": disturbed,
        "disturbed_rounds": 9 if disturbed else 0,
        "repeated_rounds": 1,
        "reasons": ["others used the processors"] if disturbed else [],
        "rounds": [
            {"round": k, "kept": k > 0, "disturbed": disturbed, "reasons": reasons, **facts, "involuntary_per_s": 500.0}
            for k in range(10)
        ],
    }
