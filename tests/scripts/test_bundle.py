"""From trained weights to a bundle by the real scripts, and back: the bundle repeats the study's predictions."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from archbench.artifacts import read_json, read_predictions, softmax, write_json, write_table
from archbench.bundle_network import BundleFailure
from archbench.config import parse_study
from archbench.models.building import build_network
from archbench.models.weights import save_weights
from archbench_predict.bundle import read_fits
from archbench_predict.command_line import main as predict_images
from scripts import bundle, cache_images, calibrate, ensemble, evaluate, export_onnx, predict

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))
from tiny_cases import CLASSES, FOLDS, N, split_of

MODELS = {"small": 32, "large": 48}
SEED = 3


class Desk:
    """A finished study of two models on a few pictures, file by file as the rules would have it."""

    def __init__(self, folder: Path, **preprocessing: Any) -> None:
        self.folder = folder
        self.study = parse_study(
            {
                "study": "desk",
                "datasets": {
                    "eyes": {
                        "format": "table",
                        "root": str(folder / "images"),
                        "csv": "t.csv",
                        "classes": list(CLASSES),
                        "preprocessing": preprocessing,
                    }
                },
                "models": {name: {"architecture": "custom1", "image_size": size} for name, size in MODELS.items()},
                "protocol": {"folds": FOLDS, "seeds": [SEED]},
                "evaluation": {"resamples": 200, "comparison_resamples": 200},
            },
            check_files=False,
        )
        write_json(folder / "study.json", self.study.model_dump())
        self._draw()
        for model in MODELS:
            self._finish(model)
        self._combine()

    def call(self, script: Any, *arguments: Any, model: str | None = None) -> None:
        common = ["--study", self.folder / "study.json", "--dataset", "eyes", "--code", "c"]
        common += ["--model", model] if model else []
        assert script.main([str(part) for part in (*common, *arguments)]) == 0

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    def _draw(self) -> None:
        from archbench.image_cache import file_sha256

        generator, root = np.random.default_rng(0), self.path("images")
        root.mkdir()
        names = [f"case{k:02d}" for k in range(N)]
        for k, name in enumerate(names):
            pixels = np.zeros((70, 90, 3), np.uint8)
            pixels[10:60, 15:80] = generator.integers(30 + 60 * (k % 3), 120 + 60 * (k % 3), size=(50, 65, 3))
            Image.fromarray(pixels).save(root / f"{name}.png")
        manifest = {
            "case_id": names,
            "patient_id": [f"patient{k // 2:02d}" for k in range(N)],
            "image": [f"{name}.png" for name in names],
            "sha256": [file_sha256(root / f"{name}.png") for name in names],
            "target_grade": pa.array([k % 3 for k in range(N)], pa.int8()),
            "lesions": pa.array([None] * N, pa.string()),
        }
        kind = {"classes": list(CLASSES), "labels": ["grade"], "phantom": False, "root": str(root)}
        write_table(self.path("manifest.parquet"), pa.table(manifest), kind)
        rows = [(c, f"patient{k // 2:02d}", f, split_of(k // 2, f)) for f in range(FOLDS) for k, c in enumerate(names)]
        columns = dict(zip(("case_id", "patient_id", "fold", "split"), map(list, zip(*rows, strict=True)), strict=True))
        write_table(self.path("folds.parquet"), pa.table(columns), {})
        audit = {
            "phantom": False,
            "n_cases": N,
            "n_patients": N // 2,
            "n_dropped": 0,
            "classes": [{"name": name, "n_cases": N // 3, "n_patients": N // 3} for name in CLASSES],
            "warnings": ["one camera | only"],
        }
        write_json(self.path("audit.json"), audit)
        for size in set(MODELS.values()):
            self.call(
                cache_images, "--manifest", self.path("manifest.parquet"), "--size", size, "--cache-dir",
                self.path("cache"), "--output", self.path(f"images-{size}.json"),
            )  # fmt: skip

    def export(self, model: str, out: Path, *arguments: Any) -> None:
        """Export the model's networks into a folder."""
        weights = [f"{fold}:{SEED}:{self.path(model, f'fold{fold}.safetensors')}" for fold in range(FOLDS)]
        data = ["--manifest", self.path("manifest.parquet"), "--folds", self.path("folds.parquet")]
        data += ["--cache", self.path(f"images-{MODELS[model]}.json"), "--checkpoint", *weights]
        written = ["--output", out / "model.onnx", "--account", out / "export.json"]
        self.call(export_onnx, *data, *written, *arguments, model=model)

    def _finish(self, model: str) -> None:
        folder, weights = self.path(model), []
        for fold in range(FOLDS):
            torch.manual_seed(10 * MODELS[model] + fold)
            network = build_network("custom1", num_classes=len(CLASSES), image_size=MODELS[model])
            torch.nn.init.normal_(network.network.head.weight, std=0.5)
            save_weights(network.network, folder / f"fold{fold}.safetensors", {})
            weights.append(f"{fold}:{SEED}:{folder / f'fold{fold}.safetensors'}")
        data = ["--manifest", self.path("manifest.parquet"), "--folds", self.path("folds.parquet")]
        data += ["--cache", self.path(f"images-{MODELS[model]}.json"), "--checkpoint", *weights]
        tables = [folder / f"fold{fold}.parquet" for fold in range(FOLDS)]
        self.call(predict, *data, "--fold-outputs", *tables, "--output", folder / "predictions.parquet", model=model)
        self.export(model, folder)
        self._rate(model)

    def _rate(self, model: str) -> None:
        given = ["--predictions", self.path(model, "predictions.parquet"), "--folds", self.path("folds.parquet")]
        self.call(calibrate, *given, "--output", self.path(model, "calibration.json"), model=model)
        self.call(evaluate, *given, "--output", self.path(model, "metrics.json"), model=model)

    def _combine(self) -> None:
        tables = [self.path(model, "predictions.parquet") for model in MODELS]
        self.call(
            ensemble, "--members", *MODELS, "--predictions", *tables, "--folds", self.path("folds.parquet"), "--output",
            self.path("ensemble", "predictions.parquet"), "--decision", self.path("ensemble", "decision.json"),
        )  # fmt: skip
        self._rate("ensemble")

    def bundle(self, model: str, out: Path, *arguments: Any, exported: Path | None = None) -> Path:
        members = MODELS if model == "ensemble" else [model]
        entries = [
            ":".join(
                map(
                    str,
                    (
                        m,
                        (exported or self.path(m)) / "export.json",
                        self.path(f"images-{MODELS[m]}.json"),
                        self.path(m, "predictions.parquet"),
                    ),
                )
            )
            for m in members
        ]
        files = {name: self.path(model, f"{name}.json") for name in ("metrics", "calibration")}
        files |= {"predictions": self.path(model, "predictions.parquet"), "audit": self.path("audit.json")}
        files |= {"manifest": self.path("manifest.parquet"), "output": out, "zip": f"{out}.zip"}
        options = [part for name, path in files.items() for part in (f"--{name}", path)]
        self.call(bundle, "--member", *entries, *options, *arguments, model=model)
        return out


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"), crop_border=True, clahe=2.0, normalization="half")


