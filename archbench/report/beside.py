"""Work that a second process does meanwhile, on what this process holds already."""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Result = TypeVar("Result")


def beside(task: Callable[[], Result], *, processes: int) -> Callable[[], Result]:
    """Start a task in a process of its own, and return what waits for its result.

    The process forks, so that it has the study's data without being sent them. Where processes can't fork, or only
    one may run, the task runs here once its result is asked for; so it does if the process fails, for its error.

    Args:
        task: What it returns is sent back.
        processes: How many may run at once.
    """
    if processes < 2 or not sys.platform.startswith("linux"):
        return task
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, task))
    process.start()
    theirs.close()

    def result() -> Result:
        try:
            found: Result = ours.recv()
        except EOFError:
            return task()
        finally:
            process.join()
        return found

    return result


def _send(parent: Connection, task: Callable[[], Any]) -> None:
    parent.send(task())
