"""Small phantom data in the layout of real formats: CheXpert, zone scores, a table with a number."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
from volume_trees import write_ct_rate

from archbench.datasets import PhantomSettings, SourceSettings
from archbench.datasets.chexpert import LABELS
from archbench.datasets.csi_zones import ZONES
from archbench.datasets.phantom_chest import read_phantom_chest
from archbench.datasets.phantom_zones import read_phantom_zones

RELEASE = "CheXpert-v1.0-small/train"
PLANTED = {"Cardiomegaly": 0, "Pleural Effusion": 1, "Lung Opacity": 2, "Lung Lesion": 3, "Support Devices": 4}


def write_chexpert(folder: Path, *, patients: int = 30, seed: int = 1) -> Path:
    """Write a CheXpert-like tree with train.csv; the second picture of each patient is called a lateral view.

    Five labels are planted; the others are blank. Some values are uncertain (-1).
    """
    drawn = folder / "drawn"
    phantom = PhantomSettings(folder=drawn, patients=patients, image_size=64, seed=seed)
    source = read_phantom_chest(SourceSettings(root=drawn, phantom=phantom))
    rng = np.random.default_rng(seed)
    rows = []
    for index, row in enumerate(source.rows):
        view = ("view1_frontal", "view2_lateral")[index % 2]
        path = f"{RELEASE}/patient{10000 + index // 2}/study1/{view}.jpg"
        target = folder / path.removeprefix("CheXpert-v1.0-small/")
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), cv2.imread(str(drawn / row.image)))
        values = dict.fromkeys(LABELS, "")
        for name, k in PLANTED.items():
            values[name] = "-1.0" if rng.random() < 0.1 else f"{row.labels[k]}.0"
        front = "Frontal" if index % 2 == 0 else "Lateral"
        common = {"Path": path, "Sex": "Female", "Age": "50", "Frontal/Lateral": front, "AP/PA": "AP"}
        rows.append({**common, **values})
    shutil.rmtree(drawn)
    return _write(folder / "train.csv", rows, delimiter=",")


def write_csi(folder: Path, *, patients: int = 30, seed: int = 1, nifti: bool = True) -> Path:
    """Write scores.csv with `;`, images/<FileID>.nii.gz or PNG, and masks/<FileID>.png; some FileIDs read `12.0`."""
    drawn = folder / "drawn"
    phantom = PhantomSettings(folder=drawn, patients=patients, image_size=64, seed=seed)
    source = read_phantom_zones(SourceSettings(root=drawn, phantom=phantom))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    rows = []
    for index, row in enumerate(source.rows):
        name = str(100 + index)
        pixels = cv2.imread(str(drawn / row.image), cv2.IMREAD_GRAYSCALE)
        if nifti:
            write_nifti(folder / "images" / f"{name}.nii.gz", pixels)
        else:
            cv2.imwrite(str(folder / "images" / f"{name}.png"), pixels)
        shutil.copy(drawn / str(row.mask), folder / "masks" / f"{name}.png")
        grades = [int(text) for text in row.labels if text]
        csi = f"{np.mean(grades):.3f}" if grades and index % 3 else ""
        file_id = f"{name}.0" if index % 4 == 0 else name
        rows.append({"FileID": file_id, **dict(zip(ZONES, row.labels, strict=True)), "csi": csi})
    shutil.rmtree(drawn)
    return _write(folder / "scores.csv", rows, delimiter=";")


def write_nifti(path: Path, pixels: np.ndarray) -> None:
    """Write gray pixels (H, W) as a two-dimensional NIfTI file: columns are its first axis."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(pixels.T), np.eye(4)), path)


def write_heart_table(folder: Path, *, patients: int = 30, seed: int = 1) -> Path:
    """Write labels.csv of chest pictures with a number to predict: a score that grows with the planted findings."""
    phantom = PhantomSettings(folder=folder, patients=patients, image_size=64, seed=seed)
    source = read_phantom_chest(SourceSettings(root=folder, phantom=phantom))
    weights = (4.0, 2.0, 1.0, 0.5, 1.0)
    rows = [
        {
            "image": row.image,
            "patient": row.patient_id,
            "score": sum(w * int(text) for w, text in zip(weights, row.labels, strict=True)),
        }
        for row in source.rows
    ]
    return _write(folder / "scores.csv", rows, delimiter=",")


def write_ct(folder: Path, labels: list[str], *, csv_name: str, patients: int = 30, seed: int = 1) -> Path:
    """Write slices with one column per abnormality: five are planted, the others drawn at random, some blank."""
    phantom = PhantomSettings(folder=folder, patients=patients, image_size=64, seed=seed)
    source = read_phantom_chest(SourceSettings(root=folder, phantom=phantom))
    rng = np.random.default_rng(seed)
    rows = []
    for row in source.rows:
        values = [*row.labels, *(str(int(v)) for v in rng.random(len(labels) - len(row.labels)) < 0.3)]
        shown = ["" if rng.random() < 0.05 else value for value in values]
        rows.append({"image": row.image, "patient": row.patient_id, **dict(zip(labels, shown, strict=True))})
    return _write(folder / csv_name, rows, delimiter=",")


def write_source(folder: Path, dataset: dict) -> None:
    """Write a small source in the format of a study's dataset block, below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if dataset["format"] == "chexpert":
        write_chexpert(folder)
    elif dataset["format"] == "ct_rate":
        write_ct_rate(folder, csv_name=dataset["csv"])
    elif dataset["format"] == "csi_zones":
        write_csi(folder)
    elif dataset["format"] == "image_masks":
        write_ct_structures(folder, dataset)
    elif isinstance((dataset.get("columns") or {}).get("label"), list):
        write_ct(folder, dataset["columns"]["label"], csv_name=dataset["csv"])
    else:
        write_grades(folder, dataset)


def write_ct_structures(folder: Path, dataset: dict, *, shape: tuple[int, int, int] = (40, 40, 36)) -> None:
    """Write one CT-like volume with a cylinder for each structure of a dataset, as the files that it names."""
    import nibabel

    rng = np.random.default_rng(0)
    image = rng.normal(0, 30, shape).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    for k, values in enumerate(dataset["segmentation"]["structures"].values()):
        left = 4 + 18 * k
        image[left : left + 14, 10:30] = -800 if k == 0 else 300
        mask[left : left + 14, 10:30] = values[0] if values else 1
    for name, array in ((dataset["images"], image), (dataset["masks"], mask)):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([0.7, 0.7, 2.5, 1.0])), folder / name)


def write_grades(folder: Path, dataset: dict, n: int = 40) -> None:
    """Write noise pictures of two per patient with the columns that a dataset of grades names, or all of `dr_folds`."""
    rng = np.random.default_rng(0)
    columns = dataset.get("columns") or {"image": "image_path", "patient": "patient_id", "label": "label"}
    rows = []
    for k in range(n):
        cv2.imwrite(str(folder / f"{k}.png"), rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
        row = {columns["image"]: f"{k}.png", columns["patient"]: f"p{k // 2}", columns["label"]: k // 2 % 5}
        if dataset["format"] == "dr_folds":
            own = {"dataset": "aptos", "split": ("train", "val")[k % 8 == 0], "id_code": f"c{k}", "eye": "LR"[k % 2]}
            row = {**own, **row, "width": 40, "height": 40, "is_valid": "True"}
        rows.append(row)
    _write(folder / dataset["csv"], rows, delimiter=",")


def _write(path: Path, rows: list[dict], *, delimiter: str) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path
