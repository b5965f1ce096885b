"""Masks of the runner against those of the workflow, over every preprocessing path; what it writes and refuses."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from mask_bundles import CLASSES, dice, export_pixels, make_mask_bundle, pixel_network
from PIL import Image
from runner_bundles import SIDE, peak_mib
from test_images import picture
from test_runner import flip, study_cache, write_all_encodings

from archbench.batches import predict_logits
from archbench.cases import Cases
from archbench.checkpoints import Checkpoint
from archbench.datasets import MaskSettings
from archbench.datasets.mask_slices import convert_pair
from archbench.mask_files import read_mask
from archbench.mask_prediction import predict_masks
from archbench.models.weights import save_weights
from archbench_predict.bundle import BundleError, read_bundle
from archbench_predict.command_line import main
from archbench_predict.images import Preprocessing, decode, preprocess
from archbench_predict.mask_predictor import MaskPredictor
from archbench_predict.scans import SliceSettings, axial
from archbench_predict.source_masks import source_probabilities, tie_gap, to_source

CPU = torch.device("cpu")
PATHS: dict[str, dict[str, Any]] = {
    "plain": {},
    "border": {"crop_border": True},
    "CLAHE": {"clahe": 2.0},
    "centre": {"center_crop": 0.875},
    "border and centre": {"crop_border": True, "center_crop": 0.6},
    "gray": {"channels": "gray"},
    "gray and border": {"channels": "gray", "crop_border": True},
    "own intensities": {"intensity": "min_max"},
}
WINDOW = SliceSettings((-200.0, 500.0), 10**6)


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("pixels")
    return {channels: export_pixels(folder, channels=channels) for channels in (1, 3)}


@pytest.fixture
def bundle(onnx_files: dict[int, Path], tmp_path: Path) -> Path:
    return make_mask_bundle(tmp_path / "bundle", onnx_files[3], pixel_network(channels=3))


@pytest.fixture
def scan_bundle(onnx_files: dict[int, Path], tmp_path: Path) -> Path:
    gray = Preprocessing(size=SIDE, crop_border=False, channels="gray")
    return make_mask_bundle(tmp_path / "scans", onnx_files[1], pixel_network(channels=1), settings=gray, slices=WINDOW)


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "masks.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def workflow_masks(folder: Path, cache: Any, shapes: dict[str, tuple[int, int]], network: Any) -> dict[str, np.ndarray]:
    """The masks that the rule segment would write of these cases."""
    names, n = list(shapes), len(shapes)
    cases = Cases(
        case_ids=np.array(names),
        patient_ids=np.array(names),
        targets=np.zeros((n, 2)),
        sha256=np.array(names),
        lesions={},
        classes=CLASSES,
        labels=CLASSES[1:],
        table_metadata={},
        phantom=False,
        cache=cache,
        parts={(0, "test"): names},
    )
    save_weights(network.network, folder / "w.safetensors")
    one = Checkpoint(0, 1, folder / "w.safetensors")
    made = predict_masks(network, [one], cases, shapes, folder / "masks", batch_size=4, device=CPU)
    return {entry["case"]: read_mask(folder / "masks" / entry["file"]).labels for entry in made}


@pytest.mark.parametrize("path", PATHS)
def test_masks_equal_the_workflows_over_every_preprocessing_path(
    path: str, onnx_files: dict[int, Path], tmp_path: Path
) -> None:
    settings = Preprocessing(**{"size": SIDE, "crop_border": False, **PATHS[path]})
    channels = 1 if settings.channels == "gray" else 3
    network = pixel_network(channels=channels)
    files = write_all_encodings(tmp_path / "images")
    files.pop("plane").unlink()  # NIfTI is a scan here
    if settings.intensity == "full_range":
        files.pop("deep").unlink()  # a ramp: whole lines of it are ties
    cache = study_cache(tmp_path, files, settings, {})
    if settings.clahe is not None:
        cache = cache.__class__(cache.clahe, None, cache.geometry, cache.case_ids, cache.size)
    shapes = {
        name: decode(file.read_bytes(), max_pixels=10**7, intensity="min_max").shape[:2] for name, file in files.items()
    }
    expected = workflow_masks(tmp_path, cache, shapes, network)
    made = make_mask_bundle(tmp_path / "bundle", onnx_files[channels], network, settings=settings)
    assert run(made, tmp_path / "images", "--out", tmp_path / "out", "--batch-size", 3, "--quiet") == 0
    present = set()
    for name, labels in expected.items():
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            found = np.asarray(image)
        assert found.shape == labels.shape == shapes[name]
        assert dice(found, labels) > 1 - 1e-3 and (found != labels).mean() < 1e-3, name
        present |= set(np.unique(found).tolist())
    assert len(present) > 1, "the network says something of these images"


ORIENTATIONS = {"RAS": "RAS", "LPS": "LPS", "PIR": "PIR"}


def write_scan(
    path: Path, axes: str, *, seed: int = 0, shape: tuple[int, int, int] = (30, 40, 5)
) -> nibabel.Nifti1Image:
    """A scan of two bright and dark blocks whose file has its axes in another order, off the world's origin."""
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    rng = np.random.default_rng(seed)
    values = rng.normal(100, 30, shape).astype(np.int16)
    values[5:15, 8:30], values[20:28, 10:20, 2:] = 480, -190
    image = nibabel.Nifti1Image(values, np.array([[0.7, 0, 0, -9], [0, 0.9, 0, 4], [0, 0, 2.5, 7], [0, 0, 0, 1]]))
    turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(axes)))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(turned, path)
    return turned


