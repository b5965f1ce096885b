"""The measurement itself: all contenders that fit into the memory together are timed in every round."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from archbench.inference_timing import isolation
from archbench.inference_timing.contender import HOST_TO_HOST, Call, Contender, Job
from archbench.inference_timing.energy import EnergyMeter
from archbench.inference_timing.isolation import Disturbance
from archbench.inference_timing.lineup import Plan, Running, line_up
from archbench.inference_timing.processes import ContenderError


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


@dataclass
class _Log:
    """What is noted while measuring; `kept` are the rounds that count."""

    running: list[Running] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    energy: list[Energy] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


def measure(contenders: Sequence[Contender], plan: Plan) -> Measurement:
    """Time all contenders; one that fails is given up and named with its reason.

    The contenders of a model are always timed together, and with those of as many models as the memory holds.

    Raises:
        RuntimeError: If no contender is left.
    """
    meters = {device: EnergyMeter(device) for device in sorted({c.device for c in contenders})}
    log, present = _Log(), list[Running]()
    try:
        for _, of_model in groupby(contenders, key=lambda contender: contender.model):
            if present and not _has_room(present, plan):
                _time_present(present, log, plan, meters)
                present.clear()
            entered = line_up(list(of_model), plan)
            present += entered
            log.running += entered
        _time_present(present, log, plan, meters)
    finally:
        for one in present:
            one.close()
    if not any(one.alive for one in log.running):
        reasons = [f"{one.contender.name}: {one.failure}" for one in log.running if one.failure]
        raise RuntimeError("no contender could be timed: " + "; ".join(reasons))
    dead = {(one.contender.model, one.contender.runtime, one.contender.twin) for one in log.running if not one.alive}
    return Measurement(
        running=log.running,
        calls=[call for call in log.calls if (call.model, call.runtime, call.twin) not in dead],
        kept=log.kept,
        isolation=isolation.account_of(log.disturbances, log.kept),
        energy=log.energy,
        energy_sources={device: {"source": m.source, "reason": m.reason} for device, m in meters.items()},
    )


def _has_room(present: Sequence[Running], plan: Plan) -> bool:
    """Whether another model like the largest one so far fits in."""
    models = {one.contender.model for one in present}
    needed = [sum(one.memory_mib for one in present if one.contender.model == model) for model in models]
    return sum(needed) + max(needed) <= plan.memory_mib


def _time_present(present: Sequence[Running], log: _Log, plan: Plan, meters: dict[str, EnergyMeter]) -> None:
    """Time those who are there, note it, and end their processes."""
    first = len(log.disturbances)
    calls, energy, found = _rounds(present, plan, meters, first=first)
    log.calls += calls
    log.energy += energy
    log.disturbances += found
    log.kept += [first + number for number in isolation.kept_rounds(found, rounds=plan.rounds)]
    for one in present:
        one.close()


def _rounds(
    running: Sequence[Running], plan: Plan, meters: dict[str, EnergyMeter], *, first: int
) -> tuple[list[Call], list[Energy], list[Disturbance]]:
    """Time rounds until enough of them are undisturbed, or the repeats are used up.

    Args:
        first: Number of the first round.
    """
    order = np.random.default_rng([plan.seed, first])
    jobs = [(one, job) for one in running if one.alive for job in one.jobs]
    own = [os.getpid(), *(one.process.process.pid for one in running if one.process is not None and one.alive)]
    calls: list[Call] = []
    energy: list[Energy] = []
    found: list[Disturbance] = []
    while jobs and sum(not d.disturbed for d in found) < plan.rounds and len(found) < plan.rounds + plan.repeats:
        begin, involuntary = len(calls), 0
        before = isolation.count(own)
        for index in order.permutation(len(jobs)):
            one, job = jobs[index]
            if not one.alive:
                continue
            timed, pushed, joules = _ask(one, job, first + len(found), plan, meters[one.contender.device])
            calls += timed
            involuntary += pushed
            if joules is not None:
                energy.append(Energy(job, first + len(found), joules, (len(timed) + 1) * job.batch_size))
        calls_s = sum(call.latency_ms for call in calls[begin:]) / 1000
        found.append(isolation.judge(before, isolation.count(own), calls_s=calls_s, involuntary=involuntary))
        _report(found, plan)
    return calls, energy, found


def _ask(one: Running, job: Job, number: int, plan: Plan, meter: EnergyMeter) -> tuple[list[Call], int, float | None]:
    """Have a contender make its calls of a round; one that fails is given up.

    Returns:
        The calls, the switches that were forced on it, and the energy used, joules.
    """
    assert one.process is not None
    wanted, before = calls_of(job, plan), meter.joules()
    try:
        reply = one.process.ask("measure", regime=job.regime, batch_size=job.batch_size, calls=wanted)
    except ContenderError as error:
        one.fail(f"failed in a round at batch {job.batch_size}, {job.regime}: {error}")
        return [], 0, None
    joules = meter.between(before, meter.joules())
    fixed = (one.contender.model, one.contender.runtime, job.batch_size, number)
    found = [
        Call(*fixed, times[0], job.regime, one.contender.twin, *(times[1:3] if len(times) > 1 else (None, None)))
        for times in reply["timed"]
    ]
    return found, reply["involuntary"] or 0, joules


def calls_of(job: Job, plan: Plan) -> int:
    """Return the calls of a job in one round: fewer of large batches, half as many where only the median is read."""
    if job.batch_size > 1:
        return max(2, plan.calls // job.batch_size)
    return max(2, plan.calls // 2) if job.regime == HOST_TO_HOST else plan.calls


def _report(found: Sequence[Disturbance], plan: Plan) -> None:
    last = found[-1]
    missing = plan.rounds - sum(not d.disturbed for d in found)
    left = missing > 0 and len(found) < plan.rounds + plan.repeats
    note = f": disturbed, {'; '.join(last.reasons)}" if last.disturbed else ""
    more = f"; {missing} more wanted" if left and len(found) >= plan.rounds else ""
    print(f"round {len(found)} of {plan.rounds}{note}{more}", file=sys.stderr, flush=True)
