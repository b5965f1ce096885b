"""What the figures are measured on: processor, its instructions and governor, threads, memory, versions."""

from __future__ import annotations

import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from archbench.inference_timing.isolation import CPU_FOLDER, usable_cpus

CGROUP = Path("/sys/fs/cgroup")
INSTRUCTIONS = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)
PACKAGES = ("onnxruntime-gpu", "onnxruntime", "torch", "numpy", "opencv-python-headless", "pillow")


def usable_threads() -> int:
    """Return how many threads make sense: the affinity's processors, fewer where a container's quota is smaller."""
    quota = cpu_quota()
    affinity = len(usable_cpus())
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota - 0.05)))


def cpu_quota(root: Path = CGROUP) -> float | None:
    """Return the processors that the control group of this process may use up; None without a limit."""
    for folder in _own_groups(root):
        try:
            limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            try:
                limit, period = (
                    (folder / f"cpu.cfs_{kind}_us").read_text(encoding="ascii").strip() for kind in ("quota", "period")
                )
            except OSError:
                continue
        if limit not in ("max", "-1"):
            return int(limit) / int(period)
    return None


def _own_groups(root: Path) -> list[Path]:
    """Return the folders of this process's control group and of those around it (versions 2 and 1), inner first."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        inner = base / path.lstrip("/")
        folders += [folder for folder in (inner, *inner.parents) if folder == base or base in folder.parents]
    return [*folders, root, root / "cpu"]


def describe_hardware(*, threads: int, gpu: str | None = None) -> dict[str, Any]:
    """Return the machine in the few words that stand beside every figure."""
    import psutil

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu,
        "os": platform.platform(terse=True),
    }


def describe_machine() -> dict[str, Any]:
    """Return what else decides over speed: instructions, governor, frequency, quota, versions; None where unknown."""
    return {
        "architecture": platform.machine(),
        "instructions": instructions(),
        "governor": _read(CPU_FOLDER / "cpu0/cpufreq/scaling_governor"),
        "max_frequency_mhz": _frequency_mhz(),
        "hypervisor": "hypervisor" in _cpu_flags(),
        "affinity": len(usable_cpus()),
        "cpu_quota": cpu_quota(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def instructions() -> list[str]:
    """Return the instruction sets that matter for networks and that the processor has."""
    flags = _cpu_flags()
    return [name for name in INSTRUCTIONS if name in flags]


def _cpu_flags() -> frozenset[str]:
    for key in ("flags", "Features"):
        if found := _cpu_field(key):
            return frozenset(found.split())
    return frozenset()


def cpu_name() -> str:
    """Return the processor's name, or its architecture where it has none."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _cpu_field(key: str) -> str:
    info = _read(Path("/proc/cpuinfo")) or ""
    for line in info.splitlines():
        if line.partition(":")[0].strip() == key:
            return line.partition(":")[2].strip()
    return ""


def _frequency_mhz() -> float | None:
    khz = _read(CPU_FOLDER / "cpu0/cpufreq/cpuinfo_max_freq")
    return None if khz is None else int(khz) / 1000


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