def run(made: Path | str, images: Path, out: Path) -> list[dict[str, str]]:
    assert predict_images([str(made), str(images), "--out", str(out), "--quiet"]) == 0
    with out.open() as file:
        return list(csv.DictReader(file))


def test_a_bundle_repeats_the_studys_own_predictions(desk: Desk, tmp_path: Path) -> None:
    made = desk.bundle("small", tmp_path / "bundle")
    account = read_json(desk.path("small", "export.json"))
    table = read_predictions(desk.path("small", "predictions.parquet"))
    table = table.select((table.fold == account["fold"]) & (table.seed == account["seed"]))
    expected = dict(zip(table.case_id.tolist(), softmax(table.logits), strict=True))
    called = dict(zip(table.case_id.tolist(), table.decisions.tolist(), strict=True))
    for source in (made, f"{made}.zip"):
        rows = {row["case_id"]: row for row in run(source, desk.path("images"), tmp_path / "out.csv")}
        assert len(rows) == N
        for case, probabilities in expected.items():
            said = [float(rows[case][f"probability_{name}"]) for name in CLASSES]
            np.testing.assert_allclose(said, probabilities, atol=1e-4)
            assert rows[case]["label"] == CLASSES[called[case]]


def test_a_bundle_holds_what_a_deployment_needs(desk: Desk, tmp_path: Path) -> None:
    made = desk.bundle("small", tmp_path / "bundle")
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert names >= {
        "model.onnx",
        "bundle.json",
        "MODEL_CARD.md",
        "SHA256SUMS",
        "example/image.png",
        "example/expected.json",
    }
    listed = {line.split("  ")[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    assert listed == names - {"SHA256SUMS"}, "every file has its hash"
    content = read_json(made / "bundle.json")
    steps = content["members"][0]["preprocessing"]
    assert steps["crop_border"]["threshold"] == 10 and steps["resize"]["width"] == 32
    assert steps["clahe"] is None, "an augmentation of training"
    assert content["members"][0]["normalization"]["mean"] == [127.5] * 3
    assert content["calibration"]["n_cases"] == N and content["decision"] == "expected_grade"
    copied = {path.read_bytes() for path in desk.path("images").iterdir()}
    assert (made / "example/image.png").read_bytes() not in copied, "no patient's image leaves the study"


def test_the_card_says_what_and_how_good_and_what_not(desk: Desk, tmp_path: Path) -> None:
    card = (desk.bundle("small", tmp_path / "bundle") / "MODEL_CARD.md").read_text()
    qwk = read_json(desk.path("small", "metrics.json"))["metrics"]["qwk"]
    interval = qwk["reason"] if qwk["low"] is None else f"{qwk['low']:.3f} to {qwk['high']:.3f}"
    assert interval
    for text in (
        "# desk-eyes-small-fp32",
        "not a medical device",
        "one camera | only",
        f"{N} images of {N // 2} patients",
        f"| **qwk** | {qwk['value']:.3f} | {interval} |",
        "random: no others' weights",
        "crop the dark border (threshold 10, pad 0.05)",
        "CLAHE (clip 2.0) was an augmentation of training alone",
        "cross-validation over 2 folds of patients",
    ):
        assert text in card
    for line in (tmp_path / "bundle/SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert name == "MODEL_CARD.md" or f"| `{name}` | `{digest}` |" in card


def test_weights_beside_their_file_are_bundled_checked_and_read(desk: Desk, tmp_path: Path) -> None:
    desk.export("small", tmp_path / "export", "--external-above", 1000)
    data = tmp_path / "export/onnx/model.onnx.data"
    assert data.stat().st_size > 100_000
    made = desk.bundle("small", tmp_path / "bundle", exported=tmp_path / "export")
    listed = {line.split("  ")[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    assert {"model.onnx", "onnx/model.onnx.data"} <= listed
    plain = run(desk.bundle("small", tmp_path / "plain"), desk.path("images"), tmp_path / "plain.csv")
    for source in (made, f"{made}.zip"):
        assert run(source, desk.path("images"), tmp_path / "out.csv") == plain
    spoil(made / "onnx/model.onnx.data")
    assert predict_images([str(made), str(desk.path("images")), "--out", str(tmp_path / "x.csv")]) == 1
    spoil(data)
    with pytest.raises(BundleFailure, match=r"model\.onnx\.data is not the file that passed"):
        desk.bundle("small", tmp_path / "again", exported=tmp_path / "export")


def spoil(path: Path) -> None:
    """Change one byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


CHOICES = ("mean", "calibrated_mean", "greedy", "logistic", "attention", "mlp", "best base (large)")


@pytest.mark.parametrize("choice", CHOICES)
def test_an_ensemble_holds_its_members_and_their_weights(choice: str, desk: Desk, tmp_path: Path) -> None:
    decision = {**read_json(desk.path("ensemble", "decision.json")), "choice": choice, "labels": []}
    write_json(tmp_path / "decision.json", decision)
    made = desk.bundle("ensemble", tmp_path / "bundle", "--decision", tmp_path / "decision.json")
    content = read_json(made / "bundle.json")
    rows = run(made, desk.path("images"), tmp_path / "out.csv")
    single = [run(desk.bundle(m, tmp_path / m), desk.path("images"), tmp_path / "x.csv") for m in MODELS]
    columns = [f"probability_{name}" for name in CLASSES]
    parts = np.array([[[float(row[c]) for c in columns] for row in table] for table in single])
    found = np.array([[float(row[c]) for c in columns] for row in rows])
    if choice == "mean":
        assert [m["file"] for m in content["members"]] == ["members/small/model.onnx", "members/large/model.onnx"]
        np.testing.assert_allclose(found, parts.mean(axis=0), atol=1e-5)
    elif choice == "calibrated_mean":
        assert content["combination"]["kind"] == "linear"
        assert "Combined by a weighted sum" in (made / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert 1e-4 < np.abs(found - parts.mean(axis=0)).max() < 0.5
    elif choice in ("logistic", "greedy"):
        kind = {"logistic": "logistic", "greedy": "linear"}[choice]
        assert content["combination"]["kind"] == kind and len(content["combination"]["fits"]) == 1
        assert np.abs(found - parts.mean(axis=0)).max() > 1e-3
    elif choice in ("attention", "mlp"):
        fitted = read_fits(made / content["combination"]["arrays"])[0]
        assert fitted["centre"].shape == (len(MODELS) * len(CLASSES),) and fitted["centre"].dtype == np.float64
        scores = np.log(parts).transpose(1, 0, 2)
        by_hand = by_attention(fitted, scores) if choice == "attention" else by_network(fitted, scores)
        np.testing.assert_allclose(found, by_hand, atol=1e-5)
        assert np.abs(found - parts.mean(axis=0)).max() > 1e-3
        spoil(made / "combination.npz")
        assert predict_images([str(made), str(desk.path("images")), "--out", str(tmp_path / "x.csv")]) == 1
    else:
        assert [m["name"] for m in content["members"]] == ["large"]
        np.testing.assert_allclose(found, parts[1], atol=1e-6)


def softened(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def by_attention(fitted: dict[str, np.ndarray], scores: np.ndarray) -> np.ndarray:
    features = (scores.reshape(len(scores), -1) - fitted["centre"]) / fitted["scale"]
    weights = softened(features @ fitted["coefficients"][:-1] + fitted["coefficients"][-1])
    return softened((weights[:, :, None] * scores).sum(axis=1))


def by_network(fitted: dict[str, np.ndarray], scores: np.ndarray) -> np.ndarray:
    hidden = (scores.reshape(len(scores), -1) - fitted["centre"]) / fitted["scale"]
    for k in (0, 1):
        hidden = np.maximum(hidden @ fitted[f"weights{k}"] + fitted[f"bias{k}"], 0)
    return softened(hidden @ fitted["weights2"] + fitted["bias2"])


def test_the_studys_own_ensemble_is_what_the_runner_makes_of_its_members(desk: Desk, tmp_path: Path) -> None:
    decision = desk.path("ensemble", "decision.json")
    content = read_json(desk.bundle("ensemble", tmp_path / "bundle", "--decision", decision) / "bundle.json")
    same = [e["fold"] for e in read_json(decision)["per_fold_choice"] if e["choice"] == read_json(decision)["choice"]]
    assert content["study"]["folds"] == same
    assert same == [] or content["study"]["max_probability_difference"] < 1e-5
    choices = [{"fold": fold, "choice": "mean", "reason": "", "fell_back": []} for fold in range(FOLDS)]
    mean = {**read_json(decision), "choice": "mean", "labels": [], "per_fold_choice": choices}
    write_json(tmp_path / "decision.json", mean)
    if read_json(decision)["choice"] != "mean":
        with pytest.raises(BundleFailure, match="differ from the study's ensemble"):
            desk.bundle("ensemble", tmp_path / "other", "--decision", tmp_path / "decision.json")


def test_another_network_than_the_predictions_come_from_is_refused(desk: Desk, tmp_path: Path) -> None:
    broken = Desk.__new__(Desk)
    broken.folder, broken.study = tmp_path / "desk", desk.study
    shutil.copytree(desk.folder, broken.folder)
    account = read_json(broken.path("small", "export.json"))
    write_json(broken.path("small", "export.json"), {**account, "fold": 1 - account["fold"]})
    with pytest.raises(BundleFailure, match="is another network"):
        broken.bundle("small", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    write_json(broken.path("small", "export.json"), account)
    picture = np.full((70, 90, 3), 200, np.uint8)
    for path in broken.path("images").iterdir():
        Image.fromarray(picture).save(path)
    manifest = desk.path("images")
    moved = desk.folder / "images.moved"
    manifest.rename(moved)
    try:
        shutil.copytree(broken.path("images"), manifest)
        with pytest.raises(BundleFailure, match="source files have changed"):
            broken.bundle("small", tmp_path / "bundle")
    finally:
        shutil.rmtree(manifest, ignore_errors=True)
        moved.rename(manifest)


def test_weights_outside_the_file_go_along(desk: Desk, tmp_path: Path) -> None:
    import onnx

    other = Desk.__new__(Desk)
    other.folder, other.study = tmp_path / "desk", desk.study
    shutil.copytree(desk.folder, other.folder)
    file = other.path("small", "model.onnx")
    model = onnx.load(file)
    (file.parent / "onnx").mkdir(exist_ok=True)
    onnx.save_model(model, file, save_as_external_data=True, location="onnx/model.onnx.data")
    account = read_json(other.path("small", "export.json"))
    account.pop("variants", None)  # they hold the hash of the file before
    write_json(other.path("small", "export.json"), account)
    made = other.bundle("small", tmp_path / "bundle")
    assert (made / "onnx/model.onnx.data").stat().st_size > 100_000
    assert "onnx/model.onnx.data" in (made / "SHA256SUMS").read_text()
    assert len(run(f"{made}.zip", other.path("images"), tmp_path / "out.csv")) == N


def test_an_int8_variant_is_bundled_with_its_difference(desk: Desk, tmp_path: Path) -> None:
    """The file stands in for a quantised one: what counts is which file is taken, and that its cost is recorded."""
    other = Desk.__new__(Desk)
    other.folder, other.study = tmp_path / "desk", desk.study
    shutil.copytree(desk.folder, other.folder)
    account = read_json(other.path("small", "export.json"))
    shutil.copy(other.path("small", "model.onnx"), other.path("small", "model-int8.onnx"))
    variant = {"precision": "int8", "file": "model-int8.onnx", "status": "passed", "reason": None, "batch": "dynamic"}
    account["variants"] = [{**variant, "inputs": {"shape": [3, 32, 32], "normalized": True}}]
    write_json(other.path("small", "export.json"), account)
    made = other.bundle("small", tmp_path / "bundle", "--precision", "int8")
    assert read_json(made / "bundle.json")["members"][0]["precision"] == "int8"
    account["variants"][0]["sha256"] = "0" * 64
    write_json(other.path("small", "export.json"), account)
    with pytest.raises(BundleFailure, match="not the file that passed"):
        other.bundle("small", tmp_path / "bundle", "--precision", "int8")
