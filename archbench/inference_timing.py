"""Inference timing of all models of a dataset, interleaved: every round times every contender once.

Neighbours on a machine move a single figure several times; ratios within a round stand. Threads are
fixed, ONNX Runtime does not spin, and one contender runs at a time.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archbench.batches import to_batch
from archbench.models.building import NormalizedNetwork
from archbench.onnx_session import make_session

WARMUP_CALLS = 3
MIN_SAMPLES_FOR_P95 = 60  # below, no order statistic bounds the 95th percentile from above at 95 %


@dataclass(frozen=True)
class Contender:
    """One model in one runtime at one batch size; `call` runs it once on prepared input."""

    model: str
    runtime: str
    batch_size: int
    call: Callable[[], object]


@dataclass(frozen=True)
class Call:
    """One timed call."""

    model: str
    runtime: str
    batch_size: int
    round: int
    latency_ms: float


def make_contenders(
    networks: Mapping[str, NormalizedNetwork],
    onnx_files: Mapping[str, Path],
    inputs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    batch_sizes: Sequence[int],
    threads: int,
) -> list[Contender]:
    """Return torch eager and ONNX Runtime contenders on real, prepared images (CPU).

    Args:
        inputs: Image cache and its rows per model.
    """
    contenders = []
    for model, network in networks.items():
        network.cpu().eval()
        session: Any = make_session(onnx_files[model], threads=threads)
        images, rows = inputs[model]
        for batch_size in batch_sizes:
            batch = network.normalize(to_batch(images, np.resize(rows, batch_size), torch.device("cpu"))).contiguous()
            feed = {"images": batch.numpy()}
            contenders.append(Contender(model, "torch", batch_size, _torch_call(network, batch)))
            contenders.append(Contender(model, "onnxruntime", batch_size, _onnx_call(session, feed)))
    return contenders


def _torch_call(network: NormalizedNetwork, batch: torch.Tensor) -> Callable[[], object]:
    @torch.inference_mode()
    def call() -> object:
        return network.network(batch)

    return call


def _onnx_call(session: Any, feed: dict[str, np.ndarray]) -> Callable[[], object]:
    return lambda: session.run(None, feed)


def time_rounds(contenders: Sequence[Contender], *, rounds: int, calls: int, seed: int = 0) -> list[Call]:
    """Time every contender in every round, in an order shuffled per round.

    Args:
        calls: Calls per round at batch 1; larger batches get proportionally fewer, at least 2.
    """
    order = np.random.default_rng(seed)
    for contender in contenders:
        for _ in range(WARMUP_CALLS):
            contender.call()
    timed = []
    for number in range(rounds):
        for index in order.permutation(len(contenders)):
            contender = contenders[index]
            contender.call()  # the first after a change of contender fills the caches again
            for _ in range(max(2, calls // contender.batch_size)):
                started = time.perf_counter_ns()
                contender.call()
                elapsed = (time.perf_counter_ns() - started) / 1e6
                timed.append(Call(contender.model, contender.runtime, contender.batch_size, number, elapsed))
        print(f"round {number + 1}/{rounds}", file=sys.stderr, flush=True)
    return timed


def summarize(timed: Sequence[Call]) -> list[dict[str, Any]]:
    """Return median, 95th percentile and throughput of each contender; p95 is None below 60 calls."""
    results = []
    for key in sorted({(call.model, call.runtime, call.batch_size) for call in timed}):
        model, runtime, batch_size = key
        latencies = _latencies(timed, *key)
        median = float(np.median(latencies))
        enough = len(latencies) >= MIN_SAMPLES_FOR_P95
        results.append(
            {
                "model": model,
                "runtime": runtime,
                "batch_size": batch_size,
                "median_ms": median,
                "p95_ms": float(np.percentile(latencies, 95)) if enough else None,
                "throughput_img_per_s": 1000 * batch_size / median,
                "n": len(latencies),
            }
        )
    return results


def _latencies(timed: Sequence[Call], model: str, runtime: str, batch_size: int) -> np.ndarray:
    key = (model, runtime, batch_size)
    return np.array([c.latency_ms for c in timed if (c.model, c.runtime, c.batch_size) == key])


def speedups(timed: Sequence[Call], *, confidence: float = 0.95, seed: int = 0) -> list[dict[str, Any]]:
    """Return torch / ONNX Runtime as the median of paired per-round ratios, with a bootstrap interval over rounds."""
    draws = np.random.default_rng(seed)
    results = []
    for model, batch_size in sorted({(call.model, call.batch_size) for call in timed}):
        ratios = _round_ratios(timed, model, batch_size)
        sample = np.median(draws.choice(ratios, size=(2000, len(ratios))), axis=1)
        low, high = np.quantile(sample, [(1 - confidence) / 2, (1 + confidence) / 2])
        row = {"model": model, "batch_size": batch_size, "ratio": float(np.median(ratios))}
        results.append({**row, "low": float(low), "high": float(high), "n_rounds": len(ratios)})
    return results


def _round_ratios(timed: Sequence[Call], model: str, batch_size: int) -> np.ndarray:
    medians: dict[tuple[int, str], list[float]] = {}
    for call in timed:
        if (call.model, call.batch_size) == (model, batch_size):
            medians.setdefault((call.round, call.runtime), []).append(call.latency_ms)
    numbers = sorted({number for number, _ in medians})
    return np.array([np.median(medians[n, "torch"]) / np.median(medians[n, "onnxruntime"]) for n in numbers])


def usable_threads() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_hardware(*, threads: int) -> dict[str, Any]:
    """Return what the figures were measured on."""
    import psutil

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "os": platform.platform(terse=True),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