@pytest.mark.parametrize("window", [(-200.0, 500.0), None])
@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_scans_equal_the_workflows_slice_by_slice(
    axes: str, window: tuple[float, float] | None, onnx_files: dict[int, Path], tmp_path: Path
) -> None:
    network = pixel_network(channels=1)
    settings = Preprocessing(size=SIDE, crop_border=True, channels="gray")
    image = write_scan(tmp_path / "images/a.nii.gz", axes)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), tmp_path / "mask.nii.gz")
    plan = MaskSettings(structures={"bright": (1,), "dark": (2,)}, window=window)
    given = tmp_path / "images/a.nii.gz", tmp_path / "mask.nii.gz"
    rows = convert_pair("a", *given, plan, root=tmp_path, work=tmp_path / "work").rows
    made = make_mask_bundle(
        tmp_path / "bundle", onnx_files[1], network, settings=settings, slices=SliceSettings(window, 10**6)
    )
    assert run(made, tmp_path / "images", "--out", tmp_path / "out", "--quiet") == 0
    mask = nibabel.load(tmp_path / "out/a.nii.gz")
    assert mask.shape == image.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_allclose(mask.affine, image.affine)
    found = axial(np.asarray(mask.dataobj), mask.affine)
    assert len(rows) == found.shape[2] and set(np.unique(found)) == {0, 1, 2}
    for k, row in enumerate(rows):
        pixels = decode((tmp_path / "work" / row.image).read_bytes(), max_pixels=10**6)
        square, _, box = preprocess(pixels, settings)
        logits = predict_logits(network, square[None], np.array([0]), batch_size=1, device=CPU)[0]
        assert (to_source(logits, box=box, shape=pixels.shape[:2]) != found[:, :, k]).mean() < 1e-3
    row = next(row for row in table_of(tmp_path / "out") if row["structure"] == "bright")
    voxels = int((found == 1).sum())
    assert int(row["voxels"]) == voxels and float(row["mm3"]) == pytest.approx(voxels * 0.7 * 0.9 * 2.5)
    assert float(row["ml"]) == pytest.approx(float(row["mm3"]) / 1000) and row["mm2"] == ""


def test_a_metaimage_gets_the_mask_of_the_same_nifti(scan_bundle: Path, tmp_path: Path) -> None:
    import SimpleITK

    image = write_scan(tmp_path / "in/a.nii.gz", "LPS")
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "in/a.nii.gz")), str(tmp_path / "in/b.mha"))
    assert run(scan_bundle, tmp_path / "in", "--out", tmp_path / "out", "--quiet") == 0
    first, second = (nibabel.load(tmp_path / f"out/{name}.nii.gz") for name in "ab")
    np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
    np.testing.assert_allclose(second.affine, image.affine, atol=1e-5)


def test_a_single_slice_keeps_its_shape_and_has_an_area(scan_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = np.asarray(write_scan(tmp_path / "whole.nii", "RAS").dataobj)[:, :, 3:4, None]
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.5, 0.5, 3, 1])), tmp_path / "in/flat.nii")
    assert run(scan_bundle, tmp_path / "in", "--out", tmp_path / "out", "--quiet") == 0
    assert nibabel.load(tmp_path / "out/flat.nii.gz").shape == (30, 40, 1, 1)
    (row,) = [row for row in table_of(tmp_path / "out") if row["structure"] == "bright"]
    assert float(row["mm2"]) == pytest.approx(int(row["voxels"]) * 0.25) and row["mm3"] == row["ml"] == ""


