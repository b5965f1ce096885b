"""Readers of CheXpert and zone scores, several label columns, NIfTI pictures, masks, and the chest phantoms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from format_trees import RELEASE, write_chexpert, write_csi, write_heart_table, write_nifti

from archbench.artifacts import numeric_column
from archbench.audit import AuditSettings
from archbench.datasets import MASKED, DatasetError, LabelPolicy, PhantomSettings, Source, SourceSettings
from archbench.datasets.chexpert import LABELS, read_chexpert
from archbench.datasets.csi_zones import ZONES, csi_problem, read_csi_zones
from archbench.datasets.phantom_chest import MARKER, draw_findings, read_phantom_chest
from archbench.datasets.phantom_zones import draw_grades, read_phantom_zones
from archbench.datasets.table import read_table
from archbench.preparation import Prepared, prepare
from archbench.splits import Protocol
from archbench_predict.images import ImageError, Preprocessing, decode, preprocess, read_mask

ZONE_CLASSES = ("Normal", "Mild", "Moderate", "Severe", "Ungradable")


def prepared(settings: SourceSettings, *, format: str, task: str, **changes: Any) -> Prepared:
    base = {
        "dataset": "d",
        "format": format,
        "settings": settings,
        "task": task,
        "classes": (),
        "missing_label": "drop",
        "exclude": {},
        "intensity": "min_max",
        "protocol": Protocol(kind="cross_validation", folds=2),
        "audit_settings": AuditSettings(near_duplicates="off"),
        "threads": 2,
        "provenance": {"study": "s"},
    }
    return prepare(**{**base, **changes})


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory: pytest.TempPathFactory) -> SourceSettings:
    root = tmp_path_factory.mktemp("chexpert")
    write_chexpert(root)
    return SourceSettings(root=root, csv="train.csv")


@pytest.fixture(scope="module")
def csi(tmp_path_factory: pytest.TempPathFactory) -> SourceSettings:
    root = tmp_path_factory.mktemp("csi")
    write_csi(root)
    return SourceSettings(root=root, csv="scores.csv", masks="masks")


def test_chexpert_patients_come_from_the_path(chexpert: SourceSettings) -> None:
    """Splits had been made by image: both pictures of a patient carry the patient's name."""
    source = read_chexpert(chexpert)
    assert len(source.rows) == 60
    assert len({row.patient_id for row in source.rows}) == 30
    assert source.rows[0].patient_id == "patient10000"
    assert source.rows[0].image == f"{RELEASE.partition('/')[2]}/patient10000/study1/view1_frontal.jpg"
    assert source.labels == LABELS
    result = prepared(chexpert, format="chexpert", task="multilabel")
    folds = result.folds.to_pydict()
    placed: dict[tuple[int, str], set[str]] = {}
    for patient, fold, split in zip(folds["patient_id"], folds["fold"], folds["split"], strict=True):
        placed.setdefault((fold, patient), set()).add(split)
    assert all(len(splits) == 1 for splits in placed.values())


def test_chexpert_views_are_filtered(chexpert: SourceSettings) -> None:
    for view, name in (("frontal", "view1_frontal"), ("lateral", "view2_lateral")):
        source = read_chexpert(replace(chexpert, view=view))
        assert len(source.rows) == 30
        assert all(name in row.image for row in source.rows)
        assert any("30 of 60 rows" in note for note in source.notes)


def write_values(folder: Path, values: list[str]) -> SourceSettings:
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,Edema,Fracture\n"
    rows = [f"train/patient{k}/study1/view1_frontal.jpg,F,1,Frontal,AP,{v},{v}\n" for k, v in enumerate(values)]
    (folder / "t.csv").write_text(header + "".join(rows))
    return SourceSettings(root=folder, csv="t.csv", labels=("Edema", "Fracture"))


@pytest.mark.parametrize(
    ("uncertain", "blank", "expected"),
    [
        ({}, {}, [("1.0", "1.0"), ("0.0", "0.0"), (MASKED, MASKED), ("0", "0")]),
        (
            {"default": "zeros", "Fracture": "ones"},
            {"default": "ignore"},
            [("1.0", "1.0"), ("0.0", "0.0"), ("0", "1"), (MASKED, MASKED)],
        ),
        (
            {"Edema": "smooth"},
            {"Fracture": "ones"},
            [("1.0", "1.0"), ("0.0", "0.0"), ("~0.7", MASKED), ("0", "1")],
        ),
    ],
)
def test_uncertain_and_blank_have_policies_of_their_own(tmp_path: Path, uncertain, blank, expected) -> None:
    settings = write_values(tmp_path, ["1.0", "0.0", "-1.0", ""])
    source = read_chexpert(replace(settings, policy=LabelPolicy(uncertain=uncertain, blank=blank)))
    assert [row.labels for row in source.rows] == expected
    assert any(note.startswith("uncertain labels by policy") for note in source.notes)


