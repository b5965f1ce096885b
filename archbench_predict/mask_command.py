"""archbench-predict with a bundle of masks: one mask per image into a folder, and a table of sizes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from archbench_predict.bundle import Bundle
from archbench_predict.images import ImageError
from archbench_predict.mask_predictor import MaskPredictor, Picture
from archbench_predict.mask_records import TABLE, MaskFolder, mask_record, open_mask_table
from archbench_predict.records import FORMATS, write_answers
from archbench_predict.scans import SUFFIXES as SCAN_SUFFIXES
from archbench_predict.scans import Scan
from archbench_predict.sources import SUFFIXES, Columns, Item, SourceError, find_images
from archbench_predict.streaming import stream

Record = dict[str, object]


def check_mask_options(arguments: argparse.Namespace) -> None:
    """Refuse what has no meaning for masks, and a folder with files that would be mixed with new ones.

    Raises:
        SourceError: Naming the option.
    """
    for name, value in (("--challenge", arguments.challenge), ("--top", arguments.top)):
        if value:
            raise SourceError(f"{name} is for bundles of labels or classes; this one draws masks")
    if arguments.masks:
        raise SourceError("--masks names masks to read; this bundle draws them: --out FOLDER says where to")
    if arguments.out.suffix in FORMATS:
        raise SourceError(f"--out {arguments.out}: masks go into a folder; --table names the file of their sizes")
    if arguments.table is not None and arguments.table.suffix not in FORMATS:
        raise SourceError(f"--table: a name that ends in {', '.join(FORMATS)}, not {arguments.table.name!r}")
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        raise SourceError(f"--out {arguments.out} is not empty: name a new folder, so that old masks don't stay in it")


def find_mask_images(bundle: Bundle, arguments: argparse.Namespace) -> Iterator[Item]:
    """Yield the images of all sources, without what this run writes beside them."""
    columns = Columns(arguments.image_column, arguments.case_column, arguments.root)
    pictures = tuple(suffix for suffix in SUFFIXES if suffix not in SCAN_SUFFIXES)
    written = os.path.join(os.path.abspath(arguments.out), "")
    for item in find_images(arguments.images, columns, pictures if bundle.slices is None else SCAN_SUFFIXES):
        if not os.path.abspath(item.path).startswith(written):
            yield item


def predict_all_masks(
    predictor: MaskPredictor,
    arguments: argparse.Namespace,
    *,
    total: int,
    workers: int,
    lanes: int,
    report: Callable[[int, int], None],
) -> int:
    """Write the masks and their table; return how many images failed."""
    folder = MaskFolder(arguments.out)
    scans = predictor.bundle.slices is not None
    answers = stream(
        find_mask_images(predictor.bundle, arguments),
        prepare=lambda item: (item, predictor.prepare(item.file())),
        predict=lambda batch: _written(predictor, folder, batch),
        batch_size=1 if scans else arguments.batch_size,  # a scan is a batch by itself
        workers=workers,
        lanes=lanes,
    )
    with open_mask_table(arguments.table or arguments.out / TABLE, scans=scans) as table:
        failed = write_answers(answers, table, report)
    print(f"{total - failed} of {total} masks written: {arguments.out}", file=sys.stderr)
    return failed


def _written(
    predictor: MaskPredictor, folder: MaskFolder, batch: Sequence[tuple[Item, Picture | Scan]]
) -> list[Record | ImageError]:
    """Write each mask as soon as it is drawn, so that no batch of large ones is held."""
    found: list[Record | ImageError] = []
    masks = predictor.masks([prepared for _, prepared in batch])
    for (item, prepared), labels in zip(batch, masks, strict=True):
        if isinstance(labels, ImageError):
            found.append(labels)
            continue
        try:
            name = folder.write(item, labels, prepared)
        except ImageError as error:
            found.append(error)
            continue
        found.append(mask_record(labels, prepared, predictor.structures, name))
    return found
