"""EyePACS (Kaggle 2015): `image, level`; the patient is in the name (`<patient>_left`, `<patient>_right`)."""

from __future__ import annotations

import re

from archbench.datasets import RawRow, Reader, Source, SourceSettings, locate_image
from archbench.datasets.table import read_csv
from archbench.registry import DATASETS

FOLDERS = ("", "train")
NAME = re.compile(r"(?P<patient>[^/\\]+)_(left|right)(\.[A-Za-z]+)?$")


def read_eyepacs(settings: SourceSettings) -> Source:
    """The rows of EyePACS's trainLabels.csv; a name without `_left` or `_right` has no patient.

    Raises:
        DatasetError: If the file is missing or unreadable, or a column does not exist.
    """
    path, records, notes = read_csv(settings, required=("image", "level"))
    folders = (settings.images,) if settings.images else FOLDERS
    rows = []
    for record in records:
        name = record.values["image"].strip()
        eye = NAME.search(name)
        rows.append(
            RawRow(
                file=path.name,
                row=record.row,
                image=locate_image(settings.root, name, folders),
                patient_id=eye["patient"] if eye else None,
                label=record.values["level"].strip(),
                malformed=record.malformed,
            )
        )
    return Source(rows=tuple(rows), root=settings.root, label="level", notes=tuple(notes))


DATASETS.register("eyepacs", Reader(read=read_eyepacs, summary="EyePACS 2015 (image, level)"))
