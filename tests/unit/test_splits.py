"""Splits: patients never cross, classes spread, the order of the rows does not matter."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archbench.splits import (
    PARTS,
    TEST,
    TRAIN,
    VAL,
    Protocol,
    SplitError,
    Splits,
    assert_no_patient_crosses,
    make_splits,
)

DR600 = (276, 99, 166, 32, 16)


def split(patients: list[str], y: np.ndarray, protocol: Protocol, **source: object) -> Splits:
    case_ids = [f"case{index:05d}" for index in range(len(patients))]
    return make_splits(case_ids=case_ids, patient_ids=patients, y=y, n_classes=5, protocol=protocol, **source)  # type: ignore[arg-type]


def dr600_like(seed: int) -> tuple[list[str], np.ndarray]:
    """Two eyes per patient, neighbouring grades, the class counts of 600 real photographs."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(5), DR600)
    y = y[np.argsort(y + rng.normal(0, 0.6, len(y)), kind="stable")]
    return [f"p{index // 2}" for index in range(len(y))], y


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=12, max_size=40),
    folds=st.integers(2, 5),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["cross_validation", "holdout"]),
)
def test_patients_never_cross_and_each_is_tested_once(sizes: list[int], folds: int, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    patients = [f"p{index}" for index, size in enumerate(sizes) for _ in range(size)]
    y = rng.integers(0, 5, len(patients))
    parts = split(patients, y, Protocol(kind=kind, folds=folds, split_seed=seed)).parts
    for row in parts:
        for patient in set(patients):
            assert len({int(part) for part, name in zip(row, patients, strict=True) if name == patient}) == 1
        assert {TRAIN, VAL, TEST} == set(row.tolist())
    if kind == "cross_validation":
        assert ((parts == TEST).sum(axis=0) == 1).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_row_order_does_not_matter_and_the_seed_does(seed: int) -> None:
    patients, y = dr600_like(0)
    order = np.random.default_rng(seed).permutation(len(y))
    case_ids = np.array([f"c{index}" for index in range(len(y))])

    def parts(rows: np.ndarray, split_seed: int) -> np.ndarray:
        return make_splits(
            case_ids=case_ids[rows].tolist(),
            patient_ids=[patients[index] for index in rows],
            y=y[rows],
            n_classes=5,
            protocol=Protocol(kind="cross_validation", folds=5, split_seed=split_seed),
        ).parts

    plain = parts(np.arange(len(y)), 42)
    assert np.array_equal(parts(order, 42), plain[:, order])
    assert not np.array_equal(parts(np.arange(len(y)), seed + 43), plain)


@pytest.mark.parametrize("seed", range(4))
def test_grades_spread_as_evenly_as_whole_patients_allow(seed: int) -> None:
    patients, y = dr600_like(seed)
    parts = split(patients, y, Protocol(kind="cross_validation", folds=5, split_seed=seed)).parts
    ours = np.array([np.bincount(y[row == TEST], minlength=5) for row in parts])
    n_patients = [len({name for name, part in zip(patients, row, strict=True) if part == TEST}) for row in parts]
    assert np.abs(ours - np.array(DR600) / 5).max() <= 2
    assert np.ptp(n_patients) <= 2


@pytest.mark.parametrize("seed", range(4))
def test_scattered_patients_spread_like_those_of_scikit_learn(seed: int) -> None:
    """Grades as even as there (chi-square over 25 cells within 1), patients at least as even."""
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(seed)
    patients = [f"p{index}" for index, size in enumerate(rng.integers(1, 7, 120)) for _ in range(size)]
    y = rng.choice(5, len(patients), p=[0.46, 0.17, 0.28, 0.06, 0.03])
    target = np.bincount(y, minlength=5) / 5
    parts = split(patients, y, Protocol(kind="cross_validation", folds=5, split_seed=seed)).parts
    reference = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(y, y, patients)
    tests = ([np.flatnonzero(row == TEST) for row in parts], [test for _, test in reference])
    grades = [
        sum((((np.bincount(y[rows], minlength=5) - target) ** 2) / target).sum() for rows in test) for test in tests
    ]
    n_patients = [[len({patients[index] for index in rows}) for rows in test] for test in tests]
    assert grades[0] <= grades[1] + 1
    assert np.ptp(n_patients[0]) <= np.ptp(n_patients[1])


def test_validation_has_its_share_of_every_class() -> None:
    patients, y = dr600_like(1)
    for row in split(patients, y, Protocol(kind="cross_validation", folds=5, validation_fraction=0.15)).parts:
        rest = row != TEST
        assert abs((row == VAL).sum() / rest.sum() - 0.15) < 0.02
        assert (np.bincount(y[row == VAL], minlength=5) > 0).all()


def test_more_folds_than_patients_is_an_error() -> None:
    with pytest.raises(SplitError, match=r"folds is 5.*only 3 patients"):
        split(["a", "b", "c", "c"], np.zeros(4, int), Protocol(kind="cross_validation", folds=5))


def test_holdout_has_the_fractions_asked_for() -> None:
    patients, y = dr600_like(2)
    protocol = Protocol(kind="holdout", test_fraction=0.3, validation_fraction=0.2)
    row = split(patients, y, protocol).parts[0]
    assert abs((row == TEST).mean() - 0.3) < 0.02
    assert abs((row == VAL).sum() / (row != TEST).sum() - 0.2) < 0.02


def test_given_split_without_a_test_part_is_flagged() -> None:
    words = ["train", "train", "val", "val"]
    result = split(["a", "a", "b", "c"], np.array([0, 1, 0, 1]), Protocol(kind="given"), given_split=words)
    assert result.selected_and_reported_on_same_cases
    assert result.warnings == ("selected and reported on the same cases",)
    assert [PARTS[part] for part in result.parts[0]] == words


def test_given_split_that_tears_a_patient_apart_names_the_patient() -> None:
    words = ["train", "val", "train"]
    with pytest.raises(SplitError, match=r"torn \(train and val\)"):
        split(["torn", "torn", "b"], np.array([0, 1, 0]), Protocol(kind="given"), given_split=words)


def test_given_train_and_test_get_a_validation_part_from_train() -> None:
    words = ["train"] * 20 + ["test"] * 6
    result = split([f"p{i}" for i in range(26)], np.arange(26) % 5, Protocol(kind="given"), given_split=words)
    assert not result.selected_and_reported_on_same_cases
    assert (result.parts[0] == TEST).tolist() == [word == "test" for word in words]
    assert (result.parts[0] == VAL).sum() in (2, 3, 4)


def test_given_folds_are_the_test_parts() -> None:
    fold = np.arange(30) % 3 + 1
    result = split(
        [f"p{i}" for i in range(30)], np.arange(30) % 5, Protocol(kind="given", folds=3), given_fold=fold.tolist()
    )
    for index, row in enumerate(result.parts):
        assert np.array_equal(row == TEST, fold == index + 1)
    with pytest.raises(SplitError, match=r"set protocol\.folds: 3"):
        split([f"p{i}" for i in range(30)], np.arange(30) % 5, Protocol(kind="given"), given_fold=fold.tolist())


def test_given_without_columns_is_an_error() -> None:
    with pytest.raises(SplitError, match="neither"):
        split(["a", "b"], np.array([0, 1]), Protocol(kind="given"))


def test_holdout_says_when_it_does_not_use_a_split_column_without_test() -> None:
    patients, y = dr600_like(0)
    result = split(patients, y, Protocol(kind="holdout"), given_split=["train"] * (len(y) - 2) + ["val"] * 2)
    assert "no test part" in result.warnings[0]


def test_the_crossing_check_finds_a_crossing() -> None:
    with pytest.raises(SplitError, match="fold 1: a"):
        assert_no_patient_crosses(parts=np.array([[0, 0, 2], [0, 1, 2]]), patient_ids=["a", "a", "b"])


def test_fifty_thousand_cases_split_in_seconds() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(5, 50_000, p=[0.73, 0.07, 0.15, 0.03, 0.02])
    begin = time.monotonic()
    split([f"p{i // 2}" for i in range(50_000)], y, Protocol(kind="holdout"))
    assert time.monotonic() - begin < 20
