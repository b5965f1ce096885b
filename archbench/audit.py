"""Every problem of a dataset at once: rows, labels, patients, files, one picture under two patients."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from archbench.datasets import RawRow, Source, split_name
from archbench.label_values import LabelRule, parse_label
from archbench.near_duplicates import FileFacts, inspect_file, near_duplicate_pairs
from archbench.volume_audit import inspect_volume, volume_summary, volume_warnings
from archbench_predict.hounsfield import Declared
from archbench_predict.images import ImageError

ERROR, WARNING, INFO = "error", "warning", "info"
PROGRESS_SECONDS = 2.0
T = TypeVar("T")

__all__ = ["Audit", "AuditSettings", "Case", "Problem", "audit_source", "parse_label"]


@dataclass(frozen=True)
class AuditSettings:
    """How bad data may be; the fields are those of the study's `audit`."""

    duplicates: str = "error"
    near_duplicates: str = "warning"
    near_duplicate_distance: int = 4
    max_bad_fraction: float = 0.05
    max_pixels: int = 200_000_000


@dataclass(frozen=True)
class Problem:
    """One finding, with the file and line that it is about; severity is error, warning or info."""

    kind: str
    severity: str
    file: str
    row: int | None
    case_id: str | None
    message: str


@dataclass(frozen=True)
class Case:
    """A row that passed: `targets` are its L targets, NaN where unknown, `facts` what its file is."""

    case_id: str
    patient_id: str
    targets: tuple[float, ...]
    raw: RawRow
    facts: FileFacts

    @property
    def y(self) -> int:
        """Class index of a case with one label."""
        return int(self.targets[0])


@dataclass
class Audit:
    """What the audit found. A row is dropped for its first cause; `bad` are the rows dropped for a fault."""

    n_rows: int
    problems: list[Problem] = field(default_factory=list)
    dropped: dict[int, str] = field(default_factory=dict)
    bad: set[int] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    volumes: dict[str, Any] = field(default_factory=dict)

    def note(self, kind: str, severity: str, raw: RawRow, case_id: str | None, message: str) -> None:
        """Record a problem of a row that stays."""
        self.problems.append(Problem(kind, severity, raw.file, raw.row, case_id, message))

    def drop(self, index: int, kind: str, severity: str, raw: RawRow, case_id: str | None, message: str) -> None:
        """Record a problem that takes row number `index` out; severity info does not make the row bad."""
        self.note(kind, severity, raw, case_id, message)
        self.dropped.setdefault(index, kind)
        if severity != INFO:
            self.bad.add(index)


def audit_source(
    source: Source,
    *,
    classes: Sequence[str],
    missing_label: str,
    exclude: Mapping[str, Sequence[str]],
    settings: AuditSettings,
    intensity: str,
    use_split: bool,
    use_fold: bool,
    threads: int,
    outputs: str = "classes",
    rescale: str | None = None,
) -> Audit:
    """All problems of a source and the cases that remain, sorted by case id.

    Args:
        missing_label: "drop", "error", or with several labels "mask".
        outputs: What a label is, see `archbench.tasks.Task`.
        exclude: Patients and images to leave out.
        use_split: The protocol uses the source's split column, so its words must mean something.
        use_fold: The same for its fold column.
        rescale: The files are CT volumes, whose declared slopes are applied so (auto, always, never); None: pictures.
    """
    audit = Audit(n_rows=len(source.rows), warnings=list(source.notes))
    case_ids = [_inside(source.root, raw.image) for raw in source.rows]
    kept = _excluded(audit, source.rows, case_ids, exclude)
    kept = _readable_rows(audit, source.rows, case_ids, kept)
    _check_duplicate_rows(audit, source.rows, case_ids, kept)
    rule = LabelRule(outputs=outputs, classes=tuple(classes), missing=missing_label)
    targets = _check_labels(audit, source.rows, case_ids, kept, rule=rule)
    _check_roles(audit, source.rows, case_ids, kept, use_split=use_split, use_fold=use_fold)
    inspect = _inspector(settings, intensity=intensity, rescale=rescale)
    facts = _check_files(audit, source, case_ids, kept, inspect=inspect, threads=threads)
    for index in sorted(set(kept) - set(audit.dropped), key=lambda i: str(case_ids[i])):
        raw, found, patient = source.rows[index], targets[index], source.rows[index].patient_id
        if found is not None and patient is not None:
            audit.cases.append(Case(str(case_ids[index]), patient, found, raw, facts[index]))
            if raw.note:
                audit.note("odd_value", WARNING, raw, case_ids[index], raw.note)
            for note in facts[index].notes:
                audit.note("odd_value", WARNING, raw, case_ids[index], f"{case_ids[index]}: {note}")
    _check_duplicates(audit, severity=settings.duplicates)
    _check_near_duplicates(audit, severity=settings.near_duplicates, distance=settings.near_duplicate_distance)
    audit.volumes = volume_summary([case.facts for case in audit.cases])
    audit.warnings += volume_warnings(audit.volumes)
    _summarize(audit, classes=classes if outputs in ("classes", "zones") else ())
    return audit


