"""Cases: manifest, folds and image cache are joined by case, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_cases import CLASSES, FOLDS, N, make_cases, split_of, write_cases

from archbench.artifacts import ArtifactError, read_json, read_table, write_json, write_table
from archbench.cases import read_cases


def test_rows_point_at_the_cases_own_pixels(tmp_path: Path) -> None:
    cases = make_cases(tmp_path)
    part = cases.part(0, "test")
    order = read_json(tmp_path / "cache" / "index.json")["case_ids"]
    assert order != sorted(order), "the cache's order must differ from the manifest's for this test to say anything"
    assert [order[row] for row in part.rows] == part.case_ids.tolist()


def test_every_case_is_tested_once_and_parts_dont_meet(tmp_path: Path) -> None:
    cases = make_cases(tmp_path)
    tested = np.concatenate([cases.part(fold, "test").case_ids for fold in range(FOLDS)])
    assert sorted(tested) == sorted(cases.case_ids)
    for fold in range(FOLDS):
        patients = [set(cases.part(fold, split).patient_ids) for split in ("train", "val", "test")]
        assert not patients[0] & patients[1] and not patients[0] & patients[2] and not patients[1] & patients[2]


def test_patients_and_targets_belong_to_their_case(tmp_path: Path) -> None:
    part = make_cases(tmp_path).part(1, "train")
    assert part.case_ids.tolist() == sorted(part.case_ids)
    for case, patient, target in zip(part.case_ids, part.patient_ids, part.targets[:, 0], strict=True):
        number = int(case[4:])
        assert patient == f"patient{number // 2:02d}"
        assert split_of(number // 2, 1) == "train"
        assert np.isnan(target) if number == 5 else target == number % 3


def test_an_unknown_target_stays_unknown(tmp_path: Path) -> None:
    cases = make_cases(tmp_path)
    holder = next(cases.part(f, s) for f in range(FOLDS) for s in ("train", "val", "test")
                  if "case05" in cases.part(f, s).case_ids)  # fmt: skip
    with pytest.raises(ValueError, match=r"use \.known\(\) first"):
        _ = holder.y_true
    assert len(holder.known()) == len(holder) - 1
    assert holder.known().y_true.dtype == np.int64


def test_what_else_is_known(tmp_path: Path) -> None:
    cases = make_cases(tmp_path, clahe=True)
    assert (cases.classes, cases.labels, cases.phantom) == (CLASSES, ("grade",), True)
    assert len(cases.lesions) == N // 2 and cases.lesions["case01"][0]["radius"] == 3.0
    assert cases.cache.clahe is not None
    assert len(cases.part(7, "test")) == 0, "a fold that isn't there is empty"


def test_folds_of_other_data_are_refused(tmp_path: Path) -> None:
    files = write_cases(tmp_path)
    table, metadata = read_table(files["folds"])
    stranger = pa.table({"case_id": ["case99"], "fold": [0], "split": ["test"]})
    write_table(files["folds"], pa.concat_tables([table, stranger]), metadata)
    with pytest.raises(ArtifactError, match=r"names cases that .*manifest\.parquet lacks, such as 'case99'"):
        read_cases(**files)


def test_cache_of_other_data_is_refused(tmp_path: Path) -> None:
    files = write_cases(tmp_path)
    index = read_json(tmp_path / "cache" / "index.json")
    index["case_ids"][0] = "another"
    write_json(tmp_path / "cache" / "index.json", index)
    cases = read_cases(**files)
    with pytest.raises(ArtifactError, match="not in the image cache"):
        [cases.part(fold, "test") for fold in range(FOLDS)]
