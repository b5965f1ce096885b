"""Jobs of one machine with several GPUs (here: names of GPUs) each get their own, and give it back however they end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from archbench import gpu_slots
from archbench.gpu_slots import VISIBLE, claim_gpu, visible_gpus

CHECKOUT = Path(__file__).resolve().parents[2]
JOB = """
import os, sys
from pathlib import Path
from archbench.gpu_slots import claim_gpu
claim_gpu(Path(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


class Job:
    """A process that claims a GPU, names it and ends when its input is closed."""

    def __init__(self, folder: Path, visible: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, str(folder)],
            cwd=CHECKOUT,
            env={"PYTHONPATH": str(CHECKOUT), VISIBLE: visible},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def gpu(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[list[Job]]:
    started: list[Job] = []
    yield started
    for job in started:
        job.end()


@pytest.mark.parametrize("visible", ["0,1", "GPU-aa11,GPU-bb22", "3, 5"])
def test_two_jobs_get_different_gpus_and_a_third_waits_for_a_killed_one(
    tmp_path: Path, jobs: list[Job], visible: str
) -> None:
    names = [name.strip() for name in visible.split(",")]
    jobs += [Job(tmp_path, visible), Job(tmp_path, visible)]
    first, second = (job.gpu() for job in jobs)
    assert {first, second} == set(names)
    third = Job(tmp_path, visible)
    jobs.append(third)
    assert third.process.stderr is not None
    assert "all 2 GPUs are taken by other jobs: waiting" in third.process.stderr.readline()
    time.sleep(1.2)
    assert third.process.poll() is None
    jobs[1].end()  # SIGKILL: nobody tidies up but the kernel
    assert third.gpu() == second


@pytest.mark.parametrize("visible", ["", "0", "GPU-aa11"])
def test_nothing_is_claimed_where_there_is_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    assert claim_gpu(tmp_path / "locks") is None
    assert gpu_slots.os.environ[VISIBLE] == visible
    assert not (tmp_path / "locks").exists()


def test_gpus_are_counted_by_the_driver_when_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho GPU-aa11\necho GPU-bb22\n")
    driver.chmod(0o755)
    assert visible_gpus() == ["GPU-aa11", "GPU-bb22"]
    driver.write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert visible_gpus() == []


def test_a_device_is_resolved_on_the_claimed_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archbench.devices import resolve_device

    monkeypatch.setenv(VISIBLE, "0,1")
    monkeypatch.setattr(gpu_slots.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(gpu_slots, "_held", [])
    resolve_device("cpu")
    assert gpu_slots.os.environ[VISIBLE] == "0,1", "a CPU job takes no GPU"
    resolve_device("auto")
    assert gpu_slots.os.environ[VISIBLE] == "0"
    gpu_slots._held.pop().release()
