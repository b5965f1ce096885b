"""Was anybody else at work? What the system counts before and after a round of timing says so.

A round is disturbed when others used more than a little of the processors, when tasks had to wait for one, or when
the processor or the container was throttled. Involuntary switches are recorded and judge nothing: a contender's own
threads push each other off too (600 a second in a round in which nobody else did anything).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_FOREIGN_SHARE = 0.05  # of the usable processors: a daemon now and then, not a neighbour
# Of the time some task waited for a processor (/proc/pressure/cpu, "some"). Threads that wake each other give a tenth
# with nobody else about, a neighbour at equal priority nearly all.
MAX_PRESSURE_SHARE = 0.25
MAX_DISTURBED_SHARE = 0.25  # of the rounds that count: a median over rounds still stands below it
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
CPU_FOLDER = Path("/sys/devices/system/cpu")
PRESSURE_FILE = Path("/proc/pressure/cpu")
CGROUP_STAT_FILES = (Path("/sys/fs/cgroup/cpu.stat"), Path("/sys/fs/cgroup/cpu/cpu.stat"))


@dataclass(frozen=True)
class Counters:
    """What the system has counted so far; None where it doesn't."""

    at_s: float
    busy_s: float
    own_s: float
    pressure_us: int | None
    throttled: int | None


@dataclass(frozen=True)
class Disturbance:
    """What else went on during a round.

    Attributes:
        foreign_share: Processor time of others, as a share of all that was usable.
        pressure_share: Share of the time in which some task waited for a processor.
        throttled: How often the processor (heat) or the container (quota) was slowed down.
        involuntary_per_s: Switches forced on the contenders, per second of their calls.
        reasons: Why the round counts as disturbed; empty if it does not.
    """

    seconds: float
    foreign_share: float
    pressure_share: float | None
    throttled: int | None
    involuntary_per_s: float | None
    reasons: tuple[str, ...]

    @property
    def disturbed(self) -> bool:
        """Whether the round should be repeated."""
        return bool(self.reasons)


def usable_cpus() -> list[int]:
    """Return the numbers of the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def count(processes: Iterable[int]) -> Counters:
    """Read the system's counters.

    Args:
        processes: Those whose work is our own.
    """
    import psutil

    times = psutil.cpu_times(percpu=True)
    usable = [times[cpu] for cpu in usable_cpus() if cpu < len(times)]
    return Counters(
        at_s=time.perf_counter(),
        busy_s=sum(getattr(cpu, kind, 0.0) for cpu in usable for kind in BUSY),
        own_s=sum(_own_seconds(process) for process in processes),
        pressure_us=_pressure_us(),
        throttled=_throttled(),
    )


def _own_seconds(process: int) -> float:
    import psutil

    try:
        times = psutil.Process(process).cpu_times()
    except psutil.Error:  # it has ended: what it did before is lost and counts as foreign
        return 0.0
    return float(times.user + times.system)


def _pressure_us() -> int | None:
    try:
        line = PRESSURE_FILE.read_text(encoding="ascii").splitlines()[0]
    except (OSError, IndexError):
        return None
    return int(line.rpartition("total=")[2])


def _throttled() -> int | None:
    counts = [_throttled_by_quota(), _throttled_by_heat()]
    known = [value for value in counts if value is not None]
    return sum(known) if known else None


def _throttled_by_quota() -> int | None:
    for file in CGROUP_STAT_FILES:
        try:
            fields = dict(line.split() for line in file.read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            continue
        return int(fields.get("nr_throttled", 0))
    return None


def _throttled_by_heat() -> int | None:
    values = []
    for cpu in usable_cpus():
        try:
            text = (CPU_FOLDER / f"cpu{cpu}/thermal_throttle/core_throttle_count").read_text(encoding="ascii")
            values.append(int(text))
        except (OSError, ValueError):
            continue
    return sum(values) if values else None


def judge(before: Counters, after: Counters, *, calls_s: float, involuntary: int | None) -> Disturbance:
    """Return what went on between two readings.

    Args:
        calls_s: Seconds that the contenders spent in calls.
        involuntary: Switches that were forced on them meanwhile.
    """
    seconds = max(after.at_s - before.at_s, 1e-9)
    foreign = max(0.0, (after.busy_s - before.busy_s) - (after.own_s - before.own_s)) / (seconds * len(usable_cpus()))
    pressure = _difference(after.pressure_us, before.pressure_us)
    pressure_share = None if pressure is None else pressure / 1e6 / seconds
    throttled = _difference(after.throttled, before.throttled)
    rate = None if involuntary is None else involuntary / max(calls_s, 1e-9)
    reasons = []
    if foreign > MAX_FOREIGN_SHARE:
        reasons.append(f"others used {100 * foreign:.0f} % of the processors")
    if pressure_share is not None and pressure_share > MAX_PRESSURE_SHARE:
        reasons.append(f"tasks waited for a processor {100 * pressure_share:.0f} % of the time")
    if throttled:
        reasons.append(f"throttled {throttled} times")
    return Disturbance(seconds, foreign, pressure_share, throttled, rate, tuple(reasons))


def _difference(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before


def kept_rounds(disturbances: list[Disturbance], *, rounds: int) -> list[int]:
    """Return which rounds count: the undisturbed ones first, then those with the least foreign work."""
    order = sorted(
        range(len(disturbances)), key=lambda k: (disturbances[k].disturbed, disturbances[k].foreign_share, k)
    )
    undisturbed = [k for k, found in enumerate(disturbances) if not found.disturbed]
    return sorted(undisturbed[:rounds] if len(undisturbed) >= rounds else order[:rounds])


def account_of(disturbances: list[Disturbance], kept: list[int]) -> dict[str, Any]:
    """Return the account of all rounds, and whether the result as a whole is disturbed."""
    bad = [k for k in kept if disturbances[k].disturbed]
    reasons = list(dict.fromkeys(_kind(reason) for k in bad for reason in disturbances[k].reasons))
    return {
        "disturbed": len(bad) > MAX_DISTURBED_SHARE * len(kept),
        "disturbed_rounds": len(bad),
        "repeated_rounds": len(disturbances) - len(kept),
        "reasons": reasons,
        "limits": {
            "foreign_share": MAX_FOREIGN_SHARE,
            "pressure_share": MAX_PRESSURE_SHARE,
            "disturbed_share": MAX_DISTURBED_SHARE,
        },
        "rounds": [
            {
                "round": k,
                "kept": k in kept,
                "disturbed": found.disturbed,
                "reasons": list(found.reasons),
                "seconds": found.seconds,
                "foreign_share": found.foreign_share,
                "pressure_share": found.pressure_share,
                "throttled": found.throttled,
                "involuntary_per_s": found.involuntary_per_s,
            }
            for k, found in enumerate(disturbances)
        ],
    }


def _kind(reason: str) -> str:
    """A reason without its figure, so that rounds with the same one are said once."""
    words = (
        ("others used", "others used the processors"),
        ("tasks waited", "tasks waited for a processor"),
        ("throttled", "the processor or the container was throttled"),
    )
    return next(text for start, text in words if reason.startswith(start))
