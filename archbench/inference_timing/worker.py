"""The process of one contender: it loads its model, and times what it is asked for, message by message.

Messages are JSON lines. Between them it waits for its input and uses no processor. It measures in its own
process, so that the exchange of messages costs no measured time. Nothing is imported before it is needed: start
and memory are part of the result.

python -m archbench.inference_timing.worker    (started by `archbench.inference_timing.processes`)
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from archbench.memory import peak_rss_mib

if TYPE_CHECKING:
    from archbench.inference_timing.engines import Engine

WARMUP_WINDOW = 4  # calls whose median is compared with that of the calls before
WARMUP_CHANGE = 0.05
WARMUP_CALLS = 40
WARMUP_S = 3.0


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until there are no more; the first one is the specification."""
    spec = json.loads(requests.readline())
    contender = _Contender(spec)
    for reply in _answers(contender, requests):
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _answers(contender: _Contender, requests: TextIO) -> Iterator[dict[str, Any]]:
    actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "load": contender.load,
        "warm_up": contender.warm_up,
        "measure": contender.measure,
    }
    for line in requests:
        request = json.loads(line)
        try:
            yield actions[request["do"]](request)
        except Exception as error:  # a runtime raises whatever it likes; it is this contender's result
            yield {"error": f"{type(error).__name__}: {error}"[:2000]}


class _Contender:
    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.engine: Engine | None = None
        self._calls: dict[tuple[str, int], Callable[[], tuple[float, ...]]] = {}

    def load(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Import the runtime, load the model and give a first answer."""
        begin = time.perf_counter()
        import numpy as np

        from archbench.inference_timing.engines import load_engine

        pixels = np.load(self.spec["pixels"], mmap_mode="r", allow_pickle=False)
        before = peak_rss_mib()
        started = time.perf_counter()
        self.engine = load_engine(self.spec)
        loaded = time.perf_counter()
        first = pixels[: min(self.spec.get("batches") or [1])]
        logits = self.engine.answer(np.ascontiguousarray(first))
        answered = time.perf_counter()
        return {
            "facts": self.engine.facts,
            "import_ms": 1000 * (started - begin),
            "load_ms": 1000 * (loaded - started),
            "first_call_ms": 1000 * (answered - loaded),
            "logits": np.asarray(logits, np.float64).tolist(),
            "rss_before_mib": before,
        }

    def _call(self, regime: str, batch_size: int) -> Callable[[], tuple[float, ...]]:
        key = (regime, batch_size)
        if key not in self._calls:
            self._calls[key] = self._prepare_call(regime, batch_size)
        return self._calls[key]

    def _prepare_call(self, regime: str, batch_size: int) -> Callable[[], tuple[float, ...]]:
        import numpy as np

        engine = self.engine
        assert engine is not None, "asked for calls before load"
        pixels = np.ascontiguousarray(np.load(self.spec["pixels"], mmap_mode="r")[:batch_size])
        if regime == "end_to_end":
            from archbench.inference_timing.decoding import make_end_to_end

            return make_end_to_end(engine, self.spec)
        if regime == "host_to_host":
            return lambda: (_elapsed_ms(engine.answer, pixels),)
        prepared = engine.prepare(pixels)
        return lambda: (_elapsed_ms(engine.run, prepared),)

    def warm_up(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Call until the median of some calls no longer changes, or the patience is at an end."""
        call = self._call(request["regime"], request["batch_size"])
        calls, stable = warm_up(lambda: call()[0])
        return {"calls": calls, "stable": stable, "peak_memory_mib": peak_rss_mib()}

    def measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Time calls one by one, after one that fills the caches again; count the switches forced on them."""
        call = self._call(request["regime"], request["batch_size"])
        call()
        switches = involuntary_switches()
        timed = [call() for _ in range(request["calls"])]
        return {"timed": timed, "involuntary": _minus(involuntary_switches(), switches)}


def warm_up(call: Callable[[], float]) -> tuple[int, bool]:
    """Call until two windows of calls have nearly the same median.

    Args:
        call: Returns the milliseconds that it took.
    Returns:
        The number of calls and whether they became stable.
    """
    begin = time.perf_counter()
    times: list[float] = []
    while len(times) < WARMUP_CALLS:
        times.append(call())
        if len(times) >= 2 * WARMUP_WINDOW:
            last = statistics.median(times[-WARMUP_WINDOW:])
            before = statistics.median(times[-2 * WARMUP_WINDOW : -WARMUP_WINDOW])
            if abs(last - before) <= WARMUP_CHANGE * before:
                return len(times), True
        if time.perf_counter() - begin > WARMUP_S and len(times) >= 3:
            break
    return len(times), False


def _elapsed_ms(call: Callable[[Any], object], argument: Any) -> float:
    started = time.perf_counter_ns()
    call(argument)
    return (time.perf_counter_ns() - started) / 1e6


def _minus(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before


def involuntary_switches() -> int | None:
    """Return how often a thread of this process was pushed off its processor; None where unknown (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _main() -> None:
    # Libraries print where they like: the channel is a copy of stdout, and stdout goes to the log.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, channel)


if __name__ == "__main__":
    _main()
