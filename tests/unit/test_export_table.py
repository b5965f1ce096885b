"""The report's table of exports: one row a precision, what failed its gate struck through, with its figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_fixtures import write_study
from synthetic_study import MODELS, SyntheticStudy

from archbench.artifacts import read_json, write_json
from archbench.report.collect import collect_study
from archbench.report.cost_tables import parity_table

QUALITY = {"metric": "qwk", "difference": -0.042, "low": -0.083, "high": -0.007, "flips": 4, "n_decisions": 60}
BATCHES = [{"batch_size": b, "max_abs_difference": 2.4e-6, "passed": True} for b in (1, 2, 3, 8)]
FP32 = {"precision": "fp32", "rung": "dynamo", "status": "passed", "reason": None, "bytes": 2**20, "quality": None}
INT8 = {"precision": "int8", "rung": "dynamo", "status": "failed", "bytes": 2**18, "quality": QUALITY}
NONE = {"precision": "fp32", "rung": "torchscript", "status": "unsupported", "bytes": 0, "parity": None}


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """Two models: one whose int8 failed, one that no rung exported."""
    configuration, results = write_study(tmp_path, SyntheticStudy(label="exports", n_patients=30, gradcam=False))
    variants = [{**FP32, "parity": {"batches": BATCHES}}, {**INT8, "parity": {"batches": BATCHES}, "reason": "too low"}]
    none = [{**NONE, "reason": "no exporter served"}]
    for model, found in zip(list(MODELS)[:2], (variants, none), strict=True):
        path = results / "fundus" / model / "export.json"
        write_json(path, {**read_json(path), "variants": found, "passed": found[0]["status"] == "passed"})
    return collect_study(configuration=configuration, results=results)


def test_what_failed_is_struck_through_and_what_is_unsupported_is_not_left_out(study: Any) -> None:
    table = parity_table(study.datasets[0])
    assert table is not None
    passed, failed, unsupported = table.rows[:3]
    assert [row[0].tone for row in (passed, failed, unsupported)] == ["", "struck", "struck"]
    assert [row[1].text for row in (passed, failed, unsupported)] == ["fp32", "int8", "fp32"]
    assert [(row[-1].text, row[-1].sub) for row in (passed, failed, unsupported)] == [
        ("passed", ""),
        ("failed", "too low"),
        ("unsupported", "no exporter served"),
    ]
    assert failed[-3].text == "-0.042" and failed[-3].sub == "-0.083 to -0.007" and failed[-2].text == "4 of 60"
    assert unsupported[2].reason == "there is no file"
    assert len(table.rows) > 3 and table.rows[3][1].text == "fp32", "an account without variants is one fp32 file"
