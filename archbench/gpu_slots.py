"""One GPU for one job on a machine with several: each takes the first that no other job of this user holds.

A scheduler that assigns GPUs shows each job its own, and there is nothing to choose. The locks are files that
the kernel frees when a process ends, however it ends.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_S = 0.5
_held: list[FileLock] = []  # for as long as the process lives


def claim_gpu(folder: Path | None = None) -> str | None:
    """Take a free GPU and show this process no other; wait while all are taken.

    Must be called before anything asks CUDA for its devices.

    Args:
        folder: Where the locks lie; by default a folder of this user in the machine's own temporary folder.
    Returns:
        The GPU as CUDA_VISIBLE_DEVICES names it; None where there are none or one, and nothing is taken.
    """
    gpus = visible_gpus()
    if len(gpus) < 2:
        return None
    folder = folder or Path(tempfile.gettempdir(), f"archbench-gpus-{getpass.getuser()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    gpu = _first_free(gpus, folder)
    if gpu is None:
        print(f"all {len(gpus)} GPUs are taken by other jobs: waiting for one", file=sys.stderr, flush=True)
    while gpu is None:
        time.sleep(POLL_S)
        gpu = _first_free(gpus, folder)
    os.environ[VISIBLE] = gpu
    print(f"GPU {gpu} of {', '.join(gpus)}", file=sys.stderr, flush=True)
    return gpu


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, by index or UUID; none without NVIDIA's driver."""
    given = os.environ.get(VISIBLE)
    if given is not None:
        return [gpu.strip() for gpu in given.split(",") if gpu.strip()]
    try:
        query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def _first_free(gpus: list[str], folder: Path) -> str | None:
    for gpu in gpus:
        lock = FileLock(folder / f"{gpu.replace('/', '_')}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _held.append(lock)
        return gpu
    return None