# What is written and what is refused


def write_pictures(folder: Path, n: int) -> None:
    folder.mkdir(parents=True)
    for k in range(n):
        Image.fromarray(np.roll(picture(40, 60), k, axis=0)).save(folder / f"{k:02d}.png")


def test_a_bad_image_is_reported_and_the_rest_go_on(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "in", 9)
    (tmp_path / "in/03.png").write_bytes((tmp_path / "in/03.png").read_bytes()[:200])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4), np.uint8), np.eye(4)), tmp_path / "scan.nii")
    shutil.move(tmp_path / "scan.nii", tmp_path / "in/05.png")
    assert run(bundle, tmp_path / "in", "--out", tmp_path / "out", "--batch-size", 2, "--threads", 2) == 3
    rows = table_of(tmp_path / "out")
    assert [row["case_id"] for row in rows if row["error"]] == ["03", "05"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        f"{k:02d}.png" for k in (0, 1, 2, 4, 6, 7, 8)
    ]
    good = [row for row in rows if row["case_id"] == "00"]
    with Image.open(tmp_path / "out" / good[0]["mask"]) as image:
        labels = np.asarray(image)
    assert [(row["structure"], int(row["label"]), int(row["pixels"])) for row in good] == [
        (name, k, int((labels == k).sum())) for k, name in enumerate(CLASSES[1:], start=1)
    ]
    errors = capsys.readouterr().err
    assert "7 of 9 masks written" in errors and "trained on pictures" in errors and "images 9/9, 2 failed" in errors
    assert not list((tmp_path / "out").glob(".partial*"))


def test_memory_does_not_grow_with_the_number_of_pictures(bundle: Path, tmp_path: Path) -> None:
    """A mask of these pictures is 0.12 MiB, the picture .36: kept, the masks of 250 of them would be 29 MiB."""
    (tmp_path / "few").mkdir()
    for k in range(3):
        Image.fromarray(np.roll(picture(300, 400), 7 * k, axis=0)).save(tmp_path / "few" / f"{k}.png")
    peak = {n: peak_mib(bundle, linked(tmp_path, n), "--out", tmp_path / f"out{n}") for n in (30, 280)}
    assert len(list((tmp_path / "out280").glob("*.png"))) == 280
    assert peak[280] - peak[30] < 12, f"{peak} MiB"


def test_memory_does_not_grow_with_the_number_of_scans(scan_bundle: Path, tmp_path: Path) -> None:
    """The values of such a scan are .9 MiB, its mask .45: kept, 60 of them would be 80 MiB."""
    for k in range(2):
        write_scan(tmp_path / "few" / f"{k}.nii.gz", "LPS", seed=k, shape=(160, 140, 20))
    peak = {n: peak_mib(scan_bundle, linked(tmp_path, n), "--out", tmp_path / f"out{n}") for n in (6, 66)}
    assert len(list((tmp_path / "out66").glob("*.nii.gz"))) == 66
    assert peak[66] - peak[6] < 12, f"{peak} MiB"


def test_a_large_scan_takes_little_more_than_its_values(onnx_files: dict[int, Path], tmp_path: Path) -> None:
    """Of each voxel two bytes of the value and one of the mask; what is checked and counted of them is 1 or 2 more."""
    gray, slices = Preprocessing(size=SIDE, crop_border=False, channels="gray"), SliceSettings((0, 999), 10**8)
    network = pixel_network(channels=1)
    made = make_mask_bundle(tmp_path / "bundle", onnx_files[1], network, settings=gray, slices=slices)
    values, peak = np.random.default_rng(0).integers(0, 2000, (256, 256, 200)).astype(np.int16), {}
    for name, part in (("small", values[:32, :32, :8]), ("large", values)):
        nibabel.save(nibabel.Nifti1Image(part, np.diag([0.7, 0.7, 2, 1])), tmp_path / f"{name}.nii")
        peak[name] = peak_mib(made, tmp_path / f"{name}.nii", "--out", tmp_path / name)
    assert (peak["large"] - peak["small"]) * 2**20 / values.size < 7, f"{peak} MiB"


