"""Isolation: two timings never overlap, and a neighbour at work marks the result."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from archbench.inference_timing import hardware, isolation, machine_lock
from archbench.inference_timing.energy import EnergyMeter
from archbench.inference_timing.isolation import Counters, Disturbance, account_of, judge, kept_rounds, usable_cpus
from archbench.inference_timing.machine_lock import hold_machine, lock_path

CALM = Counters(at_s=0.0, busy_s=0.0, own_s=0.0, pressure_us=0, throttled=0)
CPUS = len(usable_cpus())

HOLDER = """
import sys, time
from pathlib import Path
from archbench.inference_timing.machine_lock import hold_machine
lock, log, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with hold_machine(name, path=lock):
    for word in ("in", "out"):
        with log.open("a") as file:
            file.write(f"{name} {word}\\n")
        time.sleep(.3)
"""


def test_two_timings_never_overlap(tmp_path: Path) -> None:
    """Three processes at once: each leaves before the next one enters."""
    lock, log = tmp_path / "lock", tmp_path / "log"
    command = [sys.executable, "-c", HOLDER, str(lock), str(log)]
    started = [subprocess.Popen([*command, f"job{k}"], stderr=subprocess.PIPE, text=True) for k in range(3)]
    messages = [process.communicate(timeout=120)[1] for process in started]
    assert all(process.returncode == 0 for process in started), messages
    lines = log.read_text().split()
    visits = list(zip(lines[::4], lines[1::4], lines[2::4], lines[3::4], strict=True))
    assert sorted(visit[0] for visit in visits) == ["job0", "job1", "job2"]
    assert all((a, out) == (b, "out") and word == "in" for a, word, b, out in visits), lines
    assert sum("waiting: this machine is being timed by job" in message for message in messages) >= 1, messages


def test_a_timing_that_is_killed_frees_the_machine(tmp_path: Path) -> None:
    lock, log = tmp_path / "lock", tmp_path / "log"
    slow = HOLDER.replace("time.sleep(.3)", "time.sleep(600)")
    holder = subprocess.Popen([sys.executable, "-c", slow, str(lock), str(log), "killed"])
    try:
        for _ in range(600):
            if log.is_file():
                break
            time.sleep(0.1)
        assert log.is_file()
    finally:
        holder.kill()
        holder.wait()
    with hold_machine("next", path=lock) as waited_s:
        assert waited_s < 60
        assert "next" in lock.read_text()


def test_the_lock_is_everybodys(tmp_path: Path) -> None:
    """Another user must be able to open the file, whatever the umask of whoever came first."""
    before = os.umask(0o077)
    try:
        with hold_machine("first", path=tmp_path / "lock"):
            assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o666
    finally:
        os.umask(before)
    (tmp_path / "readonly").touch(mode=0o444)
    with hold_machine("second", path=tmp_path / "readonly"):
        pass


def test_the_lock_is_no_way_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError), hold_machine("trapped", path=tmp_path / "lock"):  # noqa: PT011
        pass
    assert (tmp_path / "victim").read_text() == "mine"


def test_jobs_with_a_temporary_folder_of_their_own_share_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = lock_path()
    monkeypatch.setenv("TMPDIR", "/tmp/job-123")
    assert lock_path() == before


def test_the_script_times_under_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import time_inference

    monkeypatch.setattr(machine_lock, "lock_path", lambda: tmp_path / "lock")
    monkeypatch.setattr(time_inference, "load_study", lambda _: SimpleNamespace(study="s"))
    during: list[bool] = []

    def timing(*_: object) -> None:
        handle = os.open(tmp_path / "lock", os.O_RDONLY)
        during.append(machine_lock._try_lock(handle))
        os.close(handle)

    monkeypatch.setattr(time_inference, "_time", timing)
    files = ["--manifest", "m", "--folds", "f", "--entry", "a:b:c:d", "--calls", "c", "--output", "o"]
    assert time_inference.main(["--study", "s", "--dataset", "d", *files]) == 0
    assert during == [False], "somebody else could have entered"
    with hold_machine("after", path=tmp_path / "lock") as waited_s:
        assert waited_s < 5


BURN = "import time\nend = time.time() + 120\nwhile time.time() < end:\n    sum(range(10000))\n"


def test_a_busy_neighbour_marks_the_result() -> None:
    """Beside processes that keep every processor busy, a round of work is marked, and so is a result of such rounds."""
    neighbours = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(2 * CPUS)]
    try:
        before = isolation.count([os.getpid()])
        own = time.process_time()
        while time.process_time() - own < 0.3:
            sum(range(10000))
        found = judge(before, isolation.count([os.getpid()]), calls_s=0.3, involuntary=None)
    finally:
        for process in neighbours:
            process.kill()
            process.wait()
    assert found.disturbed
    assert found.foreign_share > 0.3
    assert "others used" in found.reasons[0]
    if isolation.PRESSURE_FILE.is_file():
        assert found.pressure_share is not None and found.pressure_share > 0.5
    account = account_of([found] * 9, list(range(9)))
    assert account["disturbed"] and "others used the processors" in account["reasons"]


def test_own_work_is_not_foreign() -> None:
    found = judge(CALM, replace(CALM, at_s=10.0, busy_s=9.9, own_s=9.8), calls_s=9.0, involuntary=9000)
    assert not found.disturbed
    assert found.foreign_share == pytest.approx(0.1 / (10 * CPUS))
    assert found.involuntary_per_s == pytest.approx(1000)


@pytest.mark.parametrize(
    ("after", "word"),
    [
        ({"busy_s": 1.0 * CPUS}, "others used 10 %"),
        ({"pressure_us": 4_000_000}, "waited for a processor 40 %"),
        ({"throttled": 3}, "throttled 3 times"),
    ],
)
def test_each_counter_disturbs_by_itself(after: dict[str, float], word: str) -> None:
    found = judge(CALM, replace(CALM, at_s=10.0, **after), calls_s=1.0, involuntary=0)  # type: ignore[arg-type]
    assert len(found.reasons) == 1 and word in found.reasons[0]


def test_what_is_not_counted_is_null() -> None:
    blind = Counters(at_s=0.0, busy_s=0.0, own_s=0.0, pressure_us=None, throttled=None)
    found = judge(blind, replace(blind, at_s=1.0), calls_s=1.0, involuntary=None)
    assert (found.pressure_share, found.throttled, found.involuntary_per_s) == (None, None, None)


def round_of(share: float, *, disturbed: bool) -> Disturbance:
    return Disturbance(1.0, share, None, None, None, ("others used 50 % of the processors",) if disturbed else ())


def test_undisturbed_rounds_replace_disturbed_ones() -> None:
    found = [round_of(0.5, disturbed=True), *(round_of(0.0, disturbed=False) for _ in range(7))]
    assert kept_rounds(found, rounds=7) == list(range(1, 8))
    account = account_of(found, kept_rounds(found, rounds=7))
    assert (account["disturbed"], account["disturbed_rounds"], account["repeated_rounds"]) == (False, 0, 1)


def test_the_least_disturbed_stay_where_too_many_are() -> None:
    found = [round_of(share, disturbed=True) for share in (0.9, 0.2, 0.3)] + [round_of(0.01, disturbed=False)]
    kept = kept_rounds(found, rounds=3)
    assert kept == [1, 2, 3]
    account = account_of(found, kept)
    assert account["disturbed"] and account["disturbed_rounds"] == 2
    assert account["reasons"] == ["others used the processors"]
    assert [row["kept"] for row in account["rounds"]] == [False, True, True, True]


def test_a_few_disturbed_rounds_leave_the_medians_standing() -> None:
    found = [round_of(0.9, disturbed=True)] * 2 + [round_of(0.0, disturbed=False)] * 7
    assert not account_of(found, list(range(9)))["disturbed"]
    assert account_of([round_of(0.9, disturbed=True), *found], list(range(10)))["disturbed"]


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_read(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert hardware.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (1.5, 2), (1.0, 1), (0.2, 1), (64.0, 4)])
def test_threads_follow_affinity_and_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int) -> None:
    monkeypatch.setattr(hardware, "usable_cpus", lambda: [0, 1, 4, 5])
    monkeypatch.setattr(hardware, "cpu_quota", lambda: quota)
    assert hardware.usable_threads() == threads


def test_hardware_is_described() -> None:
    found = hardware.describe_hardware(threads=2)
    assert found["threads"] == 2 and found["cores"] >= 1 and found["memory_gib"] > 0 and found["cpu"]
    assert 1 <= hardware.usable_threads() <= found["cores"]
    machine = hardware.describe_machine()
    assert machine["packages"]["torch"] and machine["affinity"] == CPUS
    if "x86" in machine["architecture"]:
        assert set(machine["instructions"]) <= set(hardware.INSTRUCTIONS) and "fma" in machine["instructions"]


def test_energy_is_counted_or_says_why_not(tmp_path: Path) -> None:
    none = EnergyMeter("cpu", powercap=tmp_path / "none")
    assert none.joules() is None and "no RAPL counters" in str(none.reason)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):  # two packages, and a part of the first
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("2500000")
    meter = EnergyMeter("cpu", powercap=tmp_path)
    assert meter.joules() == 5.0 and meter.source is not None
    assert meter.between(5.0, 7.5) == 2.5
    assert meter.between(5.0, 1.0) is None, "a counter that began anew"
