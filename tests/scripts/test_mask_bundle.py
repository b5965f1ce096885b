"""Masks by the real scripts, from scans or pictures to a bundle that draws the study's masks again, without torch."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from archbench.artifacts import read_json, read_table, write_json
from archbench.batches import to_batch
from archbench.bundle_network import BundleFailure
from archbench.config import parse_study
from archbench.image_cache import ImageCache, open_cache
from archbench.mask_files import read_mask
from archbench.models.building import build_network
from archbench.models.weights import save_weights
from archbench_predict.command_line import main as predict_images
from archbench_predict.scans import axial
from scripts import bundle_masks, cache_images, export_onnx, prepare_dataset, score_masks, segment

N, SIDE = 10, 32


def draw_scans(folder: Path) -> dict[str, Any]:
    """Scans of five slices with a bright block, every second one with its axes turned; their masks."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for k in range(N):
        rng = np.random.default_rng(k)
        values, mask = rng.normal(0, 40, (36, 44, 5)).astype(np.int16), np.zeros((36, 44, 5), np.uint8)
        mask[6 + k : 18 + k, 8:30, 1:] = 7
        values[mask > 0] += 400
        affine = np.diag([-0.8, -0.8, 3.0, 1.0] if k % 2 else [0.8, 0.8, 3.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / "images" / f"case{k}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, affine), folder / "masks" / f"case{k}.nii.gz")
    return {"structures": {"block": [7]}, "window": [-200, 600]}


def draw_pictures(folder: Path) -> dict[str, Any]:
    """Colour pictures in a black frame with a bright block; their masks."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for k in range(N):
        rng = np.random.default_rng(k)
        pixels, mask = np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80), np.uint8)
        pixels[8:52, 10:70] = rng.integers(40, 90, (44, 60, 3))
        mask[14 + k : 34 + k, 20:50] = 1
        pixels[mask > 0] += 150
        Image.fromarray(pixels).save(folder / "images" / f"case{k}.png")
        Image.fromarray(mask).save(folder / "masks" / f"case{k}.png")
    return {"structures": {"block": [1]}}


class Study:
    """A finished study of one network, file by file as the rules would have it.

    Args:
        taught: Whether the network has learned the masks; otherwise its answers are arbitrary, but certain.
        precisions: It is exported in.
    """

    def __init__(
        self, folder: Path, plan: dict[str, Any], *, taught: bool = False, precisions: tuple[str, ...] = ("fp32",)
    ) -> None:
        self.folder, gray = folder, "window" in plan
        self.study = parse_study(
            {
                "study": "s",
                "datasets": {
                    "d": {
                        "format": "image_masks", "root": str(folder / "data"), "images": "images", "masks": "masks",
                        "task": "segmentation", "segmentation": plan,
                        "preprocessing": {"crop_border": not gray, "channels": "gray" if gray else "rgb"},
                    }
                },
                "models": {"unet": {"architecture": "unet", "image_size": SIDE}},
                "protocol": {"kind": "holdout", "seeds": [3]},
                "evaluation": {"resamples": 200, "comparison_resamples": 200},
                "audit": {"near_duplicates": "off"},
                "inference": {"precisions": list(precisions), "non_inferiority_margin": 0.1},
            }
        )  # fmt: skip
        write_json(folder / "study.json", self.study.model_dump())
        tables = [part for name in ("manifest", "folds") for part in (f"--{name}", folder / f"{name}.parquet")]
        work = ["--work-dir", folder / "work"]
        self.call(prepare_dataset, *tables, "--audit", folder / "audit.json", *work, model=False)
        cache = ["--size", SIDE, "--cache-dir", folder / "cache", "--output", folder / "images.json"]
        self.call(cache_images, "--manifest", folder / "manifest.parquet", *cache, model=False)
        torch.manual_seed(0)
        network = build_network(**self.study.network_of("unet", "d"), num_classes=2)
        if taught:
            teach(network, open_cache(folder / "images.json"))
        else:
            with torch.no_grad():  # so that the masks are no matter of rounding
                for module in network.modules():
                    if isinstance(module, torch.nn.Conv2d) and module.out_channels == 2:
                        module.weight.mul_(300)
        save_weights(network.network, folder / "best.safetensors", {})
        data = [*tables, "--cache", folder / "images.json", "--checkpoint", f"0:3:{folder / 'best.safetensors'}"]
        self.call(segment, *data, "--output", folder / "masks")
        self.call(export_onnx, *data, "--output", folder / "model.onnx", "--account", folder / "export.json")
        given = ["--models", "unet", "--masks", folder / "masks", "--manifest", folder / "manifest.parquet"]
        self.call(score_masks, *given, "--audit", folder / "audit.json", "--output", folder / "scores", model=False)

    def call(self, script: Any, *arguments: Any, model: bool = True) -> None:
        common = ["--study", self.folder / "study.json", "--dataset", "d", "--code", "c"]
        common += ["--model", "unet"] if model else []
        assert script.main([str(part) for part in (*common, *arguments)]) == 0

    def bundle(self, folder: Path, precision: str = "fp32") -> Path:
        files = {"account": "export.json", "cache": "images.json", "masks": "masks", "scores": "scores"}
        files |= {"manifest": "manifest.parquet", "audit": "audit.json"}
        given = [part for name, file in files.items() for part in (f"--{name}", self.folder / file)]
        written = ["--output", folder / "bundle", "--zip", folder / "bundle.zip"]
        self.call(bundle_masks, *given, *written, "--precision", precision)
        return folder / "bundle.zip"


def teach(network: torch.nn.Module, cache: ImageCache) -> None:
    """Some steps on all images of a cache."""
    assert cache.masks is not None
    images = to_batch(cache.images, np.arange(len(cache.images)), torch.device("cpu"))
    targets = torch.from_numpy(np.array(cache.masks)).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    network.train()
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), targets).backward()
        optimizer.step()
    network.eval()


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("scans")
    study = Study(folder, draw_scans(folder / "data"))
    study.bundle(folder)
    return study


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("pictures")
    study = Study(folder, draw_pictures(folder / "data"), taught=True, precisions=("fp32", "int8", "fp16"))
    study.bundle(folder)
    return study


@pytest.fixture(params=["scans", "pictures"])
def finished(request: pytest.FixtureRequest) -> Study:
    study: Study = request.getfixturevalue(request.param)
    return study


def test_a_bundle_draws_the_studys_masks(finished: Study, tmp_path: Path) -> None:
    """In a process that can import neither torch nor archbench."""
    program = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'timm', 'monai', 'archbench', 'pandas', 'sklearn'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "from archbench_predict.command_line import main\n"
        "sys.exit(main())\n"
    )
    images = finished.folder / "data/images"
    done = subprocess.run(
        [sys.executable, "-c", program, str(finished.folder / "bundle.zip"), str(images), "--out", str(tmp_path / "o")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    index = read_json(finished.folder / "masks/index.json")["masks"]
    assert index and f"{N} of {N} masks written" in done.stderr
    sizes = []
    for entry in index:
        meant = read_mask(finished.folder / "masks" / entry["file"]).labels
        said = runner_mask(tmp_path / "o", entry["case"])
        assert said.shape == meant.shape and (said != meant).mean() < 1e-3
        sizes.append((meant > 0).mean())
    assert 0 < np.mean(sizes) < 1, "the network draws something"
    with (tmp_path / "o/masks.csv").open() as file:
        assert {row["structure"] for row in csv.DictReader(file)} == {"block"}


def runner_mask(out: Path, case: str) -> np.ndarray:
    """What the runner drew of a case of the study: a picture, or a slice of a scan."""
    place = Path(case)
    if place.parent.parent.name != "images":  # images/case0.png
        with Image.open(out / f"{place.stem}.png") as image:
            return np.asarray(image)
    mask = nibabel.load(out / f"{place.parent.name}_0000.nii.gz")  # images/case0/0003.png
    return axial(np.asarray(mask.dataobj), mask.affine)[:, :, int(place.stem)]


def test_the_bundle_says_what_it_is(finished: Study) -> None:
    content = read_json(finished.folder / "bundle/bundle.json")
    scans = content["slices"] is not None
    assert content["format"] == 3 and content["classes"] == ["background", "block"] and content["outputs"] == "masks"
    assert content["example"]["image"].endswith(".nii.gz" if scans else ".png"), "drawn: no patient's image leaves"
    table, _ = read_table(finished.folder / "manifest.parquet")
    assert scans == ("volume" in table.column_names)
    card = (finished.folder / "bundle/MODEL_CARD.md").read_text()
    summary = read_json(finished.folder / "scores/summary.json")["models"]["unet"]
    value = summary["structures"]["block"]["dice"]
    assert f"| **dice** | {value['value']:.3f} | {value['low']:.3f} to {value['high']:.3f} |" in card
    for words in ("| block | 1 |", "random: no others' weights", "SHA-256", "not a medical device", "largest diff"):
        assert words in card
    for warning in read_json(finished.folder / "scores/summary.json")["warnings"]:
        assert warning in card
    assert ("values below -200 black, above 600 white" in card) == scans
    n = read_json(finished.folder / "audit.json")["n_cases"]
    assert f"{n} {'slices' if scans else 'images'} of {N} patients" in card
    assert ("hold for scans like" in card) == ("drew these slices" in card) == ("BUNDLE scans/" in card) == scans
    assert ("BUNDLE images/" in card) != scans


def test_a_bundle_of_another_network_is_refused(finished: Study, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "copy")
    moved = Study.__new__(Study)
    moved.folder, moved.study = tmp_path / "copy", finished.study
    for file in (tmp_path / "copy/masks").glob("*.png"):
        with Image.open(file) as image:
            Image.fromarray(1 - np.asarray(image)).save(file)
    with pytest.raises(BundleFailure, match="run the export and segment again"):
        moved.bundle(tmp_path / "out")
    assert not (tmp_path / "out/bundle").exists()


def test_images_that_changed_since_are_refused(finished: Study, tmp_path: Path) -> None:
    place = finished.folder / "data/images"
    kept = {file: file.read_bytes() for file in place.iterdir()}
    try:
        for file in kept:
            change(file)
        with pytest.raises(BundleFailure, match="source files have changed"):
            finished.bundle(tmp_path)
    finally:
        for file, data in kept.items():
            file.write_bytes(data)


def change(file: Path) -> None:
    if file.suffix == ".png":
        with Image.open(file) as image:
            pixels = np.asarray(image)
        Image.fromarray(np.where(pixels > 0, pixels - 9, 0).astype(np.uint8)).save(file)
        return
    image = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) + np.int16(50), image.affine), file)


def test_the_expected_mask_is_checked_in_the_zip(finished: Study) -> None:
    assert predict_images([str(finished.folder / "bundle.zip"), "--check"]) == 0
    expected = json.loads((finished.folder / "bundle/example/expected.json").read_text())
    assert sum(expected["probabilities"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_lower_precision_is_bundled_with_its_cost(pictures: Study, precision: str, tmp_path: Path) -> None:
    variants = {found["precision"]: found for found in read_json(pictures.folder / "export.json")["variants"]}
    exact, lower = variants["fp32"], variants[precision]
    assert lower["status"] == "passed", lower["reason"]
    assert lower["quality"]["metric"] == "dice" and lower["quality"]["reference"] > 0.8, "the network has learned"
    assert lower["bytes"] < 0.6 * exact["bytes"]
    (found,) = [entry for entry in lower["parity"]["batches"] if entry["batch_size"] == 1]
    assert found["passed"] is None and found["max_abs_difference"] > exact["parity"]["batches"][0]["max_abs_difference"]
    pictures.bundle(tmp_path, precision)
    bundle = tmp_path / "bundle"
    assert read_json(bundle / "bundle.json")["members"][0]["precision"] == precision
    assert (bundle / "model.onnx").read_bytes() == (pictures.folder / lower["file"]).read_bytes()
    assert predict_images([str(tmp_path / "bundle.zip"), "--check"]) == 0
    images = str(pictures.folder / "data/images")
    assert predict_images([str(tmp_path / "bundle.zip"), images, "--out", str(tmp_path / "masks"), "--quiet"]) == 0
    cases = read_json(pictures.folder / "masks/index.json")["masks"]
    said = [runner_mask(tmp_path / "masks", entry["case"]) for entry in cases]
    meant = [read_mask(pictures.folder / "masks" / entry["file"]).labels for entry in cases]
    overlaps = [
        2 * ((a > 0) & (b > 0)).sum() / ((a > 0).sum() + (b > 0).sum()) for a, b in zip(said, meant, strict=True)
    ]
    assert np.mean(overlaps) > 0.95, "it draws what fp32 draws"
    differing = sum(int((a != b).sum()) for a, b in zip(said, meant, strict=True))
    row = f"| unet | {len(cases)} | {sum(a.size for a in said)} | {differing} | {np.mean(overlaps):.6f} |"
    assert row in (bundle / "MODEL_CARD.md").read_text()


def test_a_precision_that_is_not_there_or_failed_its_gate_is_not_bundled(pictures: Study, tmp_path: Path) -> None:
    account = read_json(pictures.folder / "export.json")
    kept = account["variants"]
    failed = {**kept[1], "status": "failed", "reason": "dice 0.700 against 0.970 of torch"}
    try:
        write_json(pictures.folder / "export.json", {**account, "variants": [kept[0], failed]})
        with pytest.raises(BundleFailure, match=r"unet in int8 is not fit to be deployed.*dice 0\.700 against"):
            pictures.bundle(tmp_path, "int8")
        with pytest.raises(BundleFailure, match=r"not exported in fp16 \(there is fp32 \(passed\), int8 \(failed\)\)"):
            pictures.bundle(tmp_path, "fp16")
    finally:
        write_json(pictures.folder / "export.json", account)
    assert not (tmp_path / "bundle").exists()
