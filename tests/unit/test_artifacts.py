"""Exchanged files: whole or absent, byte-stable, checked on reading."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from archbench.artifacts import (
    ArtifactError,
    Predictions,
    atomic_path,
    decide,
    numeric_column,
    provenance,
    read_json,
    read_predictions,
    read_table,
    undefined,
    write_json,
    write_predictions,
    write_table,
)


def predictions(n: int = 6) -> Predictions:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 3, size=(n, 1)).astype(np.float64)
    targets[1] = np.nan
    return Predictions(
        case_id=np.array([f"case{i}" for i in range(n)]),
        patient_id=np.array([f"patient{i // 2}" for i in range(n)]),
        split=np.array(["val", "test"] * (n // 2)),
        fold=np.arange(n) % 2,
        seed=np.arange(n) // 3,
        logits=generator.normal(size=(n, 3)).astype(np.float32),
        targets=targets,
        classes=("No DR", "Mild", "Größer"),
        labels=("grade",),
        metadata={"provenance": {"study": "s"}},
    )


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"old": 1})

    def fail_halfway() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyError("interrupted")

    with pytest.raises(KeyError, match="interrupted"):
        fail_halfway()
    assert read_json(path) == {"old": 1}
    assert os.listdir(path.parent) == ["a.json"]


def test_a_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent, "a rename across file systems isn't atomic"
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("")
    write_json(tmp_path / "a.json", 1)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain.txt", "a.json")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan"), np.array([1.0, np.nan])])
def test_json_refuses_undefined_numbers(tmp_path: Path, value: object) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"value": value})
    assert not list(tmp_path.iterdir())


def test_json_takes_numpy_and_paths(tmp_path: Path) -> None:
    content = {"n": np.int64(3), "x": np.float32(0.5), "a": np.arange(3), "b": np.bool_(True), "p": Path("a") / "b"}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == {"n": 3, "x": 0.5, "a": [0, 1, 2], "b": True, "p": "a/b"}
    with pytest.raises(TypeError, match="set can't be written as JSON"):
        write_json(tmp_path / "b.json", {"s": {1}})


def test_missing_and_damaged_files_say_what_to_do(tmp_path: Path) -> None:
    for read, name in ((read_json, "a.json"), (read_table, "a.parquet")):
        with pytest.raises(ArtifactError, match=rf"{name} is missing: run the rule that makes it"):
            read(tmp_path / name)
        (tmp_path / name).write_bytes(b"PAR1 half")
        with pytest.raises(ArtifactError, match=rf"{name} is .*delete it and run snakemake again"):
            read(tmp_path / name)


def test_table_without_metadata_is_not_ours(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ArtifactError, match="was not written by archbench"):
        read_table(tmp_path / "a.parquet")


def test_table_round_trip_with_nulls(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([1, None, 3], pa.int8()), "b": ["x", "y", "z"]})
    write_table(tmp_path / "a.parquet", table, {"key": {"nested": "ü"}})
    back, metadata = read_table(tmp_path / "a.parquet")
    assert metadata == {"key": {"nested": "ü"}}
    assert back["b"].to_pylist() == ["x", "y", "z"]
    np.testing.assert_array_equal(numeric_column(back, "a"), [1, np.nan, 3])


def test_predictions_round_trip(tmp_path: Path) -> None:
    written = predictions()
    write_predictions(tmp_path / "p.parquet", written)
    back, expected = read_predictions(tmp_path / "p.parquet", written.classes), written.sorted()
    for name in ("case_id", "patient_id", "split", "fold", "seed", "logits", "targets"):
        np.testing.assert_array_equal(getattr(back, name), getattr(expected, name))
    assert back.logits.dtype == np.float32
    assert (back.classes, back.labels, back.metadata) == (written.classes, written.labels, written.metadata)


def test_equal_content_is_equal_bytes_whatever_the_row_order(tmp_path: Path) -> None:
    one = predictions()
    other = one.select(np.random.default_rng(1).permutation(len(one)))
    write_predictions(tmp_path / "a.parquet", one)
    write_predictions(tmp_path / "b.parquet", replace(other, metadata=dict(reversed(one.metadata.items()))))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_unknown_target_is_null_in_the_file(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.parquet", predictions())
    table, _ = read_table(tmp_path / "p.parquet")
    values = dict(zip(table["case_id"].to_pylist(), table["target_grade"].to_pylist(), strict=True))
    assert values["case1"] is None
    assert sum(value is None for value in values.values()) == 1
    back = read_predictions(tmp_path / "p.parquet")
    assert np.isnan(back.targets[back.case_id == "case1"]).all()
    assert len(back.known()) == len(back) - 1


def test_another_class_order_is_refused(tmp_path: Path) -> None:
    written = predictions()
    write_predictions(tmp_path / "p.parquet", written)
    with pytest.raises(ArtifactError, match=r"has the classes .* expected \['Mild', 'No DR', 'Größer'\] in this order"):
        read_predictions(tmp_path / "p.parquet", ("Mild", "No DR", "Größer"))


def test_swapped_or_missing_columns_are_refused(tmp_path: Path) -> None:
    written = predictions()
    write_predictions(tmp_path / "p.parquet", written)
    table, metadata = read_table(tmp_path / "p.parquet")
    names = table.column_names
    swapped = [*names[:5], names[6], names[5], *names[7:]]
    write_table(tmp_path / "swapped.parquet", table.select(swapped), metadata)
    with pytest.raises(ArtifactError, match="do not match its declared classes"):
        read_predictions(tmp_path / "swapped.parquet")
    write_table(tmp_path / "short.parquet", table.drop_columns(["patient_id"]), metadata)
    with pytest.raises(ArtifactError, match=r"lacks the columns \['patient_id'\]"):
        read_predictions(tmp_path / "short.parquet")


def test_prediction_tables_check_their_shapes_and_splits() -> None:
    good = predictions()
    with pytest.raises(ValueError, match="logits have shape"):
        replace(good, classes=("a", "b"))
    with pytest.raises(ValueError, match="targets have shape"):
        replace(good, labels=("a", "b"))
    with pytest.raises(ValueError, match=r"val and test rows only, found \['train'\]"):
        replace(good, split=np.array(["train", *good.split[1:]]))


def test_parts_and_known_targets() -> None:
    table = predictions()
    assert set(table.test.split) == {"test"} and set(table.val.split) == {"val"}
    assert len(table.test) + len(table.val) == len(table)
    with pytest.raises(ValueError, match=r"use \.known\(\) first"):
        _ = table.y_true
    assert table.known().y_true.dtype == np.int64


def test_undefined_records_have_a_reason_and_no_value() -> None:
    record = undefined("auroc", "one class only", 5, 3)
    assert record == {
        "name": "auroc",
        "value": None,
        "low": None,
        "high": None,
        "n_cases": 5,
        "n_patients": 3,
        "method": "none",
        "reason": "one class only",
    }


def test_provenance_is_the_same_for_equal_runs() -> None:
    settings = {"study": "s", "dataset": "d", "model": "m", "config_hash": "h", "code": "c"}
    first, second = provenance(**settings), provenance(**settings)
    assert first == second
    assert {"study", "dataset", "model", "config_hash", "code", "device", "packages"} <= set(first)
    assert {"torch", "numpy", "timm"} <= set(first["packages"])


def test_the_expected_grade_is_the_bayes_decision_under_squared_distance() -> None:
    probabilities = np.random.default_rng(0).dirichlet([0.4] * 5, size=200)
    grades = np.arange(5)
    risk = probabilities @ (grades[:, None] - grades[None, :]) ** 2
    np.testing.assert_array_equal(decide(probabilities, "expected_grade"), risk.argmin(axis=1))
    np.testing.assert_array_equal(decide(probabilities, "argmax"), probabilities.argmax(axis=1))
    with pytest.raises(ValueError, match="known: argmax, expected_grade"):
        decide(probabilities, "median")


def test_parts_of_a_table_keep_the_numbers_of_their_patients_and_cases() -> None:
    table = predictions()
    numbers = table.patient_code
    part = table.select(np.array([5, 1, 4]))
    assert part.__dict__["patient_code"].tolist() == numbers[[5, 1, 4]].tolist()
    names = dict(zip(numbers.tolist(), table.patient_id.tolist(), strict=True))
    assert [names[number] for number in part.patient_code.tolist()] == part.patient_id.tolist()
    other = table.having(logits=-table.logits)
    assert other.__dict__["patient_code"] is numbers and (other.logits == -table.logits).all()
    with pytest.raises(ValueError, match="other cases are another table"):
        table.having(patient_id=table.case_id)
    assert len(np.unique(replace(table, patient_id=table.case_id).patient_code)) == len(table)
