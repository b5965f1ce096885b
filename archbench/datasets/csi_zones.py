"""Congestion scores of six lung zones: `FileID; right_sup; ... ; csi`, one image `<FileID>.nii.gz` or PNG each.

Grades 0-3; a blank zone (or 4) is ungradable. `csi` is the mean of the gradable zones and is checked against it.
"""

from __future__ import annotations

from pathlib import Path

from archbench.datasets import DatasetError, RawRow, Reader, Source, SourceSettings, clean_id, locate_image
from archbench.datasets.table import CsvRow, read_csv
from archbench.registry import DATASETS

ZONES = ("right_sup", "left_sup", "right_mid", "left_mid", "right_inf", "left_inf")
N_GRADES = 4
FOLDERS = ("", "images")
CSI_TOLERANCE = 0.05


def read_csi_zones(settings: SourceSettings) -> Source:
    """The rows of the score table; without a column `patient` each file counts as its own patient.

    Raises:
        DatasetError: If the file is missing or unreadable, a column does not exist, or the folder of masks does not.
    """
    if settings.masks and not (settings.root / settings.masks).is_dir():
        raise DatasetError(f"masks: no folder {settings.root / settings.masks}")
    path, records, notes = read_csv(settings, required=("FileID", *ZONES))
    grouped = bool(records) and "patient" in records[0].values
    if not grouped:
        notes.append(
            "the table has no column 'patient': each file counts as its own patient, so that two images of one "
            "person may lie on both sides of a split"
        )
    rows = tuple(_raw_row(path.name, record, settings, grouped=grouped) for record in records)
    unmasked = sum(1 for row in rows if settings.masks and row.mask is None)
    if unmasked:
        notes.append(f"{unmasked} images have no mask in {settings.masks}: mask_focus leaves them as they are")
    return Source(rows=rows, root=settings.root, label="", labels=ZONES, notes=tuple(notes))


def _raw_row(file: str, record: CsvRow, settings: SourceSettings, *, grouped: bool) -> RawRow:
    values = record.values
    name = clean_id(values["FileID"])
    image = locate_image(settings.root, name, (settings.images,) if settings.images else FOLDERS)
    patient = clean_id(values["patient"]) if grouped else name
    return RawRow(
        file=file,
        row=record.row,
        image=image,
        patient_id=patient or None,
        label="",
        labels=tuple(values[zone].strip().replace(",", ".") for zone in ZONES),
        malformed=record.malformed,
        note=csi_problem(values.get("csi", ""), [values[zone] for zone in ZONES]),
        mask=_mask_of(settings.root, settings.masks, name),
    )


def _mask_of(root: Path, folder: str | None, name: str) -> str | None:
    if not folder:
        return None
    found = locate_image(root, name, (folder,))
    return found if (root / found).is_file() else None


def csi_problem(text: str, zones: list[str]) -> str | None:
    """What is wrong with a given csi; None if it is the mean of the gradable zones, or missing and so computed."""
    grades = [g for g in map(_number, zones) if g is not None and g < N_GRADES]
    given = _number(text)
    if given is None:
        return None
    if not grades:
        return f"csi is {text.strip()}, but no zone is gradable: the case has no score"
    mean = sum(grades) / len(grades)
    if abs(given - mean) > CSI_TOLERANCE:
        return f"csi is {text.strip()}, the mean of its gradable zones {mean:.3g}: the mean is used"
    return None


def _number(text: str) -> float | None:
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return value if value == value else None


DATASETS.register(
    "csi_zones",
    Reader(
        read=read_csi_zones,
        summary="congestion scores of six lung zones (FileID; right_sup; ...; csi)",
        tasks=("zones",),
        labels=ZONES,
        n_classes=N_GRADES,
    ),
)