def _inside(root: Path, image: str) -> str | None:
    """The image's path relative to `root` with forward slashes; None if it leads outside or is blank.

    The path is judged as written: a link inside the root may point elsewhere, that is its owner's business.
    """
    if not image.strip() or "\0" in image:
        return None
    base = os.path.abspath(root)
    path = os.path.normpath(os.path.join(base, image))
    if not path.startswith(base.rstrip(os.sep) + os.sep):
        return None
    return Path(path).relative_to(base).as_posix()


def _excluded(
    audit: Audit, rows: Sequence[RawRow], case_ids: Sequence[str | None], exclude: Mapping[str, Sequence[str]]
) -> list[int]:
    """Indices of the rows that are not excluded; an exclusion that matches nothing is a warning."""
    patients, images = set(exclude.get("patient", ())), set(exclude.get("image", ()))
    unmatched = {("patient", value) for value in patients} | {("image", value) for value in images}
    kept = []
    for index, raw in enumerate(rows):
        names = {("patient", raw.patient_id or ""), ("image", raw.image), ("image", case_ids[index] or "")}
        hits = sorted(name for name in names if name[1] in (patients if name[0] == "patient" else images))
        unmatched -= names
        if hits:
            what = f"{hits[0][0]} {hits[0][1]} is excluded by the configuration"
            audit.drop(index, "excluded", INFO, raw, case_ids[index], what)
        else:
            kept.append(index)
    for role, value in sorted(unmatched):
        audit.warnings.append(f"exclude.{role}: {value!r} matches no row")
    return kept


def _readable_rows(
    audit: Audit, rows: Sequence[RawRow], case_ids: Sequence[str | None], kept: Sequence[int]
) -> list[int]:
    """Indices of the rows that name a file inside the root and that the source itself holds valid."""
    good = []
    for index in kept:
        raw = rows[index]
        if raw.fault:
            audit.drop(index, "invalid_row", INFO, raw, case_ids[index], raw.fault)
        elif raw.malformed:
            audit.drop(index, "invalid_row", WARNING, raw, case_ids[index], raw.malformed)
        elif case_ids[index] is None:
            what = f"path {raw.image!r} leaves the data root" if raw.image.strip() else "no image is named"
            audit.drop(index, "invalid_row", WARNING, raw, None, what)
        else:
            good.append(index)
    return good


def _check_duplicate_rows(
    audit: Audit, rows: Sequence[RawRow], case_ids: Sequence[str | None], kept: Sequence[int]
) -> None:
    """Of rows that agree the first stays; where they disagree nobody knows which is right, and none stays."""
    by_case: dict[str | None, list[int]] = defaultdict(list)
    for index in kept:
        by_case[case_ids[index]].append(index)
    for case_id, indices in by_case.items():
        first = rows[indices[0]]
        agree = (
            len({(rows[i].label, rows[i].labels, rows[i].patient_id, rows[i].split, rows[i].fold) for i in indices})
            == 1
        )
        for index in indices[1:] if agree else (indices if len(indices) > 1 else []):
            other = first.row if rows[index] is not first else rows[indices[1]].row
            what = "repeats" if agree else "contradicts (label, patient, split or fold)"
            audit.drop(index, "duplicate_row", WARNING, rows[index], case_id, f"{case_id} {what} line {other}")


def _check_labels(
    audit: Audit,
    rows: Sequence[RawRow],
    case_ids: Sequence[str | None],
    kept: Sequence[int],
    *,
    rule: LabelRule,
) -> dict[int, tuple[float, ...] | None]:
    found: dict[int, tuple[float, ...] | None] = {}
    blank_severity = ERROR if rule.missing == "error" else INFO
    for index in kept:
        raw = rows[index]
        try:
            found[index] = rule.targets(raw)
        except ValueError as error:
            found[index] = None
            audit.drop(index, "bad_label", WARNING, raw, case_ids[index], str(error))
            continue
        if found[index] is None:
            audit.drop(index, "missing_label", blank_severity, raw, case_ids[index], "no label")
    return found


