"""Source formats: what a reader gives, one reader per file of this folder.

A reader only reads. Every check of a row (label, patient, file, path) happens in archbench.audit, so that all
problems of a dataset are reported together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii.gz", ".nii")


MASKED, SOFT = "?", "~"  # texts of a label that a policy masks, and before a soft training target


class DatasetError(ValueError):
    """A dataset that can't be used; `audit` holds what was found, where the reading came that far."""

    def __init__(self, message: str, *, audit: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.audit = audit


@dataclass(frozen=True)
class RawRow:
    """One row as the source gives it; nothing is checked yet.

    `row` counts lines as an editor shows them (the header is line 1). `fault` says why the source itself
    marks the row as invalid; `malformed` says why the row could not be read (wrong number of fields). Where the
    source has several labels or zones, `labels` holds their texts in order and `label` is empty; `note` says what
    about its values is odd but no fault; `mask` is the path of its mask, `spacing_mm` the distance of its rows and of
    its columns; of a slice `volume` is what it was cut from and `slice_mm` the distance of its slices; `declared` what
    a table says of a volume beside its file (slope, intercept, spacing_mm).
    """

    file: str
    row: int
    image: str
    patient_id: str | None
    label: str
    split: str = ""
    fold: str = ""
    fault: str | None = None
    malformed: str | None = None
    lesions: str | None = None
    labels: tuple[str, ...] = ()
    note: str | None = None
    mask: str | None = None
    spacing_mm: tuple[float, float] | None = None
    volume: str | None = None
    slice_mm: float | None = None
    declared: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Source:
    """All rows of a dataset, the folder that its image paths are relative to, and the name of its label or labels."""

    rows: tuple[RawRow, ...]
    root: Path
    label: str
    notes: tuple[str, ...] = ()
    phantom: bool = False
    labels: tuple[str, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the L target columns."""
        return self.labels or (self.label,)


@dataclass(frozen=True)
class LabelPolicy:
    """How a label's value becomes a target, by label name; `default` stands for those not named.

    `uncertain` (-1): ignore, zeros, ones or smooth; `blank`: ignore, zeros or ones.
    """

    uncertain: Mapping[str, str] = field(default_factory=dict)
    blank: Mapping[str, str] = field(default_factory=dict)
    smooth_target: float = 0.7


@dataclass(frozen=True)
class MaskSettings:
    """What masks mean and how volumes become slices; the fields are those of the study's `segmentation`."""

    structures: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    spacing_mm: float | None = None
    window: tuple[float, float] | None = None
    slice_step: int = 1
    blocks: int = 0
    block_gap: int = 0
    max_cases: int = 0
    other_values: str = "error"


@dataclass(frozen=True)
class PhantomSettings:
    """How many phantom patients to draw (two eyes each), how large (pixels), and from which seed."""

    folder: Path
    patients: int = 300
    image_size: int = 160
    seed: int = 0
    threads: int = 2
    confounder: float = 0.0
    label_noise: float = 0.0


@dataclass(frozen=True)
class SourceSettings:
    """What a reader may need; `columns` maps a role (image, patient, label, split, fold) to a column name.

    `csv`, `metadata`, `images` and `masks` (folders, where the format has them) are relative to `root`. `labels` are
    the label columns to use where there are several; `view` is all, frontal or lateral. `work` is a folder for what a
    reader converts, since the source is read-only.
    """

    root: Path
    csv: str | None = None
    images: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    encoding: str | None = None
    phantom: PhantomSettings | None = None
    labels: tuple[str, ...] = ()
    policy: LabelPolicy = field(default_factory=LabelPolicy)
    view: str = "all"
    masks: str | None = None
    segmentation: MaskSettings = field(default_factory=MaskSettings)
    work: Path | None = None
    threads: int = 1
    metadata: str | None = None


@dataclass(frozen=True)
class Reader:
    """A source format: `read` gives its rows.

    `labels` are its label columns or zones where they are fixed, `n_classes` its number of grades likewise;
    `tasks` limits it to these tasks; `drawn` formats make their own images; `volumes` formats read CT volumes.
    """

    read: Callable[[SourceSettings], Source]
    summary: str
    tasks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    n_classes: int | None = None
    drawn: bool = False
    volumes: bool = False


def clean_id(text: str) -> str:
    """The identifier without blanks and without the `.0` of a float column ("123.0" is "123")."""
    text = text.strip()
    whole, dot, rest = text.partition(".")
    return whole if dot and whole.isdigit() and rest and not rest.strip("0") else text


def locate_image(root: Path, name: str, folders: tuple[str, ...] = ("",)) -> str:
    """The image's path relative to `root`, found with or without its suffix; `name` itself if none exists."""
    name = clean_id(name).replace("\\", "/")
    if not name:
        return name
    suffixes = ("",) if name.lower().endswith(IMAGE_SUFFIXES) else ("", *IMAGE_SUFFIXES)
    for folder in folders:
        for suffix in suffixes:
            candidate = f"{folder}/{name}{suffix}" if folder else f"{name}{suffix}"
            if (root / candidate).is_file():
                return candidate
    return name


SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def split_name(text: str) -> str | None:
    """The part that a source's word means ("train", "val" or "test"), None if it means none of them."""
    return SPLIT_WORDS.get(text.strip().lower())
