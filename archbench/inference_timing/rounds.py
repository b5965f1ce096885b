"""The measurement itself: start every contender, warm it up, and time all of them in every round."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from archbench.inference_timing import isolation
from archbench.inference_timing.contender import HOST_TO_HOST, PREPARED, Call, Contender, Job, jobs_of
from archbench.inference_timing.energy import EnergyMeter
from archbench.inference_timing.isolation import Disturbance
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
    """

    batch_sizes: Sequence[int]
    regimes: Sequence[str]
    rounds: int
    calls: int
    repeats: int = 0
    cold_starts: int = 1
    seed: int = 0


@dataclass
class Running:
    """A contender with its process, and what is known of it so far."""

    contender: Contender
    process: ContenderProcess | None = None
    account: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None

    @property
    def alive(self) -> bool:
        """Whether it can be timed."""
        return self.process is not None and self.failure is None

    def fail(self, reason: str) -> None:
        """Give the contender up; the others go on."""
        self.failure = reason
        print(f"{self.contender.name}: {reason}", file=sys.stderr, flush=True)
        if self.process is not None:
            self.process.close()


@dataclass(frozen=True)
class Energy:
    """Energy of one job of a round, and the images that it was used for."""

    job: Job
    round: int
    joules: float
    images: int


@dataclass(frozen=True)
class Measurement:
    """What a measurement has found.

    Attributes:
        calls: Every timed call, those of rounds that don't count included.
        kept: The rounds that count.
        isolation: The account of the rounds, see `isolation.account_of`.
        energy: Of every job, where it is counted.
        energy_sources: By device: what counts it, or why nothing does.
    """

    running: list[Running]
    calls: list[Call]
    kept: list[int]
    isolation: dict[str, Any]
    energy: list[Energy]
    energy_sources: dict[str, dict[str, str | None]]


def measure(contenders: Sequence[Contender], plan: Plan) -> Measurement:
    """Time all contenders; one that fails is given up and named with its reason.

    Raises:
        RuntimeError: If no contender is left.
    """
    meters = {device: EnergyMeter(device) for device in {c.device for c in contenders}}
    running: list[Running] = []
    with contextlib.ExitStack() as stack:
        for contender in contenders:
            running.append(_start(contender, plan))
            if (process := running[-1].process) is not None:
                stack.callback(process.close)
        _compare_answers(running)
        jobs = [job for one in running if one.alive for job in _warm_up(one, plan)]
        calls, energy, disturbances = _rounds(running, jobs, plan, meters)
    if not any(one.alive for one in running):
        raise RuntimeError("no contender could be timed: " + "; ".join(_reasons(running)))
    dead = {(one.contender.model, one.contender.runtime, one.contender.twin) for one in running if not one.alive}
    kept = isolation.kept_rounds(disturbances, rounds=plan.rounds)
    return Measurement(
        running=running,
        calls=[call for call in calls if (call.model, call.runtime, call.twin) not in dead],
        kept=kept,
        isolation=isolation.account_of(disturbances, kept),
        energy=energy,
        energy_sources={device: {"source": m.source, "reason": m.reason} for device, m in sorted(meters.items())},
    )


def _reasons(running: Sequence[Running]) -> list[str]:
    return [f"{one.contender.name}: {one.failure}" for one in running if one.failure]


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
    """Give up a contender of full precision whose logits of the first image are far from those of its model's first.

    Whoever answers something else is not the same model, and its speed means nothing.
    """
    first: dict[str, np.ndarray] = {}
    for one in running:
        if not one.alive or one.contender.precision != "fp32":
            continue
        logits = np.asarray(one.account["logits"], dtype=np.float64)[:1]
        expected = first.setdefault(one.contender.model, logits)
        if not np.allclose(logits, expected, rtol=LOGIT_TOLERANCE, atol=LOGIT_TOLERANCE):
            worst = float(np.abs(logits - expected).max())
            one.fail(f"failed: its logits differ by {worst:.3g} from those of the other runtimes")


