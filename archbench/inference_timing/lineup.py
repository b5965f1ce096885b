"""Who is timed together: the contenders of a model, started cold, checked against each other, and warmed up."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from archbench.inference_timing.contender import PREPARED, Contender, Job, jobs_of
from archbench.inference_timing.processes import ContenderError, ContenderProcess, start

LOGIT_TOLERANCE = 0.05  # only blunders: parity was checked at the export, TF32 on a GPU differs by a hundredth


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        calls: Per round at batch 1, see `calls_of`.
        repeats: Rounds that may be added for disturbed ones.
        cold_starts: Fresh processes per contender; the last one stays.
        seed: Of the order within the rounds.
        memory_mib: What the processes that are there at once may use; more models are timed in several line-ups.
    """

    batch_sizes: Sequence[int]
    regimes: Sequence[str]
    rounds: int
    calls: int
    repeats: int = 0
    cold_starts: int = 1
    seed: int = 0
    memory_mib: float = math.inf


@dataclass
class Running:
    """A contender with its process, and what is known of it so far."""

    contender: Contender
    process: ContenderProcess | None = None
    account: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    jobs: list[Job] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether it can be timed."""
        return self.process is not None and self.failure is None

    @property
    def memory_mib(self) -> float:
        """What its process uses: the largest peak so far; 0 where the system doesn't tell."""
        peaks = [value for value in (self.account.get("peak_memory_mib") or {}).values() if value is not None]
        return max(peaks, default=0.0) if self.alive else 0.0

    def fail(self, reason: str) -> None:
        """Give the contender up; the others go on."""
        self.failure = reason
        print(f"{self.contender.name}: {reason}", file=sys.stderr, flush=True)
        self.close()

    def close(self) -> None:
        """End its process."""
        if self.process is not None:
            self.process.close()


def line_up(contenders: Sequence[Contender], plan: Plan) -> list[Running]:
    """Start the contenders of one model and warm them up; those that fail are there with the reason."""
    running: list[Running] = []
    try:
        for contender in contenders:
            running.append(_start(contender, plan))
        _compare_answers(running)
        for one in running:
            if one.alive:
                _warm_up(one, plan)
    except BaseException:
        for one in running:
            one.close()
        raise
    return running


def _start(contender: Contender, plan: Plan) -> Running:
    """Start a contender cold, as often as asked; its account holds each start."""
    if contender.failure is not None:
        return Running(contender, failure=contender.failure)
    print(f"start {contender.name}", file=sys.stderr, flush=True)
    spec = {**contender.spec, "batches": contender.batches}
    starts, gpu_before = [], _gpu_memory_mib(contender)
    try:
        for _ in range(0 if contender.twin else plan.cold_starts - 1):
            process, account = start(spec)
            process.close()
            starts.append(account["start_ms"])
        process, account = start(spec)
    except ContenderError as error:
        return Running(contender, failure=f"failed: {error}")
    starts.append(account["start_ms"])
    account |= {"starts_ms": starts, "gpu_before_mib": gpu_before, "warm_up": [], "peak_memory_mib": {}}
    return Running(contender, process, account)


def _gpu_memory_mib(contender: Contender) -> float | None:
    if contender.device != "cuda":
        return None
    from archbench.inference_timing.energy import Gpu

    try:
        return Gpu().memory_used_mib()
    except OSError:
        return None


def _compare_answers(running: Sequence[Running]) -> None:
    """Give up a contender of full precision whose logits of the first image are far from those of the first one.

    Whoever answers something else is not the same model, and its speed means nothing.
    """
    expected: np.ndarray | None = None
    for one in running:
        if not one.alive or one.contender.precision != "fp32":
            continue
        logits = np.asarray(one.account["logits"], dtype=np.float64)[:1]
        expected = logits if expected is None else expected
        if not np.allclose(logits, expected, rtol=LOGIT_TOLERANCE, atol=LOGIT_TOLERANCE):
            worst = float(np.abs(logits - expected).max())
            one.fail(f"failed: its logits differ by {worst:.3g} from those of the other runtimes")


def _warm_up(one: Running, plan: Plan) -> None:
    """Warm a contender up for each of its jobs, with rising batches; its account holds the memory after each."""
    jobs = jobs_of(one.contender, batch_sizes=plan.batch_sizes, regimes=plan.regimes)
    assert one.process is not None
    for job in jobs:
        try:
            found = one.process.ask("warm_up", regime=job.regime, batch_size=job.batch_size)
        except ContenderError as error:
            one.fail(f"failed at batch {job.batch_size}, {job.regime}: {error}")
            return
        notes = {"regime": job.regime, "batch_size": job.batch_size}
        one.account["warm_up"].append({**notes, "calls": found["calls"], "stable": found["stable"]})
        if job.regime == PREPARED:
            one.account["peak_memory_mib"][str(job.batch_size)] = found["peak_memory_mib"]
    one.account["gpu_memory_mib"] = _grown(_gpu_memory_mib(one.contender), one.account["gpu_before_mib"])
    one.jobs = jobs


def _grown(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else max(0.0, now - before)
