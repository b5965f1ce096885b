"""Images in, answers out, in order: decoding in threads beside the networks, a bounded number of images at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from archbench_predict.images import ImageError

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Answer = TypeVar("Answer")


def stream(
    items: Iterable[Item],
    *,
    prepare: Callable[[Item], Prepared],
    predict: Callable[[list[Prepared]], list[Answer]],
    batch_size: int,
    workers: int,
    lanes: int = 1,
) -> Iterator[tuple[Item, Answer | ImageError]]:
    """Yield each item with its answer, or with the error that its preparation met.

    While batches are predicted, threads prepare the images of the next one; no more are ever read ahead.

    Args:
        workers: Threads that prepare.
        lanes: Batches that are predicted at once, each by a thread of its own.
    """
    source = iter(items)
    flying: deque[tuple[list[Future[Prepared]], Future[list[tuple[Item, Answer | ImageError]]]]] = deque()
    with (
        ThreadPoolExecutor(max_workers=workers, thread_name_prefix="decode") as decoders,
        ThreadPoolExecutor(max_workers=lanes, thread_name_prefix="network") as networks,
    ):

        def read_ahead() -> None:
            while len(flying) <= lanes and (batch := list(islice(source, batch_size))):
                prepared = [decoders.submit(prepare, item) for item in batch]
                flying.append((prepared, networks.submit(_answers, batch, prepared, predict)))

        try:
            read_ahead()
            while flying:
                answered = flying.popleft()[1].result()
                read_ahead()
                yield from answered
        finally:
            for prepared, answers in flying:
                answers.cancel()
                for future in prepared:
                    future.cancel()


def _answers(
    batch: Sequence[Item],
    prepared: Sequence[Future[Prepared]],
    predict: Callable[[list[Prepared]], list[Answer]],
) -> list[tuple[Item, Answer | ImageError]]:
    outcomes: list[Prepared | ImageError] = [_outcome(future) for future in prepared]
    good = [outcome for outcome in outcomes if not isinstance(outcome, ImageError)]
    answers = iter(predict(good) if good else [])
    return [
        (item, outcome if isinstance(outcome, ImageError) else next(answers))
        for item, outcome in zip(batch, outcomes, strict=True)
    ]


def _outcome(future: Future[Any]) -> Any:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, ImageError):
        return error
    if not isinstance(error, Exception):
        raise error
    # a decoder raises whatever the damaged bytes lead to; the other images go on
    return ImageError("unreadable", f"{type(error).__name__}: {error}")
