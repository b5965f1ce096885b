"""Real Snakemake runs in a copy of the checkout, so that a test can edit code and configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
TRACKED = ("Snakefile", "archbench", "archbench_predict", "config", "profiles", "scripts", "workflow")
OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # of the `make test` around the tests; a user's make has none
COPY = "my checkout"  # users' folders have spaces


class Workflow:
    """A copy of the checkout with its own results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for name in TRACKED:
            source = CHECKOUT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)

    def snakemake(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake in the copy; its output is one text."""
        return self._finished(self.start(*arguments, **environment), check=check)

    def make(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make in the copy, which needs the Makefile there."""
        return self._finished(self._start(["make", *arguments], **environment), check=check)

    def _finished(self, process: subprocess.Popen[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        try:
            output = process.communicate(timeout=900)[0]
        finally:
            process.kill()
        assert not check or process.returncode == 0, output[-6000:]
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def start(self, *arguments: str, own_group: bool = False, **environment: str) -> subprocess.Popen[str]:
        """Start Snakemake in the copy, optionally with its jobs as a process group of its own."""
        return self._start([sys.executable, "-m", "snakemake", *arguments], own_group=own_group, **environment)

    def _start(self, command: list[str], *, own_group: bool = False, **environment: str) -> subprocess.Popen[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        around = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**around, "PATH": path, "PYTHONPATH": str(self.folder), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=own_group,
        )

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rules that a dry run would execute, with their job counts."""
        lines = self.snakemake("--dry-run", *arguments).stdout.splitlines()
        if "job stats:" not in [line.strip().lower() for line in lines]:
            return {}
        start = next(i for i, line in enumerate(lines) if line.strip().lower() == "job stats:")
        counts: dict[str, int] = {}
        for line in lines[start + 3 :]:
            words = line.split()
            if len(words) != 2 or words[0] == "total":
                break
            counts[words[0]] = int(words[1])
        return counts

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text that must be there, in a file of the copy."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} no longer holds {old!r}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path / COPY)


TINY_STUDY = """
study: tiny
datasets:
  phantom:
    format: phantom
    classes: [No DR, Mild, Moderate, Severe, Proliferative]
    phantom: {patients: 40, image_size: 64, seed: 1}
protocol: {kind: cross_validation, folds: 2, seeds: [3]}
training: {epochs: 2, batch_size: 16, lr: 1.0e-3, loss: focal}
models:
  custom1: {architecture: custom1, image_size: 32}
  resnet18: {architecture: resnet18, image_size: 32, training: {loss: weighted_cross_entropy}}
explain: {cases: 4}
inference: {batch_sizes: [1, 2], runtimes: [onnxruntime], rounds: 7, calls: 3, repeats: 0}
evaluation: {resamples: 200, comparison_resamples: 200}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the finished study stay on one worker, so that it is run once."""
    for item in items:
        if {"finished", "edited"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("finished"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A tiny study, run once; tests that edit it take a copy."""
    workflow = Workflow(tmp_path_factory.mktemp("workflow") / COPY)
    (workflow.folder / "config" / "config.yaml").write_text(TINY_STUDY, encoding="utf-8")
    workflow.log = workflow.snakemake("--cores", "2").stdout  # type: ignore[attr-defined]
    return workflow


@pytest.fixture
def edited(finished: Workflow, tmp_path: Path) -> Workflow:
    """A copy of the finished study, with its results and Snakemake's notes, to be edited."""
    copy = Workflow.__new__(Workflow)
    copy.folder = tmp_path / COPY
    shutil.copytree(finished.folder, copy.folder, symlinks=True)
    return copy
