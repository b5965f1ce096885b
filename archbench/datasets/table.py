"""Any CSV: its columns for image, patient, label, split and fold are named in the configuration."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from archbench.datasets import DatasetError, RawRow, Reader, Source, SourceSettings, clean_id, locate_image
from archbench.registry import DATASETS, suggest

DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class CsvRow:
    """The values of one record by column name, the line it starts at, and what is wrong with its shape."""

    row: int
    values: Mapping[str, str]
    malformed: str | None


def read_table(settings: SourceSettings) -> Source:
    """The rows of a CSV whose columns the configuration names.

    Raises:
        DatasetError: If the file is missing or unreadable, or a named column does not exist.
    """
    columns = dict(settings.columns)
    for role in ("image",) if settings.labels else ("image", "label"):
        if role not in columns:
            raise DatasetError(f"columns.{role} is not set: name the CSV column that holds the {role}")
    path, records, notes = read_csv(settings, required=(*columns.values(), *settings.labels))
    if "patient" not in columns:
        notes.append(
            "no patient column is configured: each image counts as its own patient, so that two images of "
            "one person may lie on both sides of a split; set columns.patient if there is one"
        )
    rows = tuple(_raw_row(path.name, record, columns, settings) for record in records)
    label = columns.get("label", "")
    return Source(rows=rows, root=settings.root, label=label, notes=tuple(notes), labels=settings.labels)


def _raw_row(file: str, record: CsvRow, columns: Mapping[str, str], settings: SourceSettings) -> RawRow:
    values = record.values
    image = locate_image(settings.root, values[columns["image"]])
    patient = clean_id(values[columns["patient"]]) if "patient" in columns else image
    return RawRow(
        file=file,
        row=record.row,
        image=image,
        patient_id=patient or None,
        label=values[columns["label"]].strip() if "label" in columns else "",
        labels=tuple(values[name].strip() for name in settings.labels),
        split=values[columns["split"]].strip() if "split" in columns else "",
        fold=clean_id(values[columns["fold"]]) if "fold" in columns else "",
        malformed=record.malformed,
    )


def read_csv(settings: SourceSettings, *, required: tuple[str, ...]) -> tuple[Path, list[CsvRow], list[str]]:
    """The path, the records and the notes (guessed encoding) of the dataset's CSV.

    Args:
        required: Columns that must exist.
    Raises:
        DatasetError: If the file is missing, empty, not decodable, or lacks a required column.
    """
    if not settings.csv:
        raise DatasetError("csv is not set: name the CSV file, relative to root")
    path = settings.root / settings.csv
    if not path.is_file():
        raise DatasetError(f"CSV file not found: {path} (csv is relative to root; root is {settings.root})")
    text, notes = _decode_text(path, encoding=settings.encoding)
    delimiter = settings.delimiter or _sniff_delimiter(text, required=required)
    try:
        records = list(_records(text, delimiter=delimiter, required=required, path=path))
    except csv.Error as error:
        raise DatasetError(f"{path}: not a readable CSV ({error})") from error
    if not records:
        raise DatasetError(f"{path}: no rows below the header")
    return path, records, notes


def _decode_text(path: Path, *, encoding: str | None) -> tuple[str, list[str]]:
    data = path.read_bytes()
    if encoding is not None:
        try:
            return data.decode(encoding), []
        except (UnicodeDecodeError, LookupError) as error:
            raise DatasetError(f"{path}: can't be read with encoding {encoding!r}: {error}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16"), []
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        guess = "cp1252"
    try:
        text = data.decode(guess)
    except UnicodeDecodeError:
        guess = "latin-1"
        text = data.decode(guess)
    return text, [f"{path.name}: not UTF-8, read as {guess}; set encoding to be sure"]


def _sniff_delimiter(text: str, *, required: tuple[str, ...]) -> str:
    """The delimiter under which the header has the required columns, else the most columns."""
    first_line = next((line for line in text.splitlines() if line.strip()), "")

    def merit(delimiter: str) -> tuple[int, int]:
        header = [name.strip() for name in next(csv.reader([first_line], delimiter=delimiter), [])]
        return sum(name in header for name in required), len(header)

    return max(DELIMITERS, key=merit)


def _records(text: str, *, delimiter: str, required: tuple[str, ...], path: Path) -> Iterator[CsvRow]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [name.strip() for name in next((record for record in reader if any(record)), [])]
    _check_header(header, required=required, path=path)
    line = reader.line_num
    for record in reader:
        start, line = line + 1, reader.line_num
        if not any(field.strip() for field in record):
            continue
        malformed = None
        if len(record) != len(header):
            malformed = f"{len(record)} fields where the header has {len(header)}"
        padded = record + [""] * (len(header) - len(record))
        yield CsvRow(row=start, values=dict(zip(header, padded, strict=False)), malformed=malformed)


def _check_header(header: list[str], *, required: tuple[str, ...], path: Path) -> None:
    if not header:
        raise DatasetError(f"{path}: the file is empty")
    problems = []
    for name in required:
        if name not in header:
            same = [known for known in header if known.lower() == name.lower()]
            problems.append(f"no column '{name}'" + (f"; did you mean '{same[0]}'?" if same else suggest(name, header)))
    repeated = sorted({name for name in header if name and header.count(name) > 1} & set(required))
    problems += [f"column {name!r} appears more than once" for name in repeated]
    if problems:
        raise DatasetError(f"{path}: {'; '.join(problems)}. Columns there: {', '.join(header)}")


DATASETS.register("table", Reader(read=read_table, summary="any CSV; its columns are named in the configuration"))
