"""Audit: all problems at once, each with file, row and case; nothing is dropped silently."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from archbench.audit import Audit, AuditSettings, audit_source, parse_label
from archbench.datasets import RawRow, Source, SourceSettings
from archbench.near_duplicates import FileFacts, inspect_file, near_duplicate_pairs
from archbench.registry import DATASETS

CLASSES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative")


def picture(seed: int, side: int = 160) -> Image.Image:
    """A picture with random detail, so that two seeds are no near duplicates."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def raw(row: int, image: str, *, patient: str | None = "", label: str = "0", **rest: str) -> RawRow:
    return RawRow("rows.csv", row, image, f"p{row}" if patient == "" else patient, label, **rest)


def run_audit(
    root: Path,
    rows: Sequence[RawRow],
    *,
    settings: AuditSettings | None = None,
    missing_label: str = "drop",
    exclude: Mapping[str, Sequence[str]] | None = None,
    use_split: bool = False,
    use_fold: bool = False,
) -> Audit:
    return audit_source(
        Source(rows=tuple(rows), root=root, label="grade"),
        classes=CLASSES,
        missing_label=missing_label,
        exclude=exclude or {},
        settings=settings or AuditSettings(),
        intensity="full_range",
        use_split=use_split,
        use_fold=use_fold,
        threads=2,
    )


def found(audit: Audit) -> list[tuple[str, str, int | None]]:
    return sorted((problem.kind, problem.severity, problem.row) for problem in audit.problems)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(6):
        (tmp_path / f"{seed}.jpg").write_bytes(jpeg(picture(seed)))
    return tmp_path


def test_clean_rows_all_stay_sorted_by_case(folder: Path) -> None:
    audit = run_audit(folder, [raw(row, f"{7 - row}.jpg", label=str(row % 5)) for row in range(2, 8)])
    assert [case.case_id for case in audit.cases] == [f"{index}.jpg" for index in range(6)]
    assert audit.problems == []
    assert (audit.cases[0].facts.width, audit.cases[0].facts.height) == (160, 160)


def test_every_problem_is_found_in_one_pass(folder: Path) -> None:
    whole = jpeg(picture(9))
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_bytes(b"hello")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "large.png").write_bytes(b"")
    picture(10, side=300).save(folder / "large.png")
    rows = [
        raw(2, "0.jpg"),
        raw(3, "absent.jpg"),
        raw(4, "truncated.jpg"),
        raw(5, "text.jpg"),
        raw(6, "empty.jpg"),
        raw(7, "large.png"),
        raw(8, "1.jpg", label="7"),
        raw(9, "2.jpg", label=""),
        raw(10, "3.jpg", patient=None),
        raw(11, "0.jpg", patient="p2"),
        raw(12, "../outside.jpg"),
        raw(13, "/etc/hostname"),
        raw(14, "4.jpg", fault="marked invalid by its source (is_valid is 'False')"),
        raw(15, "5.jpg", malformed="2 fields where the header has 3"),
        raw(16, "", label="1"),
        raw(17, "absent.png", label="x"),
    ]
    audit = run_audit(folder, rows, settings=AuditSettings(max_pixels=40_000))
    assert found(audit) == sorted(
        [
            ("missing_file", "warning", 3),
            ("truncated", "warning", 4),
            ("unreadable", "warning", 5),
            ("unreadable", "warning", 6),
            ("oversized", "warning", 7),
            ("bad_label", "warning", 8),
            ("missing_label", "info", 9),
            ("no_patient", "warning", 10),
            ("duplicate_row", "warning", 11),
            ("invalid_row", "warning", 12),
            ("invalid_row", "warning", 13),
            ("invalid_row", "info", 14),
            ("invalid_row", "warning", 15),
            ("invalid_row", "warning", 16),
            ("bad_label", "warning", 17),
            ("missing_file", "warning", 17),
        ]
    )
    assert [case.case_id for case in audit.cases] == ["0.jpg"]
    assert len(audit.dropped) == len(rows) - 1
    assert len(audit.bad) == len(audit.dropped) - 2
    assert {problem.file for problem in audit.problems} == {"rows.csv"}


