"""Which device and precision a torch job really runs on."""

from __future__ import annotations

import torch

from archbench.gpu_slots import claim_gpu
from archbench.memory import keep_freed_memory, peak_rss_mib


class DeviceError(RuntimeError):
    """A device or precision that was asked for is not there."""


def resolve_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `mps`; one that is missing is an error, not a fallback.

    Of several GPUs this process takes a free one, see `archbench.gpu_slots`.
    """
    if name in ("auto", "cuda"):
        claim_gpu()  # before CUDA is asked for anything
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "compute.device is cuda, but torch sees no CUDA device: check the driver (nvidia-smi), "
            "pass --nv in a container, or set compute.device to auto or cpu"
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("compute.device is mps, but this machine has none: set compute.device to auto or cpu")
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the autocast type; float32 means no autocast. `auto` is mixed on CUDA alone."""
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        # GPUs before Ampere would emulate it, many times slower than fp16
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name == "fp16" and device.type != "cuda":
        raise DeviceError(f"training.precision fp16 needs CUDA, this job runs on {device.type}: use auto or bf16")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def prepare_torch(*, threads: int) -> None:
    """Set what every torch job needs on a CPU: its share of the cores, no denormals, and memory that it keeps.

    Networks with random weights ran 15 times slower on denormal numbers.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    keep_freed_memory()


def device_name(device: torch.device) -> str:
    """Return the device as it stands in settings and reports."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory_mib(device: torch.device) -> float | None:
    """Return the largest memory of this process so far, MiB: the GPU's part on CUDA, else all of the process.

    None where the system doesn't tell (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_rss_mib()
