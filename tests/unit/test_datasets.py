"""Readers: every format gives its rows, and what makes a CSV unreadable names the place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from archbench.datasets import DatasetError, Source, SourceSettings, clean_id, locate_image, split_name
from archbench.registry import DATASETS

FOLD_HEADER = "dataset,split,image_path,id_code,patient_id,eye,label,width,height,is_valid\n"


def read(format: str, root: Path, text: str | bytes, **settings: object) -> Source:
    data = text.encode() if isinstance(text, str) else text
    (root / "rows.csv").write_bytes(data)
    return DATASETS.get(format).read(SourceSettings(root=root, csv="rows.csv", **settings))  # type: ignore[arg-type]


TABLE = {"image": "file", "patient": "patient", "label": "grade"}


def test_table_gives_rows_with_editor_line_numbers(tmp_path: Path) -> None:
    source = read("table", tmp_path, 'file,patient,grade,note\na.png,1.0,2,"two\nlines"\n\nb.png,2,,x\n', columns=TABLE)
    assert [(row.image, row.patient_id, row.label, row.row) for row in source.rows] == [
        ("a.png", "1", "2", 2),
        ("b.png", "2", "", 5),
    ]
    assert source.label == "grade"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    text = "file,patient,grade\na.png,p,1\n".replace(",", delimiter)
    assert read("table", tmp_path, text, columns=TABLE).rows[0].patient_id == "p"


def test_semicolons_beat_commas_inside_values(tmp_path: Path) -> None:
    text = "file;patient;grade;a, b, c, d\na.png;p;1;x\n"
    assert read("table", tmp_path, text, columns=TABLE).rows[0].label == "1"


def test_cp1252_with_semicolons_is_read_and_noted(tmp_path: Path) -> None:
    data = "file;patient;grade\na.png;Müller;Präproliferativ\n".encode("cp1252")
    source = read("table", tmp_path, data, columns=TABLE)
    assert (source.rows[0].patient_id, source.rows[0].label) == ("Müller", "Präproliferativ")
    assert "cp1252" in source.notes[0]


def test_utf8_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbffile,patient,grade\na.png,p,1\n"
    assert read("table", tmp_path, data, columns=TABLE).rows[0].image == "a.png"


def test_wrong_encoding_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="encoding 'ascii'"):
        read("table", tmp_path, "file,patient,grade\na.png,é,1\n", columns=TABLE, encoding="ascii")


def test_missing_columns_are_all_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no column 'file'; did you mean 'File'.*no column 'grade'.*'grades'"):
        read("table", tmp_path, "File,patient,grades\na.png,p,1\n", columns=TABLE)


def test_missing_file_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"CSV file not found: .*nothing\.csv"):
        DATASETS.get("table").read(SourceSettings(root=tmp_path, csv="nothing.csv", columns=TABLE))


@pytest.mark.parametrize("text", ["", "\n\n", "file,patient,grade\n"])
def test_empty_files_are_errors(tmp_path: Path, text: str) -> None:
    with pytest.raises(DatasetError, match=r"empty|no rows"):
        read("table", tmp_path, text, columns=TABLE)


def test_a_required_column_that_appears_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="more than once"):
        read("table", tmp_path, "file,patient,grade,grade\na.png,p,1,2\n", columns=TABLE)


def test_rows_of_the_wrong_length_are_marked(tmp_path: Path) -> None:
    source = read("table", tmp_path, "file,patient,grade\na.png,p\nb.png,p,1,9\nc.png,p,1\n", columns=TABLE)
    assert [row.malformed for row in source.rows] == [
        "2 fields where the header has 3",
        "4 fields where the header has 3",
        None,
    ]


def test_table_without_patients_warns(tmp_path: Path) -> None:
    source = read("table", tmp_path, "file,grade\na.png,1\n", columns={"image": "file", "label": "grade"})
    assert source.rows[0].patient_id == "a.png"
    assert "own patient" in source.notes[0]


def test_s0_fold_csv_marks_invalid_rows_and_keeps_the_split(tmp_path: Path) -> None:
    text = FOLD_HEADER + "aptos,train,a.png,a,1,L,0,9,9,True\naptos,val,b.png,b,2,R,7,9,9,False\n"
    rows = read("dr_folds", tmp_path, text).rows
    assert [row.split for row in rows] == ["train", "val"]
    assert rows[0].fault is None
    assert "is_valid is 'False'" in str(rows[1].fault)
    assert [row.patient_id for row in rows] == ["1", "2"]


def test_patients_of_two_sources_do_not_merge(tmp_path: Path) -> None:
    text = FOLD_HEADER + "aptos,train,a.png,a,1,L,0,9,9,True\neyepacs,val,b.png,b,1.0,R,1,9,9,1\n"
    assert [row.patient_id for row in read("dr_folds", tmp_path, text).rows] == ["aptos:1", "eyepacs:1"]


def test_aptos_finds_images_and_says_that_it_has_no_patients(tmp_path: Path) -> None:
    (tmp_path / "train_images").mkdir()
    (tmp_path / "train_images" / "abc.png").touch()
    source = read("aptos", tmp_path, "id_code,diagnosis\nabc,2\nmissing,1\n")
    assert [row.image for row in source.rows] == ["train_images/abc.png", "missing"]
    assert len({row.patient_id for row in source.rows}) == 2
    assert "no patient ids" in source.notes[0]


def test_eyepacs_takes_the_patient_from_the_name(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "10_left.jpeg").touch()
    text = "image,level\n10_left,0\n10_right,3\nodd,1\n"
    source = read("eyepacs", tmp_path, text, images="photos")
    assert [row.patient_id for row in source.rows] == ["10", "10", None]
    assert source.rows[0].image == "photos/10_left.jpeg"


@pytest.mark.parametrize(
    ("text", "expected"), [("123.0", "123"), (" 7 ", "7"), ("1.5", "1.5"), ("a.0", "a.0"), ("0.0", "0"), ("", "")]
)
def test_clean_id(text: str, expected: str) -> None:
    assert clean_id(text) == expected


def test_backslashes_in_paths_become_slashes(tmp_path: Path) -> None:
    assert locate_image(tmp_path, "a\\b.png") == "a/b.png"


@pytest.mark.parametrize(("text", "expected"), [("Training", "train"), ("valid", "val"), ("test", "test"), ("x", None)])
def test_split_words(text: str, expected: str | None) -> None:
    assert split_name(text) == expected
