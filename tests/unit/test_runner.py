"""The runner against the training pipeline, over every preprocessing path; what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runner_bundles import LIMIT, SIDE, export, make_bundle, normalization_of, probabilities, trained_network
from test_images import encode, encode_tiff, picture

from archbench.batches import predict_logits
from archbench.bundle_files import write_sums, write_zip
from archbench.image_cache import build_cache, file_sha256, open_cache
from archbench_predict.bundle import BundleError, open_bundle, read_bundle
from archbench_predict.command_line import main
from archbench_predict.description import DescriptionError, describe_steps, described_steps
from archbench_predict.images import Preprocessing
from archbench_predict.predictor import Predictor

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The network for colour and for gray images, exported."""
    folder = tmp_path_factory.mktemp("onnx")
    for channels in (1, 3):
        export(trained_network(channels=channels), folder / f"{channels}.onnx")
    return {channels: folder / f"{channels}.onnx" for channels in (1, 3)}


@pytest.fixture
def bundle(onnx_files: dict[int, Path], tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", onnx_files[3])


def nifti(gray: np.ndarray) -> bytes:
    import nibabel

    return nibabel.Nifti1Image(gray.T, np.eye(4)).to_bytes()


def write_all_encodings(folder: Path) -> dict[str, Path]:
    """One file of every kind that the product reads, in sizes above, below and across the network's input."""
    folder.mkdir()
    framed = np.zeros((90, 120, 3), np.uint8)
    framed[20:70, 30:100] = picture(50, 70)
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = np.dstack([picture(), np.full((40, 60), 255, np.uint8)])
    clear[:, :30, 3] = 100
    deep = (np.arange(2400, dtype=np.uint16) * 20 + 100).reshape(40, 60)
    files = {
        "shrinks.png": encode(picture(70, 50), "PNG"),
        "grows.png": encode(picture(20, 28), "PNG"),
        "across.png": encode(picture(20, 90), "PNG"),
        "framed.png": encode(framed, "PNG"),
        "gray.png": encode(picture(), "PNG", "L"),
        "palette.png": encode(picture(), "PNG", "P"),
        "clear.png": encode(clear, "PNG"),
        "turned.jpg": encode(picture(80, 60), "JPEG", exif=exif),
        "deep.png": encode(deep, "PNG"),
        "deep_colour.tif": encode_tiff(picture().astype(np.uint16) * 257),
        "plane.nii": nifti(picture()[:, :, 1]),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name.split(".")[0]: folder / name for name in files}


def study_cache(folder: Path, files: dict[str, Path], settings: Preprocessing, masks: dict[str, Path]) -> Any:
    """The study's own cache of these files."""
    root = next(iter(files.values())).parent
    made = build_cache(
        cache_dir=folder / "cache",
        root=root,
        case_ids=list(files),
        images=[path.name for path in files.values()],
        sha256s=[file_sha256(path) for path in files.values()],
        preprocessing=settings,
        max_pixels=LIMIT,
        threads=2,
        code="x",
        masks=[os.path.relpath(masks[case], root) if case in masks else None for case in files],
    )
    return open_cache(made)


PATHS = {
    "plain": {},
    "border": {"crop_border": True},
    "CLAHE": {"clahe": 2.0},
    "border and CLAHE": {"crop_border": True, "clahe": 3.0},
    "centre": {"center_crop": 0.875},
    "border and centre": {"crop_border": True, "center_crop": 0.6},
    "gray": {"channels": "gray"},
    "gray and CLAHE": {"channels": "gray", "clahe": 3.0},
    "own intensities": {"intensity": "min_max"},
    "mask crops": {"mask_focus": "crop"},
    "mask blanks": {"mask_focus": "blank", "crop_border": True},
}


@pytest.mark.parametrize("normalization", ["auto", "half"])
@pytest.mark.parametrize("path", PATHS)
def test_every_preprocessing_path_equals_the_training_pipeline(
    path: str, normalization: str, onnx_files: dict[int, Path], tmp_path: Path
) -> None:
    settings = Preprocessing(**{"size": SIDE, "crop_border": False, **PATHS[path]})
    channels = 1 if settings.channels == "gray" else 3
    network = trained_network(channels=channels, normalization=normalization)
    files, masks = write_all_encodings(tmp_path / "images"), {}
    if settings.mask_focus != "none":
        (tmp_path / "masks").mkdir()
        mask = np.zeros((50, 70), np.uint8)
        mask[5:30, 10:60] = 255
        for case in ("shrinks", "gray", "turned"):  # of another size than the image, too
            masks[case] = tmp_path / "masks" / f"{case}.png"
            Image.fromarray(mask).save(masks[case])
    cache = study_cache(tmp_path, files, settings, masks)
    pixels = cache.images if settings.clahe is None else cache.clahe
    expected = predict_logits(network, pixels, np.arange(len(files)), batch_size=4, device=torch.device("cpu"))
    made = make_bundle(tmp_path / "bundle", onnx_files[channels], settings=settings, network=network)
    predictor = Predictor(read_bundle(made), threads=1)
    prepared = [
        predictor.prepare(str(file), str(masks[case]) if case in masks else None) for case, file in files.items()
    ]
    answers = predictor.predict(prepared)
    assert np.ptp(probabilities(expected), axis=0).max() > 0.05, "the images differ in the network's eyes"
    np.testing.assert_allclose(answers.logits, expected, atol=1e-4)
    np.testing.assert_allclose(answers.probabilities, probabilities(expected), atol=1e-4)
    np.testing.assert_allclose(answers.calibrated, probabilities(expected / 2), atol=1e-4)
    for inputs, square in zip(prepared, pixels, strict=True):
        whole = inputs[0] * np.array(normalization_of(network)["std"])[:, None, None]
        whole += np.array(normalization_of(network)["mean"])[:, None, None]
        np.testing.assert_allclose(whole, square.transpose(2, 0, 1), atol=1e-3)


@pytest.mark.parametrize("path", PATHS)
def test_a_description_says_all_of_the_settings(path: str) -> None:
    settings = Preprocessing(**{"size": SIDE, **PATHS[path]})
    described = json.loads(json.dumps(describe_steps(settings, max_pixels=77)))
    assert described_steps(described) == (settings, 77)


CHANGES: list[dict[str, Any]] = [
    {"resize": {"width": 32, "height": 48}},
    {"resize": {"shrinking": "bilinear"}},
    {"crop_border": {"threshold": 20, "pad": 0.05, "share_of_bright_pixels": 0.01}},
    {"clahe": {"clip": 2.0, "tiles": [4, 4], "on": "L of L*a*b*"}},
    {"channels": "bgr"},
    {"decode": {"deeper_than_8_bit": "window"}},
    {"mask": {"focus": "blur", "pad": 0.05}},
    {"sharpen": 2},
]


@pytest.mark.parametrize("change", CHANGES, ids=[next(iter(change)) for change in CHANGES])
def test_a_step_that_the_runner_would_do_otherwise_is_refused(change: dict[str, Any]) -> None:
    described = describe_steps(Preprocessing(size=SIDE), max_pixels=LIMIT)
    for key, value in change.items():
        described[key] = {**described[key], **value} if isinstance(described.get(key), dict) else value
    with pytest.raises(DescriptionError, match="install the runner"):
        described_steps(described)


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    network = trained_network()
    export(network, tmp_path / "fixed.onnx", batch=4)
    predictor = Predictor(read_bundle(make_bundle(tmp_path / "bundle", tmp_path / "fixed.onnx")), threads=1)
    inputs = np.random.default_rng(0).normal(size=(6, 3, SIDE, SIDE)).astype(np.float32)
    with torch.no_grad():
        expected = network.network(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(predictor.member_logits([[one] for one in inputs])[:, 0], expected, atol=1e-4)


def test_a_graph_that_normalises_by_itself_gets_pixels(onnx_files: dict[int, Path], tmp_path: Path) -> None:
    """Mean 0 and deviation 1 stand in for a graph with its normalisation inside: both get pixels 0-255."""
    made = make_bundle(tmp_path / "a", onnx_files[3])
    content = json.loads((made / "bundle.json").read_text())
    content["members"][0] |= {"normalization": {"mean": [0.0] * 3, "std": [1.0] * 3}}
    plain = make_bundle(tmp_path / "b", onnx_files[3], **{**content, "example": content["example"]})
    content["members"][0] |= {
        "input": {"normalized": False, "batch": "dynamic"},
        "normalization": {"mean": [9.0], "std": [5.0]},
    }
    inside = make_bundle(tmp_path / "c", onnx_files[3], **content)
    said = [Predictor(read_bundle(folder), threads=1).example().logits for folder in (plain, inside)]
    np.testing.assert_array_equal(said[0], said[1])


# What is refused


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("file", ["model.onnx", "bundle.json", "example/image.png", "example/expected.json"])
def test_a_modified_bundle_is_refused(file: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bundle, "--check") == 0
    flip(bundle / file)
    assert run(bundle, "--check") == 1
    assert f"{file} is not the file that SHA256SUMS describes" in capsys.readouterr().err


def test_a_modified_zip_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_zip(bundle, tmp_path / "good.zip", name="b")
    assert run(tmp_path / "good.zip", "--check") == 0
    data = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    write_zip(bundle, tmp_path / "bad.zip", name="b")
    assert run(tmp_path / "bad.zip", "--check") == 1
    assert "was modified" in capsys.readouterr().err


def test_equal_bundles_are_equal_zips(bundle: Path, tmp_path: Path) -> None:
    write_zip(bundle, tmp_path / "a.zip", name="b")
    for path in bundle.rglob("*"):
        os.utime(path, (1e9, 1e9))
    write_zip(bundle, tmp_path / "b.zip", name="b")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert "b/SHA256SUMS" in archive.namelist()


def edit(bundle: Path, **changes: Any) -> None:
    content = {**json.loads((bundle / "bundle.json").read_text()), **changes}
    (bundle / "bundle.json").write_text(json.dumps(content))
    write_sums(bundle)


def test_files_that_are_missing_unlisted_or_outside_are_refused(bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"

    def refused(match: str) -> None:
        with pytest.raises(BundleError, match=match), open_bundle(broken):
            pass
        shutil.rmtree(broken, ignore_errors=True)

    refused("no such bundle")
    shutil.copytree(bundle, broken)
    (broken / "SHA256SUMS").unlink()
    refused("no readable SHA256SUMS")
    shutil.copytree(bundle, broken)
    (broken / "model.onnx").unlink()
    refused("lacks model.onnx")
    shutil.copytree(bundle, broken)
    sums = (broken / "SHA256SUMS").read_text().splitlines(keepends=True)
    (broken / "SHA256SUMS").write_text("".join(line for line in sums if "model.onnx" not in line))
    refused("doesn't list model.onnx")
    shutil.copytree(bundle, broken)
    (broken / "SHA256SUMS").write_text(f"{file_sha256(bundle / 'model.onnx')}  ../bundle/model.onnx\n")
    refused("line 1")
    shutil.copytree(bundle, broken)
    edit(broken, format=4)
    refused("format 4")


def test_a_library_that_works_otherwise_is_noticed_by_the_example(
    onnx_files: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_bundle(tmp_path / "bundle", onnx_files[3])
    expected = json.loads((made / "example/expected.json").read_text())["probabilities"]
    shifted = [expected[0] + 2e-4, expected[1] - 2e-4, expected[2]]
    other = make_bundle(tmp_path / "other", onnx_files[3], expected=shifted)
    assert run(other, "--check") == 1
    assert "gives other probabilities here (difference 2.0e-04)" in capsys.readouterr().err


def test_masks_are_asked_for_where_the_networks_know_them(
    onnx_files: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Preprocessing(size=SIDE, mask_focus="crop")
    made = make_bundle(tmp_path / "bundle", onnx_files[3], settings=settings)
    files = write_all_encodings(tmp_path / "images")
    assert run(made, tmp_path / "images", "--out", tmp_path / "x.csv") == 1
    assert "give --masks FOLDER" in capsys.readouterr().err
    (tmp_path / "masks").mkdir()
    mask = np.zeros((70, 50), np.uint8)
    mask[10:30, 10:40] = 1
    Image.fromarray(mask).save(tmp_path / "masks/shrinks.png")
    assert run(made, tmp_path / "images", "--masks", tmp_path / "masks", "--out", tmp_path / "x.jsonl", "--quiet") == 0
    said = {row["case_id"]: row for row in map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())}
    predictor = Predictor(read_bundle(made), threads=1)
    cut = predictor.predict([predictor.prepare(str(files["shrinks"]), str(tmp_path / "masks/shrinks.png"))])
    whole = predictor.predict([predictor.prepare(str(files["shrinks"]))])
    found = list(said["shrinks"]["probabilities"].values())
    np.testing.assert_allclose(found, cut.probabilities[0], atol=1e-6)
    assert np.abs(np.array(found) - whole.probabilities[0]).max() > 1e-4


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "torchvision", "transformers", "archbench", "pandas", "sklearn"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
from archbench_predict.command_line import main
sys.exit(main())
"""


def test_it_installs_and_runs_alone(bundle: Path, tmp_path: Path) -> None:
    """The package alone, put into a folder by pip; torch, timm and archbench can't be imported."""
    shutil.copytree(CHECKOUT / "archbench_predict", tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(tmp_path / "site"), str(tmp_path / "source")], check=True)
    assert (tmp_path / "site/bin/archbench-predict").is_file()
    write_all_encodings(tmp_path / "images")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(bundle), str(tmp_path / "images"), "--out", str(tmp_path / "out.csv")],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "11 of 11 images predicted" in done.stderr
