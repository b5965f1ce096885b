"""Energy counters: RAPL of Intel and AMD processors, NVML of NVIDIA's GPUs. Where there is none, the reason."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """A counter of energy; `source` names it, `reason` says why there is none."""

    def __init__(self, device: str = "cpu", *, powercap: Path = POWERCAP) -> None:
        self.source: str | None = None
        self.reason: str | None = None
        self._files: list[Path] = []
        self._gpu: Gpu | None = None
        if device == "cuda":
            self._open_gpu()
        else:
            self._open_rapl(powercap)

    def _open_gpu(self) -> None:
        try:
            self._gpu = Gpu()
            self._gpu.energy_j()
            self.source = "NVML, the whole GPU"
        except OSError as error:
            self._gpu, self.reason = None, str(error)

    def _open_rapl(self, powercap: Path) -> None:
        packages = sorted(powercap.glob("intel-rapl:[0-9]*")) if powercap.is_dir() else []
        files = [folder / "energy_uj" for folder in packages if folder.name.count(":") == 1]
        if not files:
            self.reason = "the system offers no RAPL counters (a virtual machine, or not Intel or AMD)"
            return
        try:
            self._files = files
            self.joules()
            self.source = "RAPL, all processor packages"
        except OSError:
            self._files = []
            self.reason = f"{files[0]} may be read by root alone"

    def joules(self) -> float | None:
        """Return the energy used so far, gross, idle power included; None where it isn't counted."""
        if self._gpu is not None:
            return self._gpu.energy_j()
        return sum(int(file.read_text(encoding="ascii")) for file in self._files) / 1e6 if self._files else None

    def between(self, before: float | None, after: float | None) -> float | None:
        """Return the energy between two readings; None if a counter began anew meanwhile."""
        return None if before is None or after is None or after < before else after - before


class Gpu:
    """NVIDIA's management library for the first GPU that CUDA shows this process; a few of its counters.

    Raises:
        OSError: If there is no driver, no GPU, or it doesn't count.
    """

    def __init__(self) -> None:
        try:
            self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as error:
            raise OSError("no NVIDIA driver (libnvidia-ml.so.1) is installed") from error
        self._check(self._nvml.nvmlInit_v2(), "start")
        self._handle = ctypes.c_void_p()
        gpu = first_visible(os.environ)
        find = self._nvml.nvmlDeviceGetHandleByIndex_v2
        if isinstance(gpu, bytes):
            find = self._nvml.nvmlDeviceGetHandleByUUID
        self._check(find(gpu, ctypes.byref(self._handle)), "find a GPU")

    def _check(self, code: int, what: str) -> None:
        if code:
            raise OSError(f"NVML can't {what} (code {code})")

    def energy_j(self) -> float:
        """Return the energy of the GPU since the driver was loaded."""
        millijoules = ctypes.c_ulonglong()
        code = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(millijoules))
        self._check(code, "count energy")
        return millijoules.value / 1e3

    def memory_used_mib(self) -> float:
        """Return the GPU's memory in use by all processes."""
        memory = (ctypes.c_ulonglong * 3)()  # total, free, used
        self._check(self._nvml.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory)), "tell its memory")
        return memory[2] / 2**20


def first_visible(environment: Mapping[str, str]) -> int | bytes:
    """Return index or UUID of the GPU that CUDA calls 0; NVML itself doesn't look at CUDA_VISIBLE_DEVICES.

    Raises:
        OSError: If CUDA is shown none.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return 0
    first = visible.split(",")[0].strip()
    if first.isdigit():
        return int(first)
    if first.startswith(("GPU-", "MIG-")):
        return first.encode("ascii")
    raise OSError(f"CUDA_VISIBLE_DEVICES is {visible!r}: no GPU is visible")
