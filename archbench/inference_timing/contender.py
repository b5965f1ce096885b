"""What is timed: one model in one precision, runtime and device, and the calls that are asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

PREPARED, HOST_TO_HOST, END_TO_END = "prepared", "host_to_host", "end_to_end"
ONNX_ENGINES = ("onnxruntime", "tensorrt")


@dataclass(frozen=True)
class Contender:
    """One model in one precision, runtime and device.

    Attributes:
        engine: onnxruntime, tensorrt, torch or torch_compile.
        batches: The batch sizes that its files are bound to; empty where any is served.
        spec: What its process needs to load it: files, network, pixels, threads.
        twin: Whether it is the second process of the same contender, whose ratio to the first one is noise.
        failure: Why it can't be timed, known before its process is started: `unsupported: …` or `failed: …`.
    """

    model: str
    engine: str
    device: str = "cpu"
    precision: str = "fp32"
    batches: tuple[int, ...] = ()
    twin: bool = False
    failure: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def runtime(self) -> str:
        """The label of engine, device and precision in tables: `onnxruntime`, `torch_cuda`, `onnxruntime_int8`."""
        return runtime_label(self.engine, self.device, self.precision)

    def serves(self, batch_size: int) -> bool:
        """Whether it takes batches of this size."""
        return not self.batches or batch_size in self.batches

    @property
    def name(self) -> str:
        """The contender in messages."""
        return f"{self.model} {self.runtime}" + (" (again, for the noise floor)" if self.twin else "")


@dataclass(frozen=True)
class Job:
    """What is asked of a contender in each round: calls of one regime at one batch size."""

    contender: Contender
    regime: str
    batch_size: int


@dataclass(frozen=True)
class Call:
    """One timed call; the stages are known in the regime `end_to_end` alone, milliseconds."""

    model: str
    runtime: str
    batch_size: int
    round: int
    latency_ms: float
    regime: str = PREPARED
    twin: bool = False
    decode_ms: float | None = None
    preprocess_ms: float | None = None


def runtime_label(engine: str, device: str = "cpu", precision: str = "fp32") -> str:
    """Return the label of a runtime; what is usual (CPU, fp32) is left out."""
    usual = {"cpu", "fp32"} | ({"cuda"} if engine == "tensorrt" else set())
    return "_".join([engine, *(part for part in (device, precision) if part not in usual)])


def jobs_of(contender: Contender, *, batch_sizes: Sequence[int], regimes: Sequence[str]) -> list[Job]:
    """Return what is asked of a contender: every batch size on prepared input, single images otherwise.

    A twin is there for the noise of prepared input alone. Batches rise, so that the peak memory after each
    one is its own.
    """
    sizes = [size for size in sorted(set(batch_sizes)) if contender.serves(size)]
    jobs = [Job(contender, PREPARED, size) for size in sizes]
    if not contender.twin and contender.serves(1):
        jobs += [Job(contender, regime, 1) for regime in (HOST_TO_HOST, END_TO_END) if regime in regimes]
    return jobs


def choose_contenders(
    model: str,
    variants: Sequence[Mapping[str, Any]],
    spec: Mapping[str, Any],
    *,
    folder: Path,
    runtimes: Sequence[str],
    devices: Sequence[str],
) -> list[Contender]:
    """Return the contenders of a model: each variant in ONNX Runtime, the network itself in torch.

    Args:
        variants: Of the export's account: precision, file, status and reason; one that did not pass the parity
            gate becomes a contender that is shown and never timed.
        folder: Where the variants' files lie.
        spec: What is the same for all processes of the model.
    """
    found = []
    for device in devices:
        for engine in runtimes:
            if engine == "tensorrt" and device == "cpu":
                continue
            if engine in ONNX_ENGINES:
                found += [_of_variant(model, engine, device, variant, spec, folder) for variant in variants]
            else:
                found.append(Contender(model, engine, device, spec={**spec, "engine": engine, "device": device}))
    original = next((contender for contender in found if contender.failure is None), None)
    if original is not None:
        found.append(replace(original, twin=True))
    return found


def _of_variant(
    model: str, engine: str, device: str, variant: Mapping[str, Any], spec: Mapping[str, Any], folder: Path
) -> Contender:
    status = variant.get("status", "passed")
    failure = None if status == "passed" else f"{status}: {variant.get('reason') or 'no reason was recorded'}"
    files = [] if failure else _files(variant, folder)
    return Contender(
        model,
        engine,
        device,
        precision=str(variant.get("precision") or "fp32"),
        batches=tuple(batch for batch, _ in files if batch is not None),
        failure=failure,
        spec={
            **spec,
            "engine": engine,
            "device": device,
            "onnx_files": files,
            "bytes": variant.get("bytes"),
            "normalized": bool((variant.get("inputs") or {}).get("normalized", True)),
        },
    )


def _files(variant: Mapping[str, Any], folder: Path) -> list[tuple[int | None, str]]:
    """Batch size (None for any) and path of each file of a variant; external weights are found by their file."""
    files = variant.get("files") or [{"file": variant["file"], "batch": variant.get("batch", "dynamic")}]
    fixed = [(file["batch"], file["file"]) for file in files if file.get("batch") is not None]
    return [(batch if isinstance(batch, int) else None, (folder / name).as_posix()) for batch, name in fixed]
