"""The export ladder: rung by rung, each in a process of its own with a time limit, until one passes the gate.

This process needs no torch. The first child also computes torch's logits of the validation set, against which
every exported file is held here, by ONNX Runtime alone.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import read_json, write_json
from archbench.image_cache import open_cache
from archbench.models.architecture import Architecture
from archbench.onnx_files import ExportError
from archbench.onnx_runner import InputForm
from archbench.registry import ARCHITECTURES

RUNGS = {
    "dynamo": "dynamo, dynamic batch",
    "transformers": "transformers' exporter, dynamic batch",
    "dynamo_unoptimized": "dynamo without optimisation, dynamic batch",
    "static": "dynamo, one file per batch size",
    "torchscript": "TorchScript, dynamic batch",
}
REFERENCE_BATCH = 32


@dataclass(frozen=True)
class ExportJob:
    """What a child process needs in order to export.

    Attributes:
        network: Arguments of `build_network`, with num_classes.
        checkpoint: Weights file.
        cache: Pointer file of the image cache.
        rows: Validation rows of the cache, shape (N,).
        batch_sizes: Of the rung `static`.
        fold_normalization: Normalise inside the graph.
    """

    network: Mapping[str, Any]
    checkpoint: str
    cache: str
    rows: np.ndarray
    batch_sizes: tuple[int, ...]
    fold_normalization: bool
    threads: int


@dataclass(frozen=True)
class Reference:
    """What torch computes: logits of the validation rows, and facts of the network."""

    logits: np.ndarray
    form: InputForm
    parameters: int


@dataclass
class Climb:
    """How far the ladder was climbed.

    Attributes:
        rung: The one that served, None if none did.
        accepted: What the gate said of it.
        attempts: Every rung that was tried, with what became of it.
    """

    rung: str | None = None
    accepted: Any = None
    attempts: list[dict[str, Any]] = field(default_factory=list)


Gate = Callable[[Mapping[int | None, Path], Reference], tuple[Any, str | None]]


def rungs_of(architecture: str) -> list[str]:
    """Return the rungs for an architecture; transformers' exporter serves its own networks alone."""
    entry: Architecture = ARCHITECTURES.get(architecture)
    of_transformers = entry.requires is not None and entry.requires[0] == "transformers"
    return [rung for rung in RUNGS if rung != "transformers" or of_transformers]


def climb(job: ExportJob, gate: Gate, *, timeout_s: float, rungs: Sequence[str]) -> Climb:
    """Try rung after rung until the gate accepts one.

    Args:
        gate: Takes the raw files and torch's reference; returns its account and what is wrong, or None.
        timeout_s: Seconds for one export, torch's reference not counted.
    Raises:
        ExportError: If the network itself can't be built or run, which no rung would change.
    """
    result = Climb()
    with tempfile.TemporaryDirectory(prefix="archbench-export-") as name:
        for rung in rungs:
            folder = Path(name) / rung
            folder.mkdir()
            files, reason = _export_apart(job, rung, folder, Path(name), timeout_s=timeout_s)
            account, outcome = None, "unsupported"
            if reason is None:
                account, reason, outcome = *_through_gate(gate, files, Path(name)), "failed"
            if reason is None:
                result.rung, result.accepted = rung, account
                result.attempts.append({"rung": rung, "status": "passed", "reason": None})
                return result
            print(f"{RUNGS[rung]}: {reason}", file=sys.stderr, flush=True)
            result.attempts.append({"rung": rung, "status": outcome, "reason": reason, "account": account})
    return result


def _through_gate(gate: Gate, files: Mapping[int | None, Path], scratch: Path) -> tuple[Any, str | None]:
    try:
        return gate(files, read_reference(scratch))
    except Exception as error:  # a file that ONNX Runtime or the checker refuses: many kinds, all the rung's fault
        return None, f"{type(error).__name__}: {error}".strip()[:500]


def read_reference(scratch: Path) -> Reference:
    """Return what the first child left of torch's answers."""
    facts = read_json(scratch / "reference.json")
    form = InputForm(tuple(facts["mean"]), tuple(facts["std"]), normalized=facts["normalized"])
    return Reference(np.load(scratch / "reference.npy"), form, int(facts["parameters"]))


def _export_apart(
    job: ExportJob, rung: str, folder: Path, scratch: Path, *, timeout_s: float
) -> tuple[dict[int | None, Path], str | None]:
    """Export in a child process; return its files, or the reason why there are none."""
    child = multiprocessing.get_context("spawn").Process(target=_child, args=(job, rung, folder, scratch), daemon=True)
    child.start()
    in_time = _wait(child, folder / "started", timeout_s)
    answer = read_json(folder / "answer.json") if (folder / "answer.json").is_file() else {}
    if not (scratch / "reference.json").is_file():
        raise ExportError(answer.get("error") or f"the network can't be run: its process ended with {child.exitcode}")
    if not in_time:
        return {}, f"no result within {timeout_s / 60:g} minutes (inference.export_timeout_min)"
    if not answer:
        return {}, f"the exporter's process ended with code {child.exitcode} (-9: killed, often for want of memory)"
    if answer["error"] is not None:
        return {}, str(answer["error"])
    return {batch: folder / name for batch, name in answer["files"]}, None


def _wait(child: Any, started: Path, timeout_s: float) -> bool:
    """Wait for the child; False if it had to be ended, `timeout_s` after it began to export."""
    deadline: float | None = None
    while child.is_alive():
        if deadline is None and started.exists():
            deadline = time.monotonic() + timeout_s
        if deadline is not None and time.monotonic() > deadline:
            child.kill()
            child.join()
            return False
        child.join(0.1)
    return True


def _child(job: ExportJob, rung: str, folder: Path, scratch: Path) -> None:
    """Build the network, compute the reference where there is none yet, export, answer in a file."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        network = _load(job)
        if not (scratch / "reference.json").is_file():
            _write_reference(network, job, scratch)
        (folder / "started").touch()
        from archbench.onnx_export import export_raw

        files = export_raw(
            network, rung, folder, batch_sizes=job.batch_sizes, fold_normalization=job.fold_normalization
        )
    except Exception as error:  # told to the parent, which decides what it means
        reason = str(error) if isinstance(error, ExportError) else f"{type(error).__name__}: {error}"
        write_json(folder / "answer.json", {"error": reason.strip()[:500]})
        return
    write_json(folder / "answer.json", {"error": None, "files": [(batch, p.name) for batch, p in files.items()]})


def _end_with_parent() -> None:
    """End this process with the one that started it, also where that one was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _load(job: ExportJob) -> Any:
    import torch

    from archbench import devices
    from archbench.models.building import build_network
    from archbench.models.weights import load_checkpoint

    devices.prepare_torch(threads=job.threads)
    return load_checkpoint(build_network(**job.network), Path(job.checkpoint), torch.device("cpu"))


def _write_reference(network: Any, job: ExportJob, scratch: Path) -> None:
    import torch

    from archbench.batches import predict_logits
    from archbench.models.building import count_parameters

    images = open_cache(job.cache).images
    logits = predict_logits(network, images, job.rows, batch_size=REFERENCE_BATCH, device=torch.device("cpu"))
    np.save(scratch / "reference.npy", logits)
    facts = {
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "normalized": not job.fold_normalization,
        "parameters": count_parameters(network),
    }
    write_json(scratch / "reference.json", facts)