def linked(folder: Path, n: int) -> Path:
    """A folder of n names for the files in `few`."""
    files, many = sorted((folder / "few").iterdir()), folder / f"many{n}"
    many.mkdir()
    for k in range(n):
        place = files[k % len(files)]
        (many / f"{k:03d}{''.join(place.suffixes)}").symlink_to(place)
    return many


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_the_table_may_be_json(suffix: str, bundle: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 2)
    out, table = tmp_path / "out", tmp_path / f"sizes.{suffix}"
    assert run(bundle, tmp_path / "in", "--out", out, "--table", table, "--quiet") == 0
    text = table.read_text()
    records = json.loads(text) if suffix == "json" else [json.loads(line) for line in text.splitlines()]
    assert [record["mask"] for record in records] == ["00.png", "01.png"] and not (out / "masks.csv").exists()
    assert {name: found["label"] for name, found in records[0]["structures"].items()} == {"bright": 1, "dark": 2}


def test_no_mask_is_overwritten_or_leaves_the_folder(bundle: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 3)
    (tmp_path / "list.csv").write_text("case,image\nA,in/00.png\nA,in/01.png\n../B,in/02.png\nsub/C,in/02.png\n")
    assert run(bundle, tmp_path / "list.csv", "--out", tmp_path / "out", "--quiet") == 3
    errors = {row["case_id"]: row["error"] for row in table_of(tmp_path / "out") if row["error"]}
    assert "another image is called 'A' too" in errors["A"] and "leads out of" in errors["../B"]
    assert (tmp_path / "out/A.png").is_file() and (tmp_path / "out/sub/C.png").is_file()
    assert not (tmp_path / "B.png").exists()


def test_masks_are_not_taken_for_images(bundle: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 3)
    assert run(bundle, tmp_path, "--out", tmp_path / "a/out", "--quiet") == 0
    masks = [path.relative_to(tmp_path / "a/out").as_posix() for path in (tmp_path / "a/out").rglob("*.png")]
    assert sorted(masks) == ["a/00.png", "a/01.png", "a/02.png", "bundle/example/image.png", "bundle/example/mask.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "x.csv"], "masks go into a folder"),
        (["--out", "full"], "not empty"),
        (["--out", "new", "--table", "t.xlsx"], "--table: a name that ends in"),
        (["--out", "new", "--top", "2"], "--top is for bundles of labels"),
        (["--out", "new", "--challenge"], "--challenge"),
        (["--out", "new", "--masks", "m"], "this bundle draws them"),
        (["--out", "new", "--metadata", "m.csv"], "--metadata describes CT volumes"),
    ],
)
def test_what_means_nothing_for_masks_is_refused(
    options: list[str], words: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "in", 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/old.png").touch()
    os.chdir(tmp_path)
    try:
        code = run(bundle, "in", *options)
    except SystemExit as error:
        code = int(str(error.code)) - 1
    assert code == 1 and words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("file", ["model.onnx", "bundle.json", "example/mask.png"])
def test_a_modified_bundle_is_refused(file: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bundle, "--check") == 0
    flip(bundle / file)
    assert run(bundle, "--check") == 1
    assert f"{file} is not the file that SHA256SUMS describes" in capsys.readouterr().err


def test_slices_that_the_runner_would_cut_otherwise_are_refused(scan_bundle: Path) -> None:
    from archbench.bundle_files import write_sums

    content = json.loads((scan_bundle / "bundle.json").read_text())
    content["slices"]["gray"]["levels"] = 1024
    (scan_bundle / "bundle.json").write_text(json.dumps(content))
    write_sums(scan_bundle)
    with pytest.raises(BundleError, match="install the runner"):
        read_bundle(scan_bundle)


def test_another_answer_to_the_example_is_noticed(bundle: Path) -> None:
    from archbench.bundle_files import write_sums

    with Image.open(bundle / "example/mask.png") as image:
        labels = np.array(image)
    labels[20:40, 20:40] = (labels[20:40, 20:40] + 1) % 3
    Image.fromarray(labels).save(bundle / "example/mask.png")
    write_sums(bundle)
    with pytest.raises(BundleError, match="gives another mask here"):
        MaskPredictor(read_bundle(bundle), threads=1).check_example()


def test_masks_of_close_probabilities_differ_at_ties_alone() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 16, 16)).astype(np.float32)
    near = logits + rng.uniform(-1e-3, 1e-3, logits.shape).astype(np.float32)
    box, shape = (0, 0, 40, 40), (40, 40)
    first = source_probabilities(logits, box)
    assert (
        tie_gap(first, to_source(near, box=box, shape=shape))
        < 2 * np.abs(first - source_probabilities(near, box)).max()
    )
    assert tie_gap(first, to_source(logits, box=box, shape=shape)) == 0
    assert tie_gap(first, np.zeros(shape, np.uint8)) > 0.3
