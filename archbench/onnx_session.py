"""ONNX Runtime sessions whose threads and provider are what was asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def make_session(path: Path, *, threads: int) -> InferenceSession:
    """Return an ONNX Runtime CPU session with fixed threads and without spinning."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # or it reports model and machine to its maker, from 1.29 on
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    if session.get_providers() != ["CPUExecutionProvider"]:
        raise RuntimeError(f"ONNX Runtime uses {session.get_providers()}, not the CPU that was asked for")
    return session
