"""Memory of a process: what is freed is kept, and how much there was at most."""

from __future__ import annotations

import sys
from pathlib import Path

# Options of glibc's mallopt (malloc.h): M_TRIM_THRESHOLD -1, never shrink the heap; M_MMAP_MAX 0, take all from it.
KEEP_FREED = ((-1, -1), (-4, 0))


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, where its allocator is glibc's; return whether it does.

    Each step of a training frees its activations and asks for as many again, each block of resamples its sums. By
    default glibc hands them back to the system, which then maps and clears thousands of pages a step.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other libraries than glibc have none
    return mallopt is not None and all(mallopt(option, value) for option, value in KEEP_FREED)


def peak_rss_mib() -> float | None:
    """Return the largest resident memory of this process so far, MiB; None where unknown (Windows).

    On Linux from VmHWM: ru_maxrss remembers what the process was before exec, a copy of its parent.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
