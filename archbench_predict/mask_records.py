"""What is written of masks: one file each, and a table of the structures' sizes as CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from archbench_predict.images import ImageError
from archbench_predict.mask_predictor import Picture, mask_suffix, write_mask
from archbench_predict.records import JsonWriter, Writer, whole_file
from archbench_predict.scans import Scan
from archbench_predict.source_masks import Array
from archbench_predict.sources import Item

TABLE = "masks.csv"
MM3_PER_ML = 1000.0
PICTURE_SIZES = ("pixels",)
SCAN_SIZES = ("voxels", "mm2", "mm3", "ml")  # an area of a scan of one slice, else a volume


def mask_record(labels: Array, prepared: Picture | Scan, structures: tuple[str, ...], mask: str) -> dict[str, Any]:
    """Return what the table says of one mask: its file, and label and size of each structure."""
    n = len(structures) + 1  # plane by plane, since what is counted is copied as int64
    counts = np.sum([np.bincount(plane.ravel(), minlength=n) for plane in labels], axis=0).tolist()
    sizes = {
        name: {"label": label, **_sizes(counts[label], prepared)} for label, name in enumerate(structures, start=1)
    }
    return {"mask": mask, "structures": sizes}


def _sizes(count: int, prepared: Picture | Scan) -> dict[str, float]:
    if isinstance(prepared, Picture):
        return {"pixels": count}
    extent = count * float(np.prod(prepared.spacing_mm))
    if prepared.values.ndim == 2:
        return {"voxels": count, "mm2": _number(extent)}
    return {"voxels": count, "mm3": _number(extent), "ml": _number(extent / MM3_PER_ML)}


def _number(value: float) -> float:
    return float(f"{value:.7g}")


class MaskFolder:
    """The folder that masks go into: each case once, none outside, each file whole or not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, item: Item, labels: Array, prepared: Picture | Scan) -> str:
        """Write the mask of a case; return the file's name below the folder.

        Raises:
            ImageError: If the case's name leads out of the folder, or another image had it.
        """
        name = item.case_id.replace(os.sep, "/") + mask_suffix(prepared)
        target = self.folder / name
        if not target.resolve().is_relative_to(self.folder.resolve()):
            raise ImageError("bad_name", f"the case {item.case_id!r} leads out of {self.folder}: rename it")
        target.parent.mkdir(parents=True, exist_ok=True)
        # claimed by one of several threads; the suffix stays last, since writers go by it
        partial = target.with_name(f".partial-{target.name}")
        try:
            partial.open("xb").close()
        except FileExistsError:
            raise self._twice(item) from None
        try:
            if target.exists():
                raise self._twice(item)
            write_mask(partial, labels, prepared)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        return name

    def _twice(self, item: Item) -> ImageError:
        return ImageError("duplicate", f"another image is called {item.case_id!r} too: predict it into another folder")


class _Csv:
    """One row for each structure of an image, one for an image without a mask."""

    def __init__(self, file: TextIO, *, sizes: tuple[str, ...]) -> None:
        columns = ["case_id", "image", "error", "mask", "structure", "label", *sizes]
        self._writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        self._writer.writeheader()

    def write(self, item: Item, record: dict[str, Any] | None, error: str | None) -> None:
        """Write the rows of one image."""
        image = {"case_id": item.case_id, "image": item.path, "error": error or ""}
        if record is None:
            self._writer.writerow(image)
            return
        for name, sizes in record["structures"].items():
            self._writer.writerow({**image, "mask": record["mask"], "structure": name, **sizes})


@contextmanager
def open_mask_table(path: Path, *, scans: bool) -> Iterator[Writer]:
    """Give a writer of the table; the file gets its name when it is whole, until then it is `<name>.partial`.

    Args:
        path: Its suffix says the format: .csv, .json or .jsonl.
        scans: Whether sizes are those of voxels.
    """
    with whole_file(path) as file:
        if path.suffix == ".csv":
            yield _Csv(file, sizes=SCAN_SIZES if scans else PICTURE_SIZES)
        else:
            writer = JsonWriter(file, lines=path.suffix == ".jsonl")
            yield writer
            writer.end()
