"""Images in, answers out, in order: decoding in threads beside the networks, a bounded number of images at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
) -> Iterator[tuple[Item, Answer | ImageError]]:
    """Yield each item with its answer, or with the error that its preparation met.

    While a batch is predicted, threads prepare the images of the next two; no more are ever read ahead.
    """
    source, ahead = iter(items), 2 * batch_size + workers
    pending: deque[tuple[Item, Future[Prepared]]] = deque()
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="decode") as pool:

        def read_ahead() -> None:
            pending.extend((item, pool.submit(prepare, item)) for item in islice(source, ahead - len(pending)))

        try:
            read_ahead()
            while pending:
                batch = [pending.popleft() for _ in range(min(batch_size, len(pending)))]
                outcomes: list[tuple[Item, Prepared | ImageError]] = [
                    (item, _outcome(future)) for item, future in batch
                ]
                read_ahead()
                good = [outcome for _, outcome in outcomes if not isinstance(outcome, ImageError)]
                answers = iter(predict(good) if good else [])
                for item, outcome in outcomes:
                    yield item, outcome if isinstance(outcome, ImageError) else next(answers)
        finally:
            for _, future in pending:
                future.cancel()


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
