"""What a timing says of contenders: names, figures of one runtime, whether the machine was quiet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.report.collect import DatasetResult

ENGINES = {
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT",
    "torch_compile": "torch.compile",
    "torch": "PyTorch",
}


def runtime_name(label: str) -> str:
    """The name of a runtime label: `ONNX Runtime`, `PyTorch, cuda`, `ONNX Runtime, int8`."""
    engine = next((key for key in ENGINES if label == key or label.startswith(f"{key}_")), None)
    if engine is None:
        return label
    rest = label.removeprefix(engine).strip("_").replace("_", " ")
    return f"{ENGINES[engine]}, {rest}" if rest else ENGINES[engine]


def runtimes_of(dataset: DatasetResult) -> list[str]:
    """The labels of all runtimes that were timed, the headline's first, then torch, then the others by name."""
    headline = dataset.headline_runtime
    found = {str(row["runtime"]) for row in (dataset.timing or {}).get("results", [])}
    return sorted(found, key=lambda label: (label != headline, label != "torch", label))


def batch_sizes_of(dataset: DatasetResult) -> list[int]:
    """The batch sizes that were timed on prepared input."""
    return sorted({int(row["batch_size"]) for row in (dataset.timing or {}).get("results", [])})


def row_of(dataset: DatasetResult, kind: str, model: str, runtime: str) -> Mapping[str, Any] | None:
    """The row of a model in one runtime of a list of the timing: end_to_end, host_to_host, stages."""
    rows = (dataset.timing or {}).get(kind) or []
    return next((row for row in rows if (row["model"], row["runtime"]) == (model, runtime)), None)


def contender_of(dataset: DatasetResult, model: str, runtime: str) -> Mapping[str, Any] | None:
    """The account of a contender: start, memory, file, why it failed."""
    rows = (dataset.timing or {}).get("contenders") or []
    return next(
        (row for row in rows if (row["model"], row["runtime"]) == (model, runtime) and not row.get("twin")), None
    )


def peak_memory_mib(account: Mapping[str, Any] | None, batch_size: int | None = None) -> float | None:
    """The largest memory of a contender's process: at a batch size, or at the smallest one that was timed."""
    peaks = {int(size): value for size, value in ((account or {}).get("peak_memory_mib") or {}).items()}
    if not peaks:
        return None
    value = peaks.get(min(peaks) if batch_size is None else batch_size)
    return None if value is None else float(value)


def isolation_sentence(dataset: DatasetResult) -> str:
    """How quiet the machine was, and what was done about it."""
    isolation = (dataset.timing or {}).get("isolation")
    if not isolation:
        return "Whether others used the machine was not recorded."
    rounds = isolation["rounds"]
    kept = [row for row in rounds if row["kept"]]
    worst = max((row["foreign_share"] for row in kept), default=0.0)
    repeated = isolation["repeated_rounds"]
    again = f"; {repeated} more {'was' if repeated == 1 else 'were'} timed and left out" if repeated else ""
    if not isolation["disturbed_rounds"]:
        return (
            f"No neighbour disturbed the {len(kept)} rounds (others used at most {100 * worst:.0f}\u00a0% of the "
            f"processors){again}."
        )
    verdict = "The result counts as disturbed" if isolation["disturbed"] else "The medians stand"
    return (
        f"{isolation['disturbed_rounds']} of the {len(kept)} rounds were disturbed: "
        f"{', '.join(isolation['reasons'])}; up to {100 * worst:.0f}\u00a0% of the processor time was "
        f"others'{again}. {verdict}."
    )


def volume_sentence(dataset: DatasetResult) -> str:
    """What a whole volume takes, in seconds; empty where the inputs are images."""
    rows = (dataset.timing or {}).get("seconds_per_volume") or []
    if not rows:
        slices = [
            facts["slices"] for facts in ((dataset.timing or {}).get("models") or {}).values() if "slices" in facts
        ]
        return f"A volume here has {slices[0]} slices." if slices else ""
    told = [f"{row['model']} in {runtime_name(row['runtime'])} {format_seconds(row['median'])}" for row in rows]
    return (
        f"A volume here has {rows[0]['slices']} slices. Seconds per volume, from its file through "
        f"Hounsfield units, resampling and choice of slices to its logits: {'; '.join(told)}."
    )


def format_seconds(value: float) -> str:
    """Seconds with three figures."""
    return f"{value:.3g}\u00a0s"


def machine_sentence(dataset: DatasetResult) -> str:
    """What else of the machine decides over speed, as far as the system tells."""
    machine = (dataset.timing or {}).get("machine") or {}
    if not machine:
        return ""
    parts = [f"instructions {', '.join(machine['instructions']) or 'unknown'}"]
    parts.append(f"frequency governor {machine.get('governor') or 'not told by the system'}")
    if machine.get("hypervisor"):
        parts.append("a virtual machine, whose host may have neighbours that it doesn't see")
    if machine.get("cpu_quota") is not None:
        parts.append(f"a quota of {machine['cpu_quota']:g} processors")
    versions = ", ".join(f"{name} {version}" for name, version in (machine.get("packages") or {}).items())
    return f"{'; '.join(parts)}; {versions}.".replace("instructions", "Instructions", 1)


def energy_sentence(dataset: DatasetResult) -> str:
    """What counted the energy, or why nothing did."""
    sources = (dataset.timing or {}).get("energy") or {}
    parts = [
        f"{device}: {found['source']} (gross, idle power included)"
        if found.get("source")
        else f"{device}: unavailable, {found.get('reason')}"
        for device, found in sources.items()
    ]
    return f"Energy: {'; '.join(parts)}." if parts else ""
