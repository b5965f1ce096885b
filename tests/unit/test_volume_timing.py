"""Seconds per volume: from the file through Hounsfield units and slices to the logits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from archbench.datasets.phantom_ct import write_nifti
from archbench.inference_timing.contender import END_TO_END, Call
from archbench.inference_timing.decoding import make_end_to_end
from archbench.inference_timing.engines import normalizer
from archbench.inference_timing.result import describe
from archbench.inference_timing.rounds import Measurement
from archbench.inference_timing.work import count_work
from archbench.models.building import build_network
from archbench.report.timing import volume_sentence
from archbench_predict.volumes import VolumeSettings, prepare_volume, read_volume

GIVEN = {"strategy": "all", "count": 5, "spacing_mm": None, "size": 24, "rescale": "auto"}


def spec_of(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    files = []
    for k in range(2):
        units = np.full((11, 32, 32), -1000, np.int16)
        units[:, 6:26, 6:26] = rng.integers(-100, 200, size=(11, 20, 20))
        write_nifti(folder / f"{k}.nii.gz", units, spacing_mm=(5.0, 2.0, 2.0))
        files.append([str(folder / f"{k}.nii.gz"), None if k else {"spacing_mm": [5.0, 2.0, 2.0]}])
    return {"threads": 1, "files": files, "preprocessing": {}, "volume": GIVEN, "max_pixels": 10**6}


def test_the_end_to_end_regime_sees_what_the_cache_of_volumes_holds(tmp_path: Path) -> None:
    seen: list[np.ndarray] = []
    spec = spec_of(tmp_path)
    call = make_end_to_end(SimpleNamespace(answer=seen.append), spec)  # type: ignore[arg-type]
    for _ in range(3):
        total, decoded, prepared = call()
        assert total >= decoded + prepared > 0
    for slices, (file, _) in zip(seen, [*spec["files"], spec["files"][0]], strict=True):
        expected = prepare_volume(read_volume(file), VolumeSettings("all", 5), size=24)
        np.testing.assert_array_equal(slices, expected[None])
        assert slices.dtype == np.int16


@pytest.mark.parametrize(("kind", "dtype"), [("tensor(float)", np.float32), ("tensor(int16)", np.int16)])
def test_volumes_go_into_a_runtime_in_hounsfield_units(kind: str, dtype: type) -> None:
    volumes = np.random.default_rng(0).integers(-1000, 400, size=(2, 5, 8, 8)).astype(np.int16)
    spec = {"mean": [0.0], "std": [1.0], "normalized": dtype is np.float32}
    given = normalizer(spec, kind)(volumes)
    assert given.dtype == dtype
    np.testing.assert_array_equal(given, volumes)


def test_seconds_are_those_of_the_regime_and_the_report_says_them() -> None:
    calls = [
        Call(model, "onnxruntime", 1, k, base + k, regime=END_TO_END, decode_ms=1.0, preprocess_ms=1.0)
        for model, base in (("slices", 400.0), ("pictures", 4.0))
        for k in range(9)
    ]
    measurement = Measurement(calls=calls, running=[], kept=list(range(9)), isolation={}, energy=[], energy_sources={})
    models: dict[str, dict[str, Any]] = {"slices": {"slices": 12}, "pictures": {}}
    found = describe(measurement, models=models, headline="onnxruntime", confidence=0.95)
    (row,) = found["seconds_per_volume"]
    assert row["model"] == "slices" and row["slices"] == 12
    assert row["median"] == pytest.approx(0.404) and row["low"] < 0.404 < row["high"]
    sentence = volume_sentence(SimpleNamespace(timing=found))  # type: ignore[arg-type]
    assert "A volume here has 12 slices" in sentence and "slices in ONNX Runtime 0.404\u00a0s" in sentence
    assert volume_sentence(SimpleNamespace(timing=None)) == ""  # type: ignore[arg-type]


def test_the_work_of_a_volume_is_that_of_its_slices() -> None:
    volume = {"hu_window": [-1000, 400], "slices": 6, "pooling": "mean", "slice_input": "triplet"}
    one = count_work(build_network("custom1", num_classes=2, image_size=32))
    six = count_work(build_network("custom1", num_classes=2, image_size=32, volume=volume))
    head = 320 * 2 / 1e9  # once, not six times
    assert six["gmacs"] == pytest.approx(6 * (one["gmacs"] - head) + head, rel=1e-6)
