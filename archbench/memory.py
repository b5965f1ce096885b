"""Memory of a process that asks for the same large arrays again and again."""

from __future__ import annotations

import sys

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