def test_masked_and_blank_cells_stay_null_in_the_manifest(chexpert: SourceSettings) -> None:
    """Blanks had become NaN in the loss; here the table says null, and nothing else is unknown."""
    labels = ("Cardiomegaly", "Fracture")
    settings = replace(chexpert, labels=labels, policy=LabelPolicy(blank={"Fracture": "zeros"}))
    result = prepared(settings, format="chexpert", task="multilabel")
    heart = numeric_column(result.manifest, "target_Cardiomegaly")
    assert np.isnan(heart).any()
    assert np.isin(heart[~np.isnan(heart)], (0, 1)).all()
    assert (numeric_column(result.manifest, "target_Fracture") == 0).all()
    audit = result.audit
    assert audit["labels"][0]["n_unknown"] == int(np.isnan(heart).sum())
    assert audit["labels"][0]["n_positive"] == int((heart == 1).sum())
    assert sum(audit["labels_per_case"]) == audit["n_cases"]
    assert any("no case is positive for Fracture" in text for text in audit["warnings"])
    assert result.manifest_metadata["classes"] == list(labels)


def test_several_label_columns_of_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["image,patient,edema,effusion"]
    for k in range(20):
        cv2.imwrite(str(tmp_path / f"{k}.png"), rng.integers(0, 255, (16, 16), dtype=np.uint8))
        rows.append(f"{k}.png,p{k},{k % 2},{'' if k == 3 else int(k % 3 == 0)}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    columns = {"image": "image", "patient": "patient"}
    settings = SourceSettings(root=tmp_path, csv="t.csv", columns=columns, labels=("edema", "effusion"))
    assert read_table(settings).labels == ("edema", "effusion")
    dropped = prepared(settings, format="table", task="multilabel")
    assert dropped.audit["n_cases"] == 19
    masked = prepared(settings, format="table", task="multilabel", missing_label="mask")
    assert masked.audit["n_cases"] == 20
    assert np.isnan(numeric_column(masked.manifest, "target_effusion")).sum() == 1
    with pytest.raises(DatasetError, match="missing_label"):
        prepared(settings, format="table", task="multilabel", missing_label="error")
    (tmp_path / "t.csv").write_text("\n".join([*rows[:-1], "19.png,p19,2,0"]))
    lenient = AuditSettings(near_duplicates="off", max_bad_fraction=0.2)
    refused = prepared(settings, format="table", task="multilabel", missing_label="mask", audit_settings=lenient)
    assert any("neither 0 nor 1" in problem["message"] for problem in refused.audit["problems"])


def test_a_number_as_label(tmp_path: Path) -> None:
    write_heart_table(tmp_path)
    columns = {"image": "image", "patient": "patient", "label": "score"}
    settings = SourceSettings(root=tmp_path, csv="scores.csv", columns=columns)
    result = prepared(settings, format="table", task="regression")
    values = numeric_column(result.manifest, "target_score")
    assert values.max() > 3
    assert sum(row["n_cases"] for row in result.audit["classes"]) == 60
    assert result.manifest_metadata["classes"] == ["score"]


def test_zone_scores_with_file_ids_of_floats(csi: SourceSettings) -> None:
    source = read_csi_zones(csi)
    assert source.labels == ZONES
    assert source.rows[0].image == "images/100.nii.gz"  # the table says 100.0
    assert source.rows[0].mask == "masks/100.png"
    assert all(row.note is None for row in source.rows)
    result = prepared(csi, format="csi_zones", task="zones", classes=ZONE_CLASSES)
    targets = np.stack([numeric_column(result.manifest, f"target_{zone}") for zone in ZONES], axis=1)
    assert np.isin(targets, np.arange(5)).all()
    blank = np.array([[text == "" for text in row.labels] for row in source.rows])
    assert (targets == 4).sum() == blank.sum() > 0
    assert [z["n_ungradable"] for z in result.audit["zones"]] == blank.sum(axis=0).tolist()
    assert result.manifest_metadata["class_names"] == list(ZONE_CLASSES)
    assert len(result.manifest_metadata["classes"]) == 30


def test_excluded_file_ids(csi: SourceSettings) -> None:
    exclude = {"patient": ["101", "104"]}
    result = prepared(csi, format="csi_zones", task="zones", classes=ZONE_CLASSES, exclude=exclude)
    assert result.audit["dropped"]["excluded"] == 2
    assert not any("101" in case for case in result.manifest["case_id"].to_pylist())


def test_a_csi_that_is_not_the_mean_is_noted() -> None:
    assert csi_problem("", ["0", "1", "", "2", "3", "0"]) is None
    assert csi_problem("1.2", ["0", "1", "", "2", "3", "0"]) is None
    assert "the mean of its gradable zones 1.2" in str(csi_problem("2.0", ["0", "1", "4", "2", "3", "0"]))
    assert "no zone is gradable" in str(csi_problem("0", ["", "", "4", "", "", ""]))


def test_nifti_and_png_show_the_same_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    write_nifti(tmp_path / "a.nii.gz", pixels)
    data = (tmp_path / "a.nii.gz").read_bytes()
    np.testing.assert_array_equal(decode(data, max_pixels=1000)[:, :, 0], pixels)
    with pytest.raises(ImageError) as caught:
        decode(data, max_pixels=599)
    assert caught.value.kind == "oversized"
    with pytest.raises(ImageError):
        decode(data[: len(data) // 2], max_pixels=1000)
    write_nifti(tmp_path / "b.nii.gz", np.zeros((4, 5, 6), np.uint8))
    with pytest.raises(ImageError, match="no single picture"):
        decode((tmp_path / "b.nii.gz").read_bytes(), max_pixels=1000)


def test_masks_crop_or_blank(tmp_path: Path) -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    plain = Preprocessing(size=20, crop_border=False)
    _, _, box = preprocess(image, replace(plain, mask_focus="crop"), mask)
    assert box == (29, 10, 51, 20)  # 5 % of 20 columns; 5 % of 10 rows rounds to none
    blanked, _, box = preprocess(image, replace(plain, mask_focus="blank"), mask)
    assert box == (0, 0, 60, 40)
    assert 0.03 < (blanked > 100).mean() < 0.13
    untouched, _, _ = preprocess(image, plain, mask)
    assert (untouched == 200).all()
    cv2.imwrite(str(tmp_path / "m.png"), mask.astype(np.uint8)[::2, ::2] * 255)
    assert read_mask(tmp_path / "m.png", shape=(40, 60), max_pixels=10_000).shape == (40, 60)


def test_center_crop_keeps_the_central_square() -> None:
    image = np.zeros((100, 140, 3), np.uint8)
    image[6:94, 26:114] = 255
    square, _, box = preprocess(image, Preprocessing(size=32, crop_border=False, center_crop=0.875))
    assert box == (26, 6, 114, 94)  # an 88-pixel square, 224 of 256
    assert (square == 255).all()


def chest(folder: Path, **changes: Any) -> Source:
    phantom = PhantomSettings(**{"folder": folder, "patients": 60, "image_size": 64, "seed": 5, **changes})
    return read_phantom_chest(SourceSettings(root=folder, phantom=phantom))


def test_the_marker_goes_with_the_first_label_only_if_asked(tmp_path: Path) -> None:
    agreement = {}
    for strength in (0.0, 1.0):
        source = chest(tmp_path / str(strength), confounder=strength)
        marked = [any(lesion["kind"] == MARKER for lesion in json.loads(row.lesions or "[]")) for row in source.rows]
        heart = [row.labels[0] == "1" for row in source.rows]
        agreement[strength] = np.mean(np.equal(marked, heart))
    assert agreement[1.0] == 1.0
    assert 0.35 < agreement[0.0] < 0.65


def test_planted_findings_go_together_and_are_where_they_are_said_to_be(tmp_path: Path) -> None:
    found = draw_findings(patients=2000, seed=1).reshape(-1, 5)
    assert found[found[:, 0], 1].mean() > found[~found[:, 0], 1].mean() + 0.15
    assert abs(found[found[:, 2], 3].mean() - found[~found[:, 2], 3].mean()) < 0.05
    source = chest(tmp_path)
    again = chest(tmp_path / "again")
    for row in source.rows[:10]:
        assert (tmp_path / row.image).read_bytes() == (tmp_path / "again" / row.image).read_bytes()
    assert source.rows == again.rows
    contrast = []
    for row in source.rows:
        image = cv2.imread(str(tmp_path / row.image), cv2.IMREAD_GRAYSCALE).astype(float)
        for lesion in json.loads(row.lesions or "[]"):
            if lesion["kind"] == "Nodule":
                x, y = round(lesion["x"]), round(lesion["y"])
                contrast.append(image[y, x] - np.median(image[max(0, y - 6) : y + 7, max(0, x - 6) : x + 7]))
    assert len(contrast) > 5
    assert np.median(contrast) > 20


def test_zone_grades_show_in_their_zone(tmp_path: Path) -> None:
    phantom = PhantomSettings(folder=tmp_path, patients=40, image_size=64, seed=2)
    source = read_phantom_zones(SourceSettings(root=tmp_path, phantom=phantom))
    brightness: dict[str, list[float]] = {}
    for row in source.rows:
        image = cv2.imread(str(tmp_path / row.image), cv2.IMREAD_GRAYSCALE).astype(float)
        brightness.setdefault(row.labels[0], []).append(image[16:22, 17:23].mean() / image[58:62, 30:34].mean())
        assert (tmp_path / str(row.mask)).is_file()
    means = [np.mean(brightness[grade]) for grade in ("0", "1", "2", "3")]
    assert means == sorted(means)
    grades = draw_grades(patients=500, seed=1)
    assert 0.02 < (grades < 0).mean() < 0.08
    assert (grades < 0).all(axis=2).any()


def test_label_noise_spoils_what_is_recorded_and_never_the_picture(tmp_path: Path) -> None:
    clean, noisy = chest(tmp_path / "clean"), chest(tmp_path / "noisy", label_noise=0.2)
    wrong = np.array([row.labels for row in clean.rows]) != np.array([row.labels for row in noisy.rows])
    assert 0.15 < wrong.mean() < 0.25
    for one, other in zip(clean.rows, noisy.rows, strict=True):
        assert one.lesions == other.lesions
        assert (tmp_path / "clean" / one.image).read_bytes() == (tmp_path / "noisy" / other.image).read_bytes()
