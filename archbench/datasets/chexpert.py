"""CheXpert: `Path, Sex, Age, Frontal/Lateral, AP/PA` and 14 label columns; the patient is in the path.

Values: 1 present, 0 absent, -1 uncertain, blank not mentioned. What the last two mean is the study's choice, per label
and apart from each other (`LabelPolicy`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from archbench.datasets import MASKED, SOFT, DatasetError, LabelPolicy, RawRow, Reader, Source, SourceSettings
from archbench.datasets.table import CsvRow, read_csv
from archbench.registry import DATASETS

LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
PATIENT = re.compile(r"(?:^|[/\\])(patient\w+)[/\\]")
DEFAULTS = {"uncertain": "ignore", "blank": "zeros"}
MEANINGS = {"ignore": MASKED, "zeros": "0", "ones": "1"}


def read_chexpert(settings: SourceSettings) -> Source:
    """The rows of one CheXpert table, of the wanted view, with the policies for -1 and blank applied.

    Raises:
        DatasetError: If the file is missing or unreadable, a column does not exist, or no row shows the wanted view.
    """
    labels = settings.labels or LABELS
    path, records, notes = read_csv(settings, required=("Path", "Frontal/Lateral", *labels))
    if settings.view != "all":
        wanted = [r for r in records if r.values["Frontal/Lateral"].strip().casefold() == settings.view]
        notes.append(
            f"{len(records) - len(wanted)} of {len(records)} rows are no {settings.view} views and were left out"
        )
        records = wanted
    if not records:
        raise DatasetError(f"{path}: no row with Frontal/Lateral = {settings.view}; choose another `view`")
    rows = tuple(_raw_row(path.name, record, settings, labels) for record in records)
    notes += _policy_notes(records, labels, settings.policy)
    return Source(rows=rows, root=settings.root, label="", labels=labels, notes=tuple(notes))


def _raw_row(file: str, record: CsvRow, settings: SourceSettings, labels: tuple[str, ...]) -> RawRow:
    values = record.values
    image = _inside_root(settings.root, values["Path"].strip())
    patient = PATIENT.search(values["Path"])
    return RawRow(
        file=file,
        row=record.row,
        image=image,
        patient_id=patient[1] if patient else None,
        label="",
        labels=tuple(_text(name, values[name], settings.policy) for name in labels),
        malformed=record.malformed,
    )


def _inside_root(root: Path, name: str) -> str:
    """The path below the root: the tables name the release's own folder first (CheXpert-v1.0-small/train/...)."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    for start in range(len(parts)):
        candidate = "/".join(parts[start:])
        if ".." not in parts and (root / candidate).is_file():
            return candidate
    return name


def _text(label: str, value: str, policy: LabelPolicy) -> str:
    """The label's text for the audit: 0, 1, masked, or a soft training target."""
    word = value.strip()
    if word in ("-1", "-1.0"):
        chosen = _policy(policy.uncertain, label, "uncertain")
        return f"{SOFT}{policy.smooth_target}" if chosen == "smooth" else MEANINGS[chosen]
    if word.casefold() in ("", "nan"):
        return MEANINGS[_policy(policy.blank, label, "blank")]
    return word


def _policy(policies: Mapping[str, str], label: str, kind: str) -> str:
    return policies.get(label) or policies.get("default") or DEFAULTS[kind]


def _policy_notes(records: list[CsvRow], labels: tuple[str, ...], policy: LabelPolicy) -> list[str]:
    """How many cells each policy decided, so that nobody takes an imputed label for a reading."""
    notes = []
    kinds = (("uncertain", ("-1", "-1.0"), policy.uncertain), ("blank", ("", "nan"), policy.blank))
    for kind, words, policies in kinds:
        counts: dict[str, int] = {}
        for label in labels:
            n = sum(record.values[label].strip().casefold() in words for record in records)
            chosen = _policy(policies, label, kind)
            counts[chosen] = counts.get(chosen, 0) + n
        shown = ", ".join(f"{n} {chosen}" for chosen, n in sorted(counts.items()) if n)
        if shown:
            notes.append(f"{kind} labels by policy: {shown}")
    return notes


DATASETS.register(
    "chexpert",
    Reader(
        read=read_chexpert,
        summary="CheXpert (Path, Frontal/Lateral, 14 labels with -1 and blanks)",
        tasks=("multilabel",),
        labels=LABELS,
    ),
)
