"""Which images are asked for: folders, patterns, CSV tables and single files, one at a time.

Nothing is kept but the file names of one folder, so that any number of images needs the memory of a few.
"""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from archbench_predict.images import ImageError
from archbench_predict.volume_metadata import SUFFIXES as VOLUME_SUFFIXES

SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
IMAGE_COLUMNS = ("image", "image_path", "path", "file", "filename", "VolumeName")
CASE_COLUMNS = ("case_id", "case", "id_code", "id", "FileID")
TABLES = {".csv": ",", ".tsv": "\t"}


class SourceError(ValueError):
    """What was asked for can't be found or read."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image to predict."""

    case_id: str
    path: str

    def file(self) -> str:
        """Return the path.

        Raises:
            ImageError: If the table has the image's row and no path in it.
        """
        if not self.path:
            raise ImageError("missing_file", "the table names no image")
        return self.path


@dataclass(frozen=True)
class Columns:
    """Columns of CSV tables; None looks for the usual names. Paths are relative to `root`, or to the table."""

    image: str | None = None
    case: str | None = None
    root: str | None = None


def find_images(sources: Sequence[str], columns: Columns, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Item]:
    """Yield the images of all sources in order; a folder's by name, its folders included.

    Args:
        suffixes: What files are images, or `VOLUME_SUFFIXES`.
    Raises:
        SourceError: If a source doesn't exist or holds no image, or a table lacks its column.
    """
    for source in sources:
        empty = True
        for item in _images_of(source, columns, suffixes):
            empty = False
            yield item
        if empty:
            what = "volume" if ".mha" in suffixes else "image"
            raise SourceError(f"{source}: no {what} found ({', '.join(suffixes)})")


def _images_of(source: str, columns: Columns, suffixes: tuple[str, ...]) -> Iterator[Item]:
    if os.path.isdir(source):
        yield from _of_folder(source, "", suffixes)
    elif os.path.isfile(source):
        suffix = os.path.splitext(source)[1].lower()
        if suffix in TABLES and not _is_image(os.path.abspath(source), suffixes):
            yield from _of_table(Path(source), columns, TABLES[suffix])
        else:
            yield Item(os.path.basename(without_suffix(os.path.abspath(source))), source)
    elif glob.has_magic(source):
        yield from _of_pattern(source, suffixes)
    else:
        raise SourceError(f"{source}: no such file or folder")


def without_suffix(name: str) -> str:
    """Return an image's name without its suffix: `eyes/7.nii.gz` is `eyes/7`."""
    ends = (end for end in (*SUFFIXES, *VOLUME_SUFFIXES) if _is_image(name, (end,)))
    return next((name[: -len(end)] for end in ends), os.path.splitext(name)[0])


def _is_image(path: str, suffixes: tuple[str, ...]) -> bool:
    return path.replace(os.sep, "/").lower().endswith(suffixes)


def _of_folder(folder: str, prefix: str, suffixes: tuple[str, ...]) -> Iterator[Item]:
    with os.scandir(folder) as entries:
        names = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    for name, is_folder in names:
        place = os.path.join(folder, name)
        if is_folder:
            yield from _of_folder(place, f"{prefix}{name}/", suffixes)
        elif _is_image(place, suffixes):
            yield Item(without_suffix(prefix + name), place)


def _of_pattern(pattern: str, suffixes: tuple[str, ...]) -> Iterator[Item]:
    fixed = pattern[: min(k for k, letter in enumerate(pattern) if letter in "*?[")]
    start = os.path.dirname(fixed)
    for place in sorted(glob.iglob(pattern, recursive=True)):
        if os.path.isfile(place) and _is_image(place, suffixes):
            yield Item(without_suffix(os.path.relpath(place, start or ".").replace(os.sep, "/")), place)


def _of_table(path: Path, columns: Columns, delimiter: str) -> Iterator[Item]:
    root = Path(columns.root) if columns.root is not None else path.parent
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        image = _column(path, reader.fieldnames, columns.image, IMAGE_COLUMNS, option="--image-column")
        case = _column(path, reader.fieldnames, columns.case, CASE_COLUMNS, option="--case-column")
        if image is None:
            raise SourceError(
                f"{path} has no column of images (one of {', '.join(IMAGE_COLUMNS)}): name it with --image-column"
            )
        for row in reader:
            name = (row[image] or "").strip()
            case_id = (row[case] or "").strip() if case is not None else ""
            yield Item(case_id or without_suffix(name) or f"row {reader.line_num}", str(root / name) if name else "")


def _column(
    path: Path, found: Sequence[str] | None, asked: str | None, usual: Sequence[str], *, option: str
) -> str | None:
    """Return the column asked for, or the first usual one that the table has."""
    names = list(found or [])
    if asked is not None and asked not in names:
        raise SourceError(f"{path} has no column '{asked}' ({option}); it has {', '.join(names) or 'none'}")
    return asked if asked is not None else next((name for name in usual if name in names), None)


def mask_of(item: Item, folder: str) -> str | None:
    """Return the path of an image's mask: the file of its name in a folder, of any image format; None without."""
    stem = os.path.join(folder, without_suffix(os.path.basename(item.path)))
    return next((stem + end for end in SUFFIXES if os.path.isfile(stem + end)), None)
