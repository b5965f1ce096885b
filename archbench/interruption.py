"""Leaving when asked to: schedulers announce preemption and time limits by a signal, minutes or seconds ahead.

A training keeps the state of its last finished epoch on disk, so it has nothing to write when the signal comes:
it ends at once with an exit code of its own, and the same command goes on after that epoch.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not done, worth trying again
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(BaseException):
    """The scheduler asked this process to leave; no `except Exception` on the way keeps it back."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number).name
        super().__init__(f"asked to leave by {self.signal}")


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Raise Interrupted where the main thread stands when SIGTERM or SIGUSR1 arrives; once, then they are ignored."""
    before = {number: signal.signal(number, _leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    for ignored in SIGNALS:  # a second one must not cut the clean-up of the first short
        signal.signal(ignored, signal.SIG_IGN)
    raise Interrupted(number)
