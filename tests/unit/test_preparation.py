"""Preparation: manifest, folds and audit agree; a refused dataset keeps its audit."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archbench.artifacts import read_json, read_table
from archbench.audit import AuditSettings
from archbench.datasets import DatasetError, PhantomSettings, SourceSettings
from archbench.datasets.phantom import read_phantom
from archbench.preparation import Prepared, failed_audit_path, prepare, write_prepared
from archbench.splits import Protocol

CLASSES = ["No DR", "Mild", "Moderate", "Severe", "Proliferative"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty drawn photographs of twenty patients with their labels.csv."""
    folder = tmp_path_factory.mktemp("images")
    phantom = PhantomSettings(folder=folder, patients=20, image_size=64, seed=3)
    read_phantom(SourceSettings(root=folder, phantom=phantom))
    return folder


def prepare_table(root: Path, csv: str = "labels.csv", **changes: Any) -> Prepared:
    settings = {
        "dataset": "eyes",
        "format": "table",
        "settings": SourceSettings(
            root=root, csv=csv, columns={"image": "image", "patient": "patient", "label": "grade"}
        ),
        "task": "ordinal",
        "classes": CLASSES,
        "missing_label": "drop",
        "exclude": {},
        "intensity": "full_range",
        "protocol": Protocol(kind="cross_validation", folds=3),
        "audit_settings": AuditSettings(),
        "threads": 2,
        "provenance": {"study": "s"},
    }
    return prepare(**{**settings, **changes})


def lines_of(root: Path) -> list[str]:
    return (root / "labels.csv").read_text().splitlines()


def write_csv(root: Path, name: str, lines: list[str]) -> str:
    (root / name).write_text("\n".join(lines) + "\n")
    return name


def test_files_agree_with_each_other(images: Path, tmp_path: Path) -> None:
    prepared = prepare_table(images)
    paths = {name: tmp_path / "data" / f"{name}.{suffix}" for name, suffix in
             (("manifest", "parquet"), ("folds", "parquet"), ("audit", "json"))}  # fmt: skip
    write_prepared(prepared, **paths)
    manifest, metadata = read_table(paths["manifest"])
    folds, fold_metadata = read_table(paths["folds"])
    audit = read_json(paths["audit"])
    assert metadata["labels"] == ["grade"]
    assert metadata["root"] == images.as_posix()
    assert fold_metadata["selected_and_reported_on_same_cases"] is False
    assert manifest.num_rows == audit["n_cases"] == 40
    assert folds.num_rows == 3 * 40
    assert sum(entry["n_cases"] for entry in audit["classes"]) == 40
    for entry in audit["folds"]:
        for part, counts in entry["parts"].items():
            rows = [
                s == part and f == entry["fold"]
                for s, f in zip(folds["split"].to_pylist(), folds["fold"].to_pylist(), strict=True)
            ]
            assert counts["n_cases"] == sum(rows) == sum(counts["per_class"])
    text = (tmp_path / "data" / "catalog.csv").read_text()
    catalog = list(csv.DictReader(io.StringIO(text)))
    assert [row["case_id"] for row in catalog] == manifest["case_id"].to_pylist()
    assert (tmp_path / "data" / "folds.csv").read_text().count("\n") == 121


def test_the_order_of_the_rows_changes_nothing_but_the_row_numbers(images: Path) -> None:
    header, *lines = lines_of(images)
    shuffled = write_csv(images, "shuffled.csv", [header, *reversed(lines)])
    first, second = prepare_table(images), prepare_table(images, shuffled)
    assert first.folds.equals(second.folds)
    assert first.manifest.drop_columns(["source_row"]).equals(second.manifest.drop_columns(["source_row"]))


def test_phantom_manifest_carries_lesions(tmp_path: Path) -> None:
    phantom = PhantomSettings(folder=tmp_path, patients=20, image_size=64, seed=1)
    prepared = prepare_table(tmp_path, format="phantom", settings=SourceSettings(root=tmp_path, phantom=phantom))
    assert prepared.audit["phantom"] is True
    assert prepared.manifest_metadata["phantom"] is True
    lesions = prepared.manifest["lesions"].to_pylist()
    grades = prepared.manifest["target_grade"].to_pylist()
    assert all((text == "[]") == (grade == 0) for text, grade in zip(lesions, grades, strict=True))