def test_s0_invalid_rows_and_labels_outside_the_range_are_reported_and_dropped(folder: Path) -> None:
    """Of the fold CSV, rows with is_valid false or a label outside 0-4 must not vanish."""
    header = "dataset,split,image_path,id_code,patient_id,eye,label,width,height,is_valid\n"
    lines = ["a,train,0.jpg,x,1,L,0,9,9,True", "a,train,1.jpg,x,2,L,5,9,9,True", "a,val,2.jpg,x,3,L,-1,9,9,True",
             "a,val,3.jpg,x,4,R,4.0,9,9,False", "a,val,4.jpg,x,5,R,4.0,9,9,True"]  # fmt: skip
    (folder / "fold0.csv").write_text(header + "\n".join(lines))
    source = DATASETS.get("dr_folds").read(SourceSettings(root=folder, csv="fold0.csv"))
    audit = run_audit(folder, source.rows, use_split=True)
    assert found(audit) == [("bad_label", "warning", 3), ("bad_label", "warning", 4), ("invalid_row", "info", 5)]
    assert [(case.case_id, case.y) for case in audit.cases] == [("0.jpg", 0), ("4.jpg", 4)]
    assert "1 rows are marked invalid" in " ".join(audit.warnings)


def test_exclusions_are_recorded_and_unused_ones_warn(folder: Path) -> None:
    rows = [raw(2, "0.jpg", patient="a"), raw(3, "./1.jpg", patient="b"), raw(4, "2.jpg", patient="c")]
    audit = run_audit(folder, rows, exclude={"patient": ["a", "nobody"], "image": ["1.jpg", "9.jpg"]})
    assert found(audit) == [("excluded", "info", 2), ("excluded", "info", 3)]
    assert audit.bad == set()
    unused = [warning for warning in audit.warnings if "matches no row" in warning]
    assert len(unused) == 2
    assert "'9.jpg'" in unused[0]
    assert "'nobody'" in unused[1]


def test_an_excluded_row_is_not_looked_at(folder: Path) -> None:
    audit = run_audit(folder, [raw(2, "0.jpg"), raw(3, "absent.jpg", label="9")], exclude={"patient": ["p3"]})
    assert found(audit) == [("excluded", "info", 3)]


def test_missing_labels_are_an_error_where_asked(folder: Path) -> None:
    audit = run_audit(folder, [raw(2, "0.jpg"), raw(3, "1.jpg", label="NaN")], missing_label="error")
    assert found(audit) == [("missing_label", "error", 3)]


def test_rows_that_contradict_each_other_are_all_dropped(folder: Path) -> None:
    rows = [raw(2, "0.jpg", patient="a", label="1"), raw(3, "./0.jpg", patient="a", label="2"), raw(4, "1.jpg")]
    audit = run_audit(folder, rows)
    assert found(audit) == [("duplicate_row", "warning", 2), ("duplicate_row", "warning", 3)]
    assert "contradicts" in audit.problems[0].message
    assert [case.case_id for case in audit.cases] == ["1.jpg"]


@pytest.mark.parametrize("severity", ["error", "warning", "off"])
def test_the_same_content_under_two_patients(folder: Path, severity: str) -> None:
    (folder / "copy.jpg").write_bytes((folder / "0.jpg").read_bytes())
    (folder / "again.jpg").write_bytes((folder / "1.jpg").read_bytes())
    rows = [raw(2, "0.jpg"), raw(3, "copy.jpg"), raw(4, "1.jpg", patient="x"), raw(5, "again.jpg", patient="x")]
    audit = run_audit(folder, rows, settings=AuditSettings(duplicates=severity))
    across = [] if severity == "off" else [("duplicate", severity, 3)]
    assert found(audit) == sorted([*across, ("duplicate", "info", 5)])
    assert len(audit.cases) == 4


