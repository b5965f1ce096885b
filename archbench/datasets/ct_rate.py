"""CT-RATE: `VolumeName` and a column of 0 and 1 per abnormality, in any order; metadata in a second table.

The name says who and what: `train_1_a_2.nii.gz` is part train, patient 1, scan a, reconstruction 2. All scans and
reconstructions of a patient share the patient `train_1`, so that no split parts them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from archbench.datasets import DatasetError, RawRow, Reader, Source, SourceSettings, split_name
from archbench.datasets.table import CsvRow, read_csv
from archbench.registry import DATASETS
from archbench_predict.volume_metadata import NAME, SUFFIXES, declared_facts, stem

LABELS = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
PARTS = re.compile(r"(?P<split>[A-Za-z]+)_(?P<patient>\w+?)_(?P<scan>[A-Za-z]+)_(?P<reconstruction>\d+)")
LISTED = 3


def read_ct_rate(settings: SourceSettings) -> Source:
    """The rows of a label table, each with its volume's file and what the metadata table declares of it.

    Raises:
        DatasetError: If a table is missing or lacks a column, or the folder holds no volume at all.
    """
    labels = settings.labels or LABELS
    path, records, notes = read_csv(settings, required=(NAME, *labels))
    declared, found = read_metadata(settings)
    files = _volumes(settings.root, settings.images)
    if not files:
        folder = settings.root / (settings.images or "")
        raise DatasetError(f"{folder}: no volume in this folder ({', '.join(SUFFIXES)}); correct root or images")
    rows = [_raw_row(path.name, record, settings, labels, files, declared) for record in records]
    splits = {split_name(row.split) for row in rows if row.split}
    if len(splits) < 2:  # one word for all is the name of the release's part, not a split of these data
        rows = [replace(row, split="") for row in rows]
    notes += [*found, *_notes(records, labels, rows, files, declared)]
    return Source(rows=tuple(rows), root=settings.root, label="", labels=labels, notes=tuple(notes))


def _volumes(root: Path, images: str | None) -> dict[str, list[str]]:
    """Paths below `root` of all volumes in the folder, by stem; nested folders count."""
    folder = root / (images or "")
    if not folder.is_dir():
        raise DatasetError(f"images: no folder {folder}; correct images, or fetch the volumes")
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(root).as_posix()
        if place.lower().endswith(SUFFIXES) and path.is_file():
            found.setdefault(stem(place), []).append(place)
    return found


def _raw_row(
    file: str,
    record: CsvRow,
    settings: SourceSettings,
    labels: tuple[str, ...],
    files: Mapping[str, list[str]],
    declared: Mapping[str, Mapping[str, Any]],
) -> RawRow:
    name = record.values[NAME].strip()
    places = files.get(stem(name), [])
    named = [place for place in places if place.endswith("/" + name) or place == name]
    parts = PARTS.fullmatch(stem(name))
    malformed = record.malformed
    if len(places) > 1 and len(named) != 1:
        malformed = f"{name}: {len(places)} files are this volume ({', '.join(places[:LISTED])}); keep one"
    elif name and parts is None:
        malformed = f"{name!r} is not split_patient_scan_reconstruction, such as train_1_a_1.nii.gz"
    missing = f"{settings.images}/{name}" if settings.images and name else name
    return RawRow(
        file=file,
        row=record.row,
        image=(named or places or [missing])[0],
        patient_id=f"{parts['split']}_{parts['patient']}" if parts else None,
        label="",
        labels=tuple(record.values[label].strip() for label in labels),
        split=parts["split"] if parts else "",
        malformed=malformed,
        declared=declared.get(stem(name)),
    )


def read_metadata(settings: SourceSettings) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What the metadata table declares by volume: slope, intercept, spacing_mm (z, y, x); and what can't be read.

    Raises:
        DatasetError: If the table is missing or names no volumes.
    """
    if settings.metadata is None:
        return {}, []
    path, records, notes = read_csv(replace(settings, csv=settings.metadata), required=(NAME,))
    declared: dict[str, dict[str, Any]] = {}
    odd = []
    for record in records:
        try:
            facts = declared_facts(record.values)
        except ValueError as error:
            odd.append(f"line {record.row}: {error}")
            continue
        if declared.setdefault(stem(record.values[NAME]), facts) != facts:
            odd.append(f"line {record.row}: contradicts an earlier line on {record.values[NAME].strip()}")
    if odd:
        raise DatasetError(f"{path}: {len(odd)} lines can't be used: {'; '.join(odd[:LISTED])}; correct the table")
    return declared, notes


def _notes(
    records: Sequence[CsvRow],
    labels: tuple[str, ...],
    rows: Sequence[RawRow],
    files: Mapping[str, list[str]],
    declared: Mapping[str, Any],
) -> list[str]:
    notes = []
    strangers = [name for name in records[0].values if name and name not in (NAME, *labels)]
    if strangers:
        notes.append(f"columns that are not used: {', '.join(strangers)}")
    named = {stem(record.values[NAME]) for record in records}
    unlabelled = sorted(set(files) - named)
    if unlabelled:
        notes.append(f"{len(unlabelled)} volumes have no row in the label table, such as {unlabelled[0]}")
    if declared and (undeclared := sorted(named - set(declared))):
        notes.append(f"{len(undeclared)} volumes have no row in the metadata table, such as {undeclared[0]}")
    patients = Counter(row.patient_id for row in rows if row.patient_id)
    if max(patients.values(), default=1) > 1:
        notes.append(f"{sum(patients.values())} volumes of {len(patients)} patients: all of a patient stay together")
    return notes


DATASETS.register(
    "ct_rate",
    Reader(
        read=read_ct_rate,
        summary="CT-RATE (VolumeName, 18 abnormalities; NIfTI, MetaImage or .npy slices)",
        tasks=("multilabel",),
        labels=LABELS,
        volumes=True,
    ),
)
