"""ONNX Runtime sessions whose threads and provider are what was asked for."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    # what TensorRT can't do goes to CUDA, or it would go to the CPU
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}


class ProviderError(RuntimeError):
    """ONNX Runtime uses another provider than the one that was asked for."""


def make_session(path: Path, *, threads: int, device: str = "cpu") -> InferenceSession:
    """Return an ONNX Runtime session with fixed threads and without spinning.

    Args:
        device: cpu, cuda or tensorrt.
    Raises:
        ProviderError: If the session runs elsewhere: a GPU build without a GPU falls back silently.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # or it reports model and machine to its maker, from 1.29 on
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3 if device == "cpu" else 4
    wanted = PROVIDERS[device]
    if device != "cpu":
        if not has_cuda_driver():
            raise ProviderError("this machine has no CUDA driver (libcuda)")
        ort.preload_dlls()  # CUDA's libraries lie among torch's packages, which aren't imported here
    session = ort.InferenceSession(str(path), options, providers=list(wanted))
    if session.get_providers()[0] != wanted[0]:
        raise ProviderError(f"ONNX Runtime uses {session.get_providers()}, not the {device} that was asked for")
    return session


def has_cuda_driver() -> bool:
    """Whether CUDA's driver can be loaded.

    Asked of the loader: in a container the driver lies where LD_LIBRARY_PATH says, which `find_library` of an image
    without a linker doesn't look at.
    """
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
