"""New volumes through a bundle: prepared as the study's were, answered as challenges ask, faults named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runner_bundles import write_content
from volume_trees import SPACING, save_nifti, save_slices, small_chest

from archbench.bundle_files import Images, add_example, library_versions, read_images, write_expected, write_sums
from archbench_predict.bundle import BundleError, read_bundle
from archbench_predict.command_line import main
from archbench_predict.description import DescriptionError
from archbench_predict.hounsfield import Declared
from archbench_predict.predictor import Predictor
from archbench_predict.volume_description import VolumePreparation, describe_volume_steps, described_volume_steps
from archbench_predict.volumes import VolumeSettings, prepare_volume, read_volume

LABELS = ("Cardiomegaly", "Emphysema", "Lung nodule")
PREPARATION = VolumePreparation(VolumeSettings("multi", 4), 16)


class MeanUnits(torch.nn.Module):
    """Logits that are sums over parts of a volume: what is fed can be read off the answer."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        units = images.float() / 1000
        return torch.stack([units.mean(dim=(1, 2, 3)), units[:, 0].mean(dim=(1, 2)), units[:, -1].mean(dim=(1, 2))], 1)


def export(path: Path, dtype: torch.dtype) -> None:
    program = torch.onnx.export(
        MeanUnits().eval(),
        (torch.zeros(2, 4, 16, 16, dtype=dtype),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)


@pytest.fixture(scope="module", params=[torch.int16, torch.float32], ids=["int16", "float32"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    export(folder / "model.onnx", request.param)
    example = add_example(folder, None, Images(folder, {}, {}), size=16, masked=False, volume=True)
    member = {
        "name": "chest",
        "file": "model.onnx",
        "precision": "fp32",
        "input": {"normalized": request.param != torch.int16, "batch": "dynamic"},
        "preprocessing": describe_volume_steps(PREPARATION, max_voxels=1_000_000),
        "normalization": {"of": "Hounsfield units, left to the network", "mean": [0.0], "std": [1.0]},
    }
    content = {
        "format": 1,
        "name": "chest",
        "outputs": "labels",
        "logits": list(LABELS),
        "classes": [],
        "labels": list(LABELS),
        "decision": "threshold",
        "members": [member],
        "combination": {"kind": "single"},
        "calibration": {"method": "none"},
        "thresholds": {"log_odds": [0.0, 0.0, 0.0]},
        "example": example,
        "versions": library_versions(),
    }
    write_content(folder, content)
    write_expected(folder)
    write_sums(folder)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for patient in (1, 2):
        save_nifti(folder / f"train_{patient}_a_1.nii.gz", small_chest(seed=patient), axes="LPS")
    save_slices(folder / "train_3_a_1", small_chest(seed=3))
    return folder


def expected_logits(volume: Path, **options: Any) -> np.ndarray:
    units = prepare_volume(read_volume(volume, **options), PREPARATION.settings, size=16) / 1000.0
    return np.array([units.mean(), units[0].mean(), units[-1].mean()])


def test_volumes_are_prepared_as_the_cache_prepares_them(bundle: Path, scans: Path) -> None:
    predictor = Predictor(read_bundle(bundle), threads=1)
    assert predictor.check_example() < 1e-6
    for place in (scans / "train_1_a_1.nii.gz", scans / "train_3_a_1" / "slices.csv"):
        logits = predictor.predict([predictor.prepare(str(place))]).logits[0]
        np.testing.assert_allclose(logits, expected_logits(place), atol=1e-5)


def test_challenge_files_hold_every_volume_that_could_be_read(bundle: Path, scans: Path, tmp_path: Path) -> None:
    broken = tmp_path / "train_9_a_1.nii.gz"
    broken.write_bytes(b"no volume")
    out = tmp_path / "challenge.json"
    assert main([str(bundle), str(scans), str(broken), "--out", str(out), "--challenge", "--quiet"]) == 3
    found = json.loads(out.read_text())
    names = ["train_1_a_1.nii.gz", "train_2_a_1.nii.gz", "train_3_a_1"]
    assert [entry["input_image_name"] for entry in found] == names
    for entry, place in zip(found, (names[0], names[1], "train_3_a_1/slices.csv"), strict=True):
        assert set(entry) == {"input_image_name", "probabilities"} and tuple(entry["probabilities"]) == LABELS
        said = 1 / (1 + np.exp(-expected_logits(scans / place)))
        np.testing.assert_allclose(list(entry["probabilities"].values()), said, atol=1e-5)


def test_the_likeliest_findings_are_named_in_order(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("out.json", "out.csv"):
        assert main([str(bundle), str(scans), "--out", str(tmp_path / name), "--top", "2"]) == 0
        said = capsys.readouterr().err
        assert "3 of 3 volumes predicted" in said and "volumes 3/3, " in said and "images" not in said
    for record in json.loads((tmp_path / "out.json").read_text()):
        ordered = sorted(record["probabilities"].items(), key=lambda pair: -pair[1])[:2]
        assert [(found["label"], found["probability"]) for found in record["top"]] == ordered
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case_id"] for row in rows] == ["train_1_a_1", "train_2_a_1", "train_3_a_1"]
    assert rows[0]["top"].count(";") == 1 and rows[0]["top"].split(" 0.")[0] in LABELS


def test_stored_values_need_their_slope_and_are_never_guessed(bundle: Path, tmp_path: Path) -> None:
    raw = save_nifti(tmp_path / "train_1_a_1.nii.gz", small_chest() + 1024)
    out, table = tmp_path / "out.jsonl", tmp_path / "metadata.csv"
    assert main([str(bundle), str(raw), "--out", str(out), "--quiet"]) == 3
    assert "look like stored ones" in json.loads(out.read_text())["error"]
    table.write_text("VolumeName,RescaleSlope,RescaleIntercept\ntrain_1_a_1.nii.gz,1,-1024\n")
    assert main([str(bundle), str(raw), "--out", str(out), "--metadata", str(table), "--quiet"]) == 0
    said = json.loads(out.read_text())["probabilities"]
    expected = expected_logits(raw, declared=Declared(1.0, -1024.0))
    np.testing.assert_allclose(list(said.values()), 1 / (1 + np.exp(-expected)), atol=1e-5)


def test_options_without_effect_and_bad_tables_are_refused(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "metadata.csv"
    table.write_text("VolumeName,ZSpacing,XYSpacing\nv.nii.gz,five,1\n")
    common = [str(bundle), str(scans), "--out", str(tmp_path / "o.json"), "--quiet"]
    assert main([*common, "--metadata", str(table)]) == 1
    assert "line 2: ZSpacing 'five' is no number" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*common, "--challenge", "--top", "2"])
    with pytest.raises(SystemExit):
        main([str(bundle), str(scans), "--out", str(tmp_path / "o.csv"), "--challenge"])
    assert main([str(bundle), str(tmp_path), "--out", str(tmp_path / "o.json")]) == 1
    assert "no volume found" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["multi", "anatomical", "all", "best"])
@pytest.mark.parametrize("spacing", [None, (1.5, 0.75, 0.75)])
def test_a_description_says_all_and_is_read_back(strategy: str, spacing: tuple[float, float, float] | None) -> None:
    settings = VolumeSettings(strategy, 5, spacing)
    described = json.loads(json.dumps(describe_volume_steps(VolumePreparation(settings, 64, "never"), max_voxels=7)))
    found, limit = described_volume_steps(described)
    assert (found.settings.depth, found.settings.spacing_mm, found.size, found.rescale, limit) == (
        *(settings.depth, spacing, 64, "never"),
        7,
    )
    assert describe_volume_steps(found, max_voxels=7) == described


def test_a_description_that_this_code_does_not_do_is_refused(bundle: Path, tmp_path: Path) -> None:
    described = describe_volume_steps(PREPARATION, max_voxels=7)
    for change in ({"between_slices": "cubic"}, {"smooth": 3}, {"slices": {"strategy": "random", "count": 4}}):
        with pytest.raises(DescriptionError):
            described_volume_steps({**described, **change})
    content = json.loads((bundle / "bundle.json").read_text())
    content["members"][0]["preprocessing"]["between_slices"] = "cubic"
    other = tmp_path / "other"
    other.mkdir()
    for name in ("model.onnx", "bundle.json"):
        (other / name).write_bytes((bundle / name).read_bytes())
    content["example"] = {}
    write_content(other, content)
    with pytest.raises(BundleError, match="between_slices"):
        read_bundle(other)


def test_what_the_manifest_declares_reaches_the_check(tmp_path: Path) -> None:
    import pyarrow as pa

    facts = json.dumps({"slope": 1.0, "intercept": -1024.0, "spacing_mm": list(SPACING)})
    table = pa.table({"case_id": ["a", "b"], "image": ["a.nii", "b.nii"], "declared": [facts, None]})
    images = read_images(table, str(tmp_path))
    assert images.declared == {"a": Declared(1.0, -1024.0, SPACING)}
