"""SIGTERM and SIGUSR1 end a training at once with a code of its own; a second one doesn't cut its clean-up short."""

from __future__ import annotations

import os
import signal

import pytest

from archbench.interruption import SIGNALS, Interrupted, leaving_on_signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_passes_through_ordinary_handlers(name: str) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), getattr(signal, name))
            raise AssertionError("the signal did not arrive")
        except Exception as error:
            raise AssertionError("an ordinary handler kept it back") from error

    with pytest.raises(Interrupted, match=name), leaving_on_signals():
        work()


def test_a_second_signal_does_not_cut_the_clean_up_short() -> None:
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGUSR1)
            cleaned.append(True)

    with pytest.raises(Interrupted, match="SIGUSR1"), leaving_on_signals():
        work()
    assert cleaned


def test_the_handlers_before_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with leaving_on_signals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert len(SIGNALS) == 2