def _check_roles(
    audit: Audit,
    rows: Sequence[RawRow],
    case_ids: Sequence[str | None],
    kept: Sequence[int],
    *,
    use_split: bool,
    use_fold: bool,
) -> None:
    for index in kept:
        raw = rows[index]
        if raw.patient_id is None:
            audit.drop(index, "no_patient", WARNING, raw, case_ids[index], "no patient id, so it can't be grouped")
        if use_split and split_name(raw.split) is None:
            what = f"split {raw.split!r} is none of train, val, test"
            audit.drop(index, "invalid_row", WARNING, raw, case_ids[index], what)
        if use_fold and not raw.fold.isdigit():
            audit.drop(index, "invalid_row", WARNING, raw, case_ids[index], f"fold {raw.fold!r} is no whole number")


def _inspector(settings: AuditSettings, *, intensity: str, rescale: str | None) -> Callable[[Path, RawRow], FileFacts]:
    if rescale is None:
        return lambda path, raw: inspect_file(path, max_pixels=settings.max_pixels, intensity=intensity)
    return lambda path, raw: inspect_volume(
        path, declared=Declared.of(raw.declared), rescale=rescale, max_voxels=settings.max_pixels
    )


def _check_files(
    audit: Audit,
    source: Source,
    case_ids: Sequence[str | None],
    kept: Sequence[int],
    *,
    inspect: Callable[[Path, RawRow], FileFacts],
    threads: int,
) -> dict[int, FileFacts]:
    """Each file of the kept rows read, hashed and decoded once, in threads; damaged ones are dropped."""

    def inspected(index: int) -> FileFacts | ImageError:
        try:
            return inspect(source.root / str(case_ids[index]), source.rows[index])
        except ImageError as error:
            return error

    facts = {}
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for index, found in zip(kept, _with_progress(pool.map(inspected, kept), total=len(kept)), strict=True):
            if isinstance(found, FileFacts):
                facts[index] = found
                continue
            raw, case_id = source.rows[index], case_ids[index]
            audit.drop(index, found.kind, WARNING, raw, case_id, f"{case_id}: {found}")
    return facts


def _with_progress(items: Iterator[T], *, total: int) -> Iterator[T]:
    begin = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if count == total or now - last >= PROGRESS_SECONDS:
            last, rate = now, count / max(now - begin, 1e-9)
            remaining_s = (total - count) / rate
            print(
                f"audit {count}/{total} files, {rate:.0f} files/s, {remaining_s:.0f} s remaining",
                file=sys.stderr,
            )


def _check_duplicates(audit: Audit, *, severity: str) -> None:
    by_content: dict[str, list[Case]] = defaultdict(list)
    for case in audit.cases:
        by_content[case.facts.sha256].append(case)
    for group in by_content.values():
        for case in group[1:]:
            _note_pair(audit, "duplicate", group[0], case, severity=severity, how="the same file content as")


def _check_near_duplicates(audit: Audit, *, severity: str, distance: int) -> None:
    if severity == "off":
        return
    cases = audit.cases
    pairs = near_duplicate_pairs([case.facts for case in cases], distance=distance)
    for i, j, bits, correlation in pairs:
        if cases[i].facts.sha256 == cases[j].facts.sha256:
            continue
        how = f"nearly the same picture ({bits} of 64 bits differ, detail correlation {correlation:.2f}) as"
        _note_pair(audit, "near_duplicate", cases[i], cases[j], severity=severity, how=how)


def _note_pair(audit: Audit, kind: str, first: Case, second: Case, *, severity: str, how: str) -> None:
    if first.patient_id == second.patient_id:
        severity = INFO
    if severity == "off":
        return
    labels = "" if np.array_equal(first.targets, second.targets, equal_nan=True) else "; their labels differ"
    audit.note(
        kind,
        severity,
        second.raw,
        second.case_id,
        f"{second.case_id} (patient {second.patient_id}) is {how} {first.case_id} "
        f"(patient {first.patient_id}, line {first.raw.row}){labels}",
    )


def _summarize(audit: Audit, *, classes: Sequence[str]) -> None:
    """Warnings about the whole: classes without cases, rows ruled out, pictures shared by patients."""
    present = {value for case in audit.cases for value in case.targets}
    absent = [name for y, name in enumerate(classes) if y not in present]
    if absent:
        audit.warnings.append(f"no case has the class {', '.join(absent)}: its metrics will be undefined")
    ruled_out = sum(1 for problem in audit.problems if problem.kind == "invalid_row" and problem.severity == INFO)
    if ruled_out:
        audit.warnings.append(f"{ruled_out} rows are marked invalid by their source and were dropped")
    counts = Counter((problem.kind, problem.severity) for problem in audit.problems)
    for kind in ("duplicate", "near_duplicate"):
        if counts[kind, WARNING]:
            audit.warnings.append(
                f"{counts[kind, WARNING]} {kind.replace('_', ' ')} pairs across patients: one may be "
                "trained on, the other tested"
            )
