"""Images with masks: pairs by exact case id or by a CSV; volumes become axial slices, masks class indices.

Folders: `<case>_0000.nii.gz`, `<case>.nii.gz` or a picture, and `<case>.nii.gz` or a picture; or a CSV with the columns
image, mask and, if there is one, patient. Every bad file is named before anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from archbench.datasets import DatasetError, RawRow, Reader, Source, SourceSettings, clean_id
from archbench.datasets.mask_slices import Conversion, convert_pair
from archbench.datasets.table import read_csv
from archbench.mask_files import MaskError, suffix_of
from archbench.mask_pairs import IMAGE_MARK, case_of
from archbench.registry import DATASETS

PICTURES = (".jpg", ".jpeg")
REMEDY = "Nothing was trained. Correct the files, or leave them out of the folders or the CSV."
SHOWN = 8  # values of a long list
BLOCKS = "parts of one volume count as patients: what is reported holds for this volume and says nothing of others"


@dataclass(frozen=True)
class Pair:
    """One image with its mask; `row` is the line of the CSV, 1 without one."""

    case: str
    patient: str
    image: Path
    mask: Path
    file: str
    row: int


def read_image_masks(settings: SourceSettings) -> Source:
    """The rows of a dataset with masks; slices and masks as class indices are written into its work folder first.

    Raises:
        DatasetError: With every problem of every file.
    """
    plan, notes = settings.segmentation, []
    if not plan.structures or settings.work is None:
        raise DatasetError("segmentation.structures is not set: name the structures, such as {lung: [1], heart: [2]}")
    pairs, problems = _from_csv(settings) if settings.csv else _from_folders(settings)
    pairs = pairs[: plan.max_cases] if plan.max_cases else pairs
    found = _converted(settings, pairs, problems)
    sliced = {conversion.sliced for conversion in found}
    if len(sliced) > 1:
        problems.append("volumes and two-dimensional images are mixed: make two datasets of them")
    for name in plan.structures:
        if found and not any(row.present[name] for conversion in found for row in conversion.rows):
            problems.append(
                f"structure '{name}' {list(plan.structures[name])} is in no mask (their values: "
                f"{sorted(set().union(*(conversion.values for conversion in found)))[:12]}): correct "
                "segmentation.structures"
            )
    if problems or not found:
        lines = "\n  ".join(problems or ["no pair of image and mask"])
        raise DatasetError(f"{len(problems)} problems with images and masks:\n  {lines}\n{REMEDY}")
    unnamed = _unnamed(plan.structures, found)
    if unnamed:
        notes.append(f"mask values that no structure names were taken as background: {unnamed}")
    if plan.blocks:
        notes.append(BLOCKS)
    elif len({pair.patient for pair in pairs}) == len(pairs) and sliced != {True}:
        notes.append("no patient is named: each image counts as its own patient")
    rows = tuple(
        RawRow(
            file=pair.file,
            row=pair.row,
            image=row.image,
            patient_id=f"{pair.patient}{row.part}" or None,
            label="",
            labels=tuple(str(int(row.present[name])) for name in plan.structures),
            mask=row.mask,
            spacing_mm=row.spacing_mm,
            volume=f"{pair.case}{row.part}" if conversion.sliced else None,
            slice_mm=row.slice_mm,
        )
        for pair, conversion in zip(pairs, found, strict=True)
        for row in conversion.rows
    )
    root = settings.work if sliced == {True} else settings.root
    return Source(rows=rows, root=root, label="", labels=tuple(plan.structures), notes=tuple(notes))


def _unnamed(structures: Mapping[str, tuple[int, ...]], found: Sequence[Conversion]) -> str:
    """The values of masks that are in no structure, the first of many; empty if there are none."""
    if not all(structures.values()):  # one takes every value
        return ""
    named = {0}.union(*structures.values())
    values = sorted(set().union(*(conversion.values for conversion in found)) - named)
    return ", ".join(map(str, values[:SHOWN])) + (f" … ({len(values)} in all)" if len(values) > SHOWN else "")


def source_files(settings: SourceSettings) -> dict[str, Path]:
    """Return the image of each case, as it is read: the scan that its slices are cut from, or the picture."""
    pairs, _ = _from_csv(settings) if settings.csv else _from_folders(settings)
    return {pair.case: pair.image for pair in pairs}


def _converted(settings: SourceSettings, pairs: Sequence[Pair], problems: list[str]) -> list[Conversion]:
    """Convert all pairs in threads; what is wrong with one is added to `problems`."""
    assert settings.work is not None
    work = settings.work

    def convert(pair: Pair) -> Conversion | str:
        try:
            return convert_pair(pair.case, pair.image, pair.mask, settings.segmentation, root=settings.root, work=work)
        except MaskError as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=settings.threads) as pool:
        results = list(pool.map(convert, pairs))
    problems += [result for result in results if isinstance(result, str)]
    return [result for result in results if not isinstance(result, str)]


def _from_csv(settings: SourceSettings) -> tuple[list[Pair], list[str]]:
    path, records, _ = read_csv(settings, required=("image", "mask"))
    pairs, problems = [], []
    for record in records:
        image, mask = (settings.root / record.values[name].strip() for name in ("image", "mask"))
        where = f"{path.name} line {record.row}"
        if record.malformed:
            problems.append(f"{where}: {record.malformed}")
            continue
        gone = [str(file) for file in (image, mask) if not file.is_file()]
        problems += [f"{where}: no file {file}: correct the path or fetch the file" for file in gone]
        outside = [file for file in (image, mask) if not _inside(file, settings.root)]
        problems += [f"{where}: {file} leaves the data root" for file in outside]
        case = _stem(image.relative_to(settings.root).as_posix()) if not outside else image.name
        patient = clean_id(record.values.get("patient") or "") or case
        if not gone and not outside:
            pairs.append(Pair(case, patient, image, mask, path.name, record.row))
    repeated = {pair.case for pair in pairs if sum(other.case == pair.case for other in pairs) > 1}
    problems += [f"{path.name}: the image of case {case!r} stands in two rows: keep one" for case in sorted(repeated)]
    return sorted(pairs, key=lambda pair: pair.case), problems


def _inside(file: Path, root: Path) -> bool:
    return root.resolve() in file.resolve().parents


def _from_folders(settings: SourceSettings) -> tuple[list[Pair], list[str]]:
    """Pairs by exact case id, and what is missing, twice there, or left over."""
    if not settings.images or not settings.masks:
        raise DatasetError("format image_masks needs `images` and `masks` (folders or files in root), or `csv`")
    images, masks = settings.root / settings.images, settings.root / settings.masks
    if images.is_file() and masks.is_file():
        case = _stem(images.name)
        return [Pair(case, case, images, masks, images.name, 1)], []
    (of_image, problems), (of_mask, others) = _listed(images, "image"), _listed(masks, "mask")
    problems += others
    if of_image and of_mask:
        problems += [
            f"{of_image[case]}: case {case!r} has no mask in {masks}: add {case}.nii.gz, or move the image away"
            for case in sorted(set(of_image) - set(of_mask))
        ]
        problems += [
            f"{of_mask[case]}: case {case!r} has no image {case}{IMAGE_MARK}.* or {case}.* in {images}: add it, or "
            "move the mask away"
            for case in sorted(set(of_mask) - set(of_image))
        ]
    both = sorted(set(of_image) & set(of_mask))
    return [Pair(case, case, of_image[case], of_mask[case], settings.images, 1) for case in both], problems


def _stem(name: str) -> str:
    stem = case_of(name)
    stem = next((stem[: -len(end)] for end in PICTURES if stem.lower().endswith(end)), stem)
    return stem.removesuffix(IMAGE_MARK)


def _listed(folder: Path, what: str) -> tuple[Mapping[str, Path], list[str]]:
    """The file of each case in a folder, and what is wrong with the folder."""
    if not folder.is_dir():
        return {}, [f"{folder}: no such folder of {what}s: correct `{what}s` or fetch the data"]
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        known = suffix_of(path.name) or (what == "image" and path.suffix.lower() in PICTURES)
        if path.is_file() and not path.name.startswith(".") and known:
            found.setdefault(_stem(path.name), []).append(path)
    if not found:
        return {}, [f"{folder}: no {what} in it: expected <case>.nii.gz, .nii, .png or .tif"]
    problems = [
        f"{paths[0]}: two {what}s for case {case!r}, also {paths[1].name}: keep one"
        for case, paths in found.items()
        if len(paths) > 1
    ]
    return {case: paths[0] for case, paths in found.items()}, problems


DATASETS.register(
    "image_masks",
    Reader(
        read=read_image_masks,
        summary="images with masks: NIfTI volumes or slices, or pictures; folders paired by case id, or a CSV",
        tasks=("segmentation",),
    ),
)
