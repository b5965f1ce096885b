"""The commands of the report: exit codes, what they print, what they write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from report_fixtures import write_study, write_study_file
from synthetic_study import SyntheticStudy

from archbench.artifacts import read_json

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, encoding="utf-8")


def test_report_command(tmp_path: Path) -> None:
    spec = SyntheticStudy(label="command", failed=("resnet18",), cam_cases=1, n_patients=30)
    configuration, results = write_study(tmp_path, spec)
    study = write_study_file(tmp_path / "study.json", configuration)
    common = ("--study", study, "--results", results, "--logs", tmp_path / "logs", "--output-dir", tmp_path / "out")
    refused = run("assemble_report.py", *common)
    assert refused.returncode == 1
    assert "fundus/resnet18" in refused.stderr
    assert "--partial" in refused.stderr
    done = run("assemble_report.py", *common, "--partial", "--code", "abc123")
    assert done.returncode == 0, done.stderr
    assert "PHANTOM DATA" in done.stdout
    assert "FAILED resnet18" in done.stdout
    assert done.stdout.rstrip().endswith("report.html")
    assert "report code abc123" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_results_command(tmp_path: Path) -> None:
    configuration, results = write_study(tmp_path, SyntheticStudy(label="refresh", cam_cases=1, n_patients=30))
    study = write_study_file(tmp_path / "study.json", configuration)
    done = run("results.py", "--study", study, "--results", results)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 models" in done.stderr
    assert read_json(results / "results.json")["status"] == "complete"