def _warm_up(one: Running, plan: Plan) -> list[Job]:
    """Warm a contender up for each of its jobs, with rising batches; its account holds the memory after each."""
    jobs = jobs_of(one.contender, batch_sizes=plan.batch_sizes, regimes=plan.regimes)
    assert one.process is not None
    for job in jobs:
        try:
            found = one.process.ask("warm_up", regime=job.regime, batch_size=job.batch_size)
        except ContenderError as error:
            one.fail(f"failed at batch {job.batch_size}, {job.regime}: {error}")
            return []
        notes = {"regime": job.regime, "batch_size": job.batch_size}
        one.account["warm_up"].append({**notes, "calls": found["calls"], "stable": found["stable"]})
        if job.regime == PREPARED:
            one.account["peak_memory_mib"][str(job.batch_size)] = found["peak_memory_mib"]
    one.account["gpu_memory_mib"] = _grown(_gpu_memory_mib(one.contender), one.account["gpu_before_mib"])
    return jobs


def _grown(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else max(0.0, now - before)


def _rounds(
    running: Sequence[Running], jobs: Sequence[Job], plan: Plan, meters: dict[str, EnergyMeter]
) -> tuple[list[Call], list[Energy], list[Disturbance]]:
    """Time rounds until enough of them are undisturbed, or the repeats are used up."""
    order = np.random.default_rng(plan.seed)
    calls: list[Call] = []
    energy: list[Energy] = []
    found: list[Disturbance] = []
    by_contender = {id(one.contender): one for one in running}
    own = [one.process.process.pid for one in running if one.process is not None and one.alive]
    while jobs and sum(not d.disturbed for d in found) < plan.rounds and len(found) < plan.rounds + plan.repeats:
        number, first, involuntary = len(found), len(calls), 0
        before = isolation.count([*own, os.getpid()])
        for index in order.permutation(len(jobs)):
            job = jobs[index]
            one = by_contender[id(job.contender)]
            if not one.alive:
                continue
            meter = meters[job.contender.device]
            joules = meter.joules()
            timed, pushed = _ask(one, job, number, plan)
            used = meter.between(joules, meter.joules())
            if used is not None and timed:
                energy.append(Energy(job, number, used, (len(timed) + 1) * job.batch_size))
            calls += timed
            involuntary += pushed
        after = isolation.count([*own, os.getpid()])
        calls_s = sum(call.latency_ms for call in calls[first:]) / 1000
        found.append(isolation.judge(before, after, calls_s=calls_s, involuntary=involuntary))
        _report(number, found, plan)
    return calls, energy, found


def _ask(one: Running, job: Job, number: int, plan: Plan) -> tuple[list[Call], int]:
    """Have a contender make its calls of a round; one that fails is given up."""
    assert one.process is not None
    wanted = calls_of(job, plan)
    try:
        reply = one.process.ask("measure", regime=job.regime, batch_size=job.batch_size, calls=wanted)
    except ContenderError as error:
        one.fail(f"failed in round {number + 1} at batch {job.batch_size}, {job.regime}: {error}")
        return [], 0
    fixed = (one.contender.model, one.contender.runtime, job.batch_size, number)
    found = [
        Call(*fixed, times[0], job.regime, one.contender.twin, *(times[1:3] if len(times) > 1 else (None, None)))
        for times in reply["timed"]
    ]
    return found, reply["involuntary"] or 0


def calls_of(job: Job, plan: Plan) -> int:
    """Return the calls of a job in one round: fewer of large batches, half as many where only the median is read."""
    if job.batch_size > 1:
        return max(2, plan.calls // job.batch_size)
    return max(2, plan.calls // 2) if job.regime == HOST_TO_HOST else plan.calls


def _report(number: int, found: Sequence[Disturbance], plan: Plan) -> None:
    last = found[-1]
    missing = plan.rounds - sum(not d.disturbed for d in found)
    left = missing > 0 and len(found) < plan.rounds + plan.repeats
    note = f": disturbed, {'; '.join(last.reasons)}" if last.disturbed else ""
    more = f"; {missing} more wanted" if left and number + 1 >= plan.rounds else ""
    print(f"round {number + 1} of {plan.rounds}{note}{more}", file=sys.stderr, flush=True)
