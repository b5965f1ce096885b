"""One timing at a time on a machine: a lock that the kernel frees when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NAME = "archbench-timing.lock"
POLL_S = 0.5
REMIND_S = 60.0


def lock_path() -> Path:
    """Return where the lock lies: the same for all users, studies and containers (which share /tmp) of a machine.

    TMPDIR is not asked: schedulers give each job its own.
    """
    shared = Path("/tmp")
    return (shared if os.name == "posix" and shared.is_dir() else Path(tempfile.gettempdir())) / NAME


@contextlib.contextmanager
def hold_machine(note: str, *, path: Path | None = None) -> Iterator[float]:
    """Hold the machine for a measurement; wait, with a message, while another one runs.

    Args:
        note: Who holds it, for those who wait.
    Yields:
        Seconds waited.
    """
    path = path or lock_path()
    begin = time.monotonic()
    handle = _acquire(path)
    try:
        _leave_note(handle, f"{note}, process {os.getpid()}\n")
        yield time.monotonic() - begin
    finally:
        os.close(handle)


def _acquire(path: Path) -> int:
    said = float("-inf")
    while True:
        handle = _open(path)
        if _try_lock(handle) and _is_still(handle, path):
            return handle
        if time.monotonic() - said > REMIND_S:
            said = time.monotonic()
            holder = path.read_text(encoding="utf-8", errors="replace").strip() or "another timing"
            print(f"waiting: this machine is being timed by {holder} ({path})", file=sys.stderr, flush=True)
        os.close(handle)
        time.sleep(POLL_S)


def _open(path: Path) -> int:
    """Open the file of whoever made it first.

    Without O_CREAT, which kernels refuse for a file of somebody else in /tmp; and never through a link.
    """
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    for mode in (os.O_RDWR, os.O_RDONLY):
        try:
            return os.open(path, mode | flags)
        except FileNotFoundError:
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
            except FileExistsError:
                continue  # somebody was faster
            if hasattr(os, "fchmod"):
                os.fchmod(handle, 0o666)  # the umask would keep other users out
            return handle
        except PermissionError:
            continue
    return os.open(path, os.O_RDONLY | flags)


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(handle: int, path: Path) -> bool:
    """Whether the locked file is the one that others open: a tidy machine may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _leave_note(handle: int, text: str) -> None:
    with contextlib.suppress(OSError):  # another user's file may be read only; the lock holds all the same
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0) if hasattr(os, "pwrite") else os.write(handle, text.encode())