@pytest.mark.parametrize("severity", ["error", "warning", "off"])
def test_a_smaller_brighter_copy_is_a_near_duplicate_and_others_are_not(folder: Path, severity: str) -> None:
    copy = picture(0).resize((120, 120)).point(lambda value: min(255, value * 1.08 + 4))
    (folder / "copy.jpg").write_bytes(jpeg(copy, quality=70))
    rows = [raw(row, f"{row - 2}.jpg") for row in range(2, 8)] + [raw(8, "copy.jpg")]
    audit = run_audit(folder, rows, settings=AuditSettings(near_duplicates=severity))
    near = [problem for problem in audit.problems if problem.kind == "near_duplicate"]
    assert [problem.severity for problem in near] == ([] if severity == "off" else [severity])
    assert all("0.jpg" in problem.message and "copy.jpg" in problem.message for problem in near)


def test_near_duplicate_pairs_agree_with_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(40, 64)).astype(np.float32)
    details = np.vstack([base, base + 0.1 * rng.normal(size=base.shape)])
    details /= np.linalg.norm(details, axis=1, keepdims=True)
    hashes = rng.integers(0, 2**8, 80).tolist()
    facts = [FileFacts(str(i), 1, 1, hashes[i], details[i].astype(np.float16)) for i in range(80)]
    expected = {
        (i, j)
        for i in range(80)
        for j in range(i + 1, 80)
        if (hashes[i] ^ hashes[j]).bit_count() <= 4 and details[i] @ details[j] >= 0.94
    }
    assert len(expected) > 10
    assert {(pair.first, pair.second) for pair in near_duplicate_pairs(facts, distance=4)} == expected


def test_facts_of_rotated_and_deep_images(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0).resize((200, 100)).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray((np.arange(5000, dtype=np.uint16) * 13).reshape(50, 100)).save(tmp_path / "deep.png")
    sizes = [
        (facts.width, facts.height)
        for facts in (
            inspect_file(tmp_path / name, max_pixels=10**6, intensity="full_range")
            for name in ("turned.jpg", "deep.png")
        )
    ]
    assert sizes == [(100, 200), (100, 50)]


def test_split_and_fold_words_are_checked_only_where_used(folder: Path) -> None:
    rows = [raw(2, "0.jpg", split="Training", fold="1"), raw(3, "1.jpg", split="holdout", fold="x")]
    assert run_audit(folder, rows).problems == []
    used = run_audit(folder, rows, use_split=True, use_fold=True)
    assert found(used) == [("invalid_row", "warning", 3), ("invalid_row", "warning", 3)]


def test_a_class_without_cases_is_a_warning(folder: Path) -> None:
    audit = run_audit(folder, [raw(2, "0.jpg", label="mild")])
    assert "No DR, Moderate, Severe, Proliferative" in audit.warnings[0]


@given(st.integers(0, 4), st.sampled_from(["{}", " {} ", "{}.0", "{}.00"]))
def test_labels_as_numbers(label: int, pattern: str) -> None:
    assert parse_label(pattern.format(label), classes=CLASSES) == label


@pytest.mark.parametrize(("text", "expected"), [("no dr", 0), ("SEVERE ", 3), ("", None), ("nan", None), ("N/A", None)])
def test_labels_as_names_and_blanks(text: str, expected: int | None) -> None:
    assert parse_label(text, classes=CLASSES) == expected


@pytest.mark.parametrize("text", ["5", "-1", "1.5", "inf", "severest", "1e9"])
def test_labels_outside_the_classes(text: str) -> None:
    with pytest.raises(ValueError, match=r"outside 0-4|not among the classes"):
        parse_label(text, classes=CLASSES)


def test_names_count_before_numbers() -> None:
    assert parse_label("2", classes=("1", "2", "3")) == 1
