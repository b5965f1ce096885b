"""A network learns the marker of the chest phantom where it goes with a finding, and not where it tells nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from archbench.batches import predict_logits
from archbench.datasets import PhantomSettings, SourceSettings
from archbench.datasets.phantom_chest import LABELS, MARKER, read_phantom_chest
from archbench.models.building import build_network
from archbench.settings import Training
from archbench.training import train
from archbench.training_epoch import TrainingData

SIDE, CPU = 48, torch.device("cpu")
FIRST = LABELS.index("Cardiomegaly")


@dataclass(frozen=True)
class Pictures:
    images: np.ndarray
    targets: np.ndarray
    marked: np.ndarray


def draw(folder: Path, *, patients: int, seed: int, confounder: float) -> Pictures:
    phantom = PhantomSettings(folder=folder, patients=patients, image_size=64, seed=seed, confounder=confounder)
    rows = read_phantom_chest(SourceSettings(root=folder, phantom=phantom)).rows
    pictures = [
        cv2.resize(cv2.imread(str(folder / row.image)), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for row in rows
    ]
    return Pictures(
        images=np.stack(pictures),
        targets=np.array([[float(text) for text in row.labels] for row in rows]),
        marked=np.array([any(one["kind"] == MARKER for one in json.loads(row.lesions)) for row in rows]),
    )


def scores_of_the_first_label(folder: Path, *, confounder: float) -> tuple[float, float]:
    """Train where the marker goes with the first label as asked; return AUROCs of label and marker where it doesn't."""
    learned = draw(folder / "train", patients=150, seed=1, confounder=confounder)
    other = draw(folder / "test", patients=80, seed=2, confounder=0.0)
    images = np.concatenate([learned.images, other.images])
    n_train, n_val = 240, 60
    data = TrainingData(
        images=images,
        clahe=None,
        train_rows=np.arange(n_train),
        train_targets=learned.targets[:n_train],
        val_rows=np.arange(n_train, n_train + n_val),
        val_targets=learned.targets[n_train:],
        num_classes=len(LABELS),
        outputs="labels",
    )
    torch.manual_seed(0)
    network = build_network("custom1", num_classes=len(LABELS), image_size=SIDE)
    recipe = {"loss": "bce", "lr": 2e-3, "epochs": 6, "batch_size": 16, "augmentation": "none"}
    train(
        network,
        data,
        settings=Training.model_validate({**recipe, "early_stopping": {"metric": "auroc_macro", "patience": 6}}),
        seed=0,
        device=CPU,
        dtype=torch.float32,
        decision="argmax",
        state_path=folder / "state",
        identity="a",
    )
    rows = np.arange(n_train + n_val, len(images))
    logits = predict_logits(network, images, rows, batch_size=50, device=CPU)[:, FIRST]
    return float(roc_auc_score(other.targets[:, FIRST], logits)), float(roc_auc_score(other.marked, logits))


@pytest.mark.parametrize("confounder", [0.0, 1.0], ids=["off", "on"])
def test_the_marker_is_learned_where_it_goes_with_the_label_alone(tmp_path: Path, confounder: float) -> None:
    torch.set_flush_denormal(True)
    of_label, of_marker = scores_of_the_first_label(tmp_path, confounder=confounder)
    if confounder:
        assert of_marker > 0.9 > of_label, "it looks at the marker, so that elsewhere it is lost"
    else:
        assert of_label > 0.8 and abs(of_marker - 0.5) < 0.15, "it looks at the heart"
