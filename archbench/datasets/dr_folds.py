"""The fold CSV of the diabetic-retinopathy grading study: one file per fold, with a train/val column.

Columns: dataset, split, image_path, id_code, patient_id, eye, label, width, height, is_valid
(also source_split and source_file, which nothing here needs).
"""

from __future__ import annotations

from archbench.datasets import RawRow, Reader, Source, SourceSettings, clean_id, locate_image
from archbench.datasets.table import CsvRow, read_csv
from archbench.registry import DATASETS

REQUIRED = ("split", "image_path", "patient_id", "label", "is_valid")
FALSE_WORDS = frozenset({"false", "0", "0.0", "no", "f", "n"})


def read_dr_folds(settings: SourceSettings) -> Source:
    """The rows of one fold CSV; rows that its `is_valid` column rules out carry the reason.

    Raises:
        DatasetError: If the file is missing or unreadable, or a column does not exist.
    """
    path, records, notes = read_csv(settings, required=REQUIRED)
    # Two sources may both count their patients from 1: only source and number together name a person.
    several = len({record.values.get("dataset", "") for record in records}) > 1
    rows = tuple(_raw_row(path.name, record, settings, several_sources=several) for record in records)
    return Source(rows=rows, root=settings.root, label="label", notes=tuple(notes))


def _raw_row(file: str, record: CsvRow, settings: SourceSettings, *, several_sources: bool) -> RawRow:
    values = record.values
    patient = clean_id(values["patient_id"])
    if patient and several_sources:
        patient = f"{values['dataset'].strip()}:{patient}"
    valid = values["is_valid"].strip()
    return RawRow(
        file=file,
        row=record.row,
        image=locate_image(settings.root, values["image_path"]),
        patient_id=patient or None,
        label=values["label"].strip(),
        split=values["split"].strip(),
        fault=f"marked invalid by its source (is_valid is {valid!r})" if valid.lower() in FALSE_WORDS else None,
        malformed=record.malformed,
    )


DATASETS.register("dr_folds", Reader(read=read_dr_folds, summary="a fold CSV with train/val and is_valid columns"))
