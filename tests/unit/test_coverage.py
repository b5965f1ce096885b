"""A small seeded version of benchmarks/coverage.py: clusters of 1 to 9 images, 60 patients."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"
RUNS = 200


@pytest.fixture(scope="module")
def shares():
    """Share of 200 cohorts in which each interval covers and each test rejects."""
    spec = importlib.util.spec_from_file_location("coverage_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    generator = np.random.default_rng(3)
    truth = {"AUROC": 0.8556, "accuracy": 0.7734}
    runs = [module.run(module.simulate(generator, 60), truth, draws=300, seed=k) for k in range(RUNS)]
    return {name: float(np.mean([found[name] for found in runs])) for name in runs[0]}


def tolerance(share):
    """Three standard errors of a share of the runs."""
    return 3 * np.sqrt(share * (1 - share) / RUNS)


def test_patient_intervals_cover_and_tests_keep_their_level(shares):
    for name, value in shares.items():
        if "image" in name:
            continue
        expected = 0.95 if name.endswith("covers") else 0.05  # neither too bold nor too timid
        assert abs(value - expected) < tolerance(expected), name


def test_image_intervals_and_tests_do_not(shares):
    assert shares["AUROC, image bootstrap, covers"] < 0.92
    assert shares["AUROC, image bootstrap, rejects"] > 0.1
    assert shares["AUROC, DeLong by image, rejects"] > 0.1
