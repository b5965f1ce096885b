"""Training, prediction, explanation and export by their scripts, on a few cached images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_cases import CLASSES, FOLDS, write_cases

from archbench.artifacts import read_json, write_json
from scripts import explain, export_onnx, predict, train

DINO = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
DINO |= {"image_size": 28, "patch_size": 14, "num_channels": 3, "drop_path_rate": 0.0}


INT8 = {"precisions": ["fp32", "int8"], "fold_normalization": True, "batch_sizes": [1, 5]}
INT8 |= {"calibration_images": 5, "non_inferiority_margin": 0.7}


def study(folder: Path, model: dict[str, Any], *, channels: str, inference: dict[str, Any] | None) -> Path:
    table = {"format": "table", "root": ".", "csv": "none.csv", "classes": list(CLASSES)}
    content = {
        "study": "tiny",
        "datasets": {"eyes": {**table, "preprocessing": {"channels": channels}}},
        "models": {"it": model},
        "protocol": {"kind": "cross_validation", "folds": FOLDS},
        "training": {"epochs": 1, "batch_size": 8, "augmentation": "strong", "dropout": 0.1, "drop_path": 0.1},
        "explain": {"cases": 2},
        "evaluation": {"clinical_cut": 1},
        "inference": inference or {},
    }
    path = folder / "study.json"
    path.write_text(json.dumps(content))
    return path


def run_all(
    folder: Path, model: dict[str, Any], *, side: int, channels: str = "rgb", inference: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train both folds, predict, explain, export; return the settings of fold 0 and the accounts."""
    data = write_cases(folder, side=side)
    if channels == "gray":
        cache = folder / "cache"
        np.save(cache / "images.npy", np.load(cache / "images.npy")[:, :, :, :1])
        write_json(cache / "index.json", {**read_json(cache / "index.json"), "channels": "gray"})
    common = [
        "--study",
        str(study(folder, model, channels=channels, inference=inference)),
        "--dataset",
        "eyes",
        "--model",
        "it",
    ]
    common += [word for name, path in data.items() for word in (f"--{name}", str(path))]
    weights = ["--weights", model["weights"].removeprefix("file:")] if "weights" in model else []
    for fold in range(FOLDS):
        out = folder / f"fold{fold}"
        places = {"--best": "best.safetensors", "--history": "history.csv", "--settings": "settings.json"}
        files = [word for flag, name in places.items() for word in (flag, str(out / name))]
        which = ["--fold", str(fold), "--seed", "42", "--state", str(folder / f"{fold}.pt")]
        assert train.main([*common, *which, *files, *weights]) == 0
    given = ["--checkpoint", *[f"{k}:42:{folder}/fold{k}/best.safetensors" for k in range(FOLDS)]]
    outputs = ["--fold-outputs", *[f"{folder}/fold{k}/predictions.parquet" for k in range(FOLDS)]]
    predictions = str(folder / "predictions.parquet")
    assert predict.main([*common, *given, *outputs, "--output", predictions]) == 0
    assert explain.main([*common, *given, "--predictions", predictions, "--output", str(folder / "cam")]) == 0
    files = ["--output", str(folder / "model.onnx"), "--account", str(folder / "export.json")]
    assert export_onnx.main([*common, *given, *files]) == 0
    accounts = {"settings": "fold0/settings.json", "cam": "cam/gradcam.json", "export": "export.json"}
    return {name: read_json(folder / path) for name, path in accounts.items()}


@pytest.mark.parametrize(("name", "attention"), [("resnet18", "cbam"), ("vit_tiny_patch16_224", "none")])
def test_gray_images_attention_and_a_hidden_layer_go_all_the_way(name: str, attention: str, tmp_path: Path) -> None:
    model = {"architecture": name, "image_size": 64, "head": "mlp", "head_hidden": 16, "attention": attention}
    found = run_all(tmp_path, model, side=64, channels="gray", inference=INT8)
    assert found["settings"]["network"]["in_channels"] == 1 and found["settings"]["image_size"] == 64
    assert found["settings"]["network"]["attention"] == attention and found["settings"]["loaded_weights"] is None
    assert found["export"]["passed"] and found["export"]["image_size"] == 64
    assert len(found["cam"]["cases"]) == 2
    fp32, int8 = found["export"]["variants"]
    assert [row["batch_size"] for row in fp32["parity"]["batches"]] == [1, 2, 3, 5]
    assert (fp32["inputs"]["dtype"], fp32["inputs"]["normalized"]) == ("uint8", False)
    assert int8["quantization"]["method"] == ("static" if name == "resnet18" else "dynamic")
    assert int8["quantization"]["n_calibration_images"] == 5 and int8["quality"]["margin"] == 0.7
    assert int8["status"] in ("passed", "failed") and (int8["file"] is None) == (int8["status"] == "failed")
    import onnx

    (entry,) = onnx.load(tmp_path / "model.onnx").graph.input
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim][1:] == [1, 64, 64]


def test_a_backbone_of_hugging_face_goes_all_the_way_at_the_size_of_the_study(tmp_path: Path) -> None:
    """Position embeddings of 28 px run at 56 px; what was loaded, and the size that ran, stand in the settings."""
    from archbench.models.building import build_network
    from archbench.models.weights import save_weights

    (tmp_path / "dino").mkdir()
    (tmp_path / "dino" / "config.json").write_text(json.dumps(DINO))
    name = f"hf:{tmp_path / 'dino'}"
    save_weights(build_network(name, num_classes=7, image_size=28).network, tmp_path / "w.safetensors")
    model = {"architecture": name, "image_size": 56, "weights": f"file:{tmp_path / 'w.safetensors'}"}
    found = run_all(tmp_path, model, side=56)
    loaded = found["settings"]["loaded_weights"]
    assert found["settings"]["image_size"] == 56 and loaded["missing_count"] == 0 and loaded["loaded_count"] > 20
    assert set(loaded["resized"]) == {"backbone.embeddings.position_embeddings", "head.weight", "head.bias"}
    assert found["export"]["passed"] and len(found["cam"]["cases"]) == 2
