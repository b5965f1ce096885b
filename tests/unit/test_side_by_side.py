"""CI's targets that run at the same time: each is heard, one failure fails all, nothing is left running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "side_by_side"
MAKEFILE = """
until = until test -e $(1); do sleep 0.1; done
first:
	@touch first.here; $(call until,second.here); echo first is done
second:
	@touch second.here; $(call until,first.here); echo second is done
alone:
	@echo alone is done
broken:
	@echo why it broke; false
leaving:
	@trap '' INT; sleep 600 & echo $$! > left.pid; echo one stays
endless:
	@trap 'echo cleaned up; exit 1' INT; echo $$$$ > endless.pid; while true; do sleep 0.1; done
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None or shutil.which("make") is None, reason="no bash or make")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".ci").mkdir()
    shutil.copy(SCRIPT, tmp_path / ".ci")
    (tmp_path / "Makefile").write_text(MAKEFILE, encoding="utf-8")
    return tmp_path


def start(folder: Path, *targets: str) -> subprocess.Popen[str]:
    alone = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.Popen(
        [folder / ".ci" / "side_by_side", *targets],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**alone, "GRACE_S": "2"},
    )


def gone(pid: Path) -> bool:
    asked = ["ps", "-o", "stat=", "-p", pid.read_text(encoding="utf-8").strip()]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()[:1] in ("", "Z")


def test_targets_run_at_the_same_time_and_all_are_heard(folder: Path) -> None:
    process = start(folder, "first", "second")
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 0, said
    assert "===== make first\nfirst is done" in said and "===== make second\nsecond is done" in said


@pytest.mark.parametrize("targets", [("broken", "alone"), ("alone", "broken")])
def test_one_failure_fails_and_both_logs_are_shown(folder: Path, targets: tuple[str, str]) -> None:
    process = start(folder, *targets)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 1
    assert "failed: broken" in said and "why it broke" in said and "alone is done" in said


def test_what_a_target_leaves_behind_is_ended(folder: Path) -> None:
    process = start(folder, "leaving")
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 0 and "one stays" in said and "leaving left processes behind" in said
    assert gone(folder / "left.pid")


def test_a_stopped_run_stops_its_targets_and_lets_them_clean_up(folder: Path) -> None:
    process = start(folder, "endless", "alone")
    deadline = time.monotonic() + 20
    while not (folder / "endless.pid").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 143
    assert "cleaned up" in said
    assert gone(folder / "endless.pid")
