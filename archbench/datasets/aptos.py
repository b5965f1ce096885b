"""APTOS 2019: `id_code, diagnosis`; the images lie beside the CSV or in `train_images`, named by id_code."""

from __future__ import annotations

from archbench.datasets import RawRow, Reader, Source, SourceSettings, locate_image
from archbench.datasets.table import read_csv
from archbench.registry import DATASETS

FOLDERS = ("", "train_images")


def read_aptos(settings: SourceSettings) -> Source:
    """The rows of APTOS's train.csv; each image is its own patient, since APTOS publishes no patient ids.

    Raises:
        DatasetError: If the file is missing or unreadable, or a column does not exist.
    """
    path, records, notes = read_csv(settings, required=("id_code", "diagnosis"))
    notes.append(
        "APTOS has no patient ids: each image counts as its own patient, so that the two eyes of one person "
        "may lie on both sides of a split, and intervals may be too narrow"
    )
    folders = (settings.images,) if settings.images else FOLDERS
    rows = []
    for record in records:
        image = locate_image(settings.root, record.values["id_code"], folders)
        rows.append(
            RawRow(
                file=path.name,
                row=record.row,
                image=image,
                patient_id=image or None,
                label=record.values["diagnosis"].strip(),
                malformed=record.malformed,
            )
        )
    return Source(rows=tuple(rows), root=settings.root, label="diagnosis", notes=tuple(notes))


DATASETS.register("aptos", Reader(read=read_aptos, summary="APTOS 2019 (id_code, diagnosis)"))