def test_too_many_bad_rows_stop_the_study_and_keep_the_audit(images: Path) -> None:
    header, *lines = lines_of(images)
    bad = [f"absent{index}.png,x{index},1" for index in range(30)]
    name = write_csv(images, "bad.csv", [header, *lines, *bad])
    with pytest.raises(DatasetError) as caught:
        prepare_table(images, name)
    text = str(caught.value)
    assert "30 of 70 rows (42.9%) are unusable" in text
    assert "bad.csv:42: missing_file: absent0.png" in text
    assert "... and 10 more" in text
    assert caught.value.audit is not None
    assert caught.value.audit["dropped"] == {"missing_file": 30}
    assert len(caught.value.audit["problems"]) == 30


def test_few_bad_rows_are_dropped_and_counted(images: Path) -> None:
    name = write_csv(images, "few.csv", [*lines_of(images), "absent.png,x,1"])
    audit = prepare_table(images, name).audit
    assert (audit["n_rows"], audit["n_cases"], audit["n_dropped"]) == (41, 40, 1)
    assert audit["problems"][0]["row"] == 42


def test_a_duplicate_across_patients_stops_the_study(images: Path) -> None:
    (images / "copy.png").write_bytes((images / "P0001_L.png").read_bytes())
    name = write_csv(images, "copies.csv", [*lines_of(images), "copy.png,stranger,1"])
    with pytest.raises(DatasetError, match=r"1 x duplicate.*\n.*copies.csv:42: duplicate: copy.png"):
        prepare_table(images, name)
    relaxed = prepare_table(images, name, audit_settings=AuditSettings(duplicates="warning"))
    assert relaxed.audit["n_cases"] == 41
    assert "1 duplicate pairs across patients" in " ".join(relaxed.audit["warnings"])


def test_more_folds_than_patients_says_so_and_keeps_the_audit(images: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset eyes: protocol.folds is 40.*only 20 patients") as caught:
        prepare_table(images, protocol=Protocol(kind="cross_validation", folds=40))
    assert caught.value.audit is not None


def test_a_label_list_that_does_not_match_is_told_with_the_labels(images: Path) -> None:
    with pytest.raises(DatasetError, match=r"bad_label: label '[234]' is outside 0-1"):
        prepare_table(images, classes=["No", "Yes"])


def test_given_train_and_val_only_is_flagged_everywhere(images: Path) -> None:
    header, *lines = lines_of(images)
    words = ["val" if line.split(",")[1] in ("P0001", "P0002", "P0003", "P0004") else "train" for line in lines]
    rows = [f"{line},{word}" for line, word in zip(lines, words, strict=True)]
    name = write_csv(images, "given.csv", [f"{header},part", *rows])
    settings = SourceSettings(
        root=images, csv=name, columns={"image": "image", "patient": "patient", "label": "grade", "split": "part"}
    )
    prepared = prepare_table(images, settings=settings, protocol=Protocol(kind="given"))
    assert prepared.folds_metadata["selected_and_reported_on_same_cases"] is True
    assert "selected and reported on the same cases" in prepared.audit["warnings"]
    assert set(prepared.folds["split"].to_pylist()) == {"train", "val"}
    crossing = prepare_crossing(images, settings, rows, header)
    assert "P0001" in crossing


def prepare_crossing(images: Path, settings: SourceSettings, rows: list[str], header: str) -> str:
    name = write_csv(images, "crossing.csv", [f"{header},part", rows[0].replace(",val", ",train"), *rows[1:]])
    with pytest.raises(DatasetError) as caught:
        prepare_table(images, settings=replace(settings, csv=name), protocol=Protocol(kind="given"))
    return str(caught.value)


def test_a_stale_failed_audit_goes_when_the_dataset_is_good(images: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit.json"
    failed_audit_path(audit).write_text("{}")
    write_prepared(prepare_table(images), manifest=tmp_path / "m.parquet", folds=tmp_path / "f.parquet", audit=audit)
    assert not failed_audit_path(audit).exists()


def test_an_unknown_format_lists_the_known_ones(images: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown dataset format 'tabel'; did you mean 'table'"):
        prepare_table(images, format="tabel")
