"""Stage prepare_dataset: from a source to the manifest, the folds and the audit."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench.artifacts import write_json, write_table, write_text
from archbench.audit import ERROR, Audit, AuditSettings, Problem, audit_source
from archbench.datasets import DatasetError, Source, SourceSettings, split_name
from archbench.label_counts import label_summary, label_warnings, strata, zone_summary
from archbench.manifest import fold_table, manifest_table
from archbench.registry import DATASETS
from archbench.splits import PARTS, Protocol, SplitError, Splits, make_splits
from archbench.tasks import UNGRADABLE, get_task

if TYPE_CHECKING:
    import pyarrow as pa

LISTED_PROBLEMS = 20


@dataclass(frozen=True)
class Prepared:
    """What the stage makes: the tables with their metadata, and the audit."""

    manifest: pa.Table
    manifest_metadata: dict[str, Any]
    folds: pa.Table
    folds_metadata: dict[str, Any]
    audit: dict[str, Any]


def prepare(
    *,
    dataset: str,
    format: str,
    settings: SourceSettings,
    task: str,
    classes: Sequence[str],
    missing_label: str,
    exclude: Mapping[str, Sequence[str]],
    intensity: str,
    protocol: Protocol,
    audit_settings: AuditSettings,
    threads: int,
    provenance: Mapping[str, Any],
    rescale: str | None = None,
) -> Prepared:
    """Read, audit and split a dataset.

    Args:
        classes: Class names; of zones the ungradable ones are the last class.
        rescale: How declared slopes of CT volumes are applied; None for pictures.
    Raises:
        DatasetError: If the data can't be used; its `audit` holds everything that was found.
    """
    outputs = get_task(task).outputs
    source: Source = DATASETS.get(format).read(settings)
    use_split, use_fold = _columns_in_use(source, protocol)
    found = audit_source(
        source,
        classes=classes,
        missing_label=missing_label,
        exclude=exclude,
        settings=audit_settings,
        intensity=intensity,
        use_split=use_split,
        use_fold=use_fold,
        threads=threads,
        outputs=outputs,
        rescale=rescale,
    )
    kind = _Kind(task=task, outputs=outputs, classes=tuple(classes), labels=source.label_names)
    summary = _audit_summary(
        found,
        dataset=dataset,
        kind=kind,
        phantom=source.phantom,
        protocol=protocol,
        provenance=provenance,
    )
    _stop_if_bad(found, summary, dataset=dataset, max_bad_fraction=audit_settings.max_bad_fraction)
    try:
        splits = _split(found, kind, protocol=protocol, use_split=use_split, use_fold=use_fold)
    except SplitError as error:
        raise DatasetError(f"dataset {dataset}: {error}", audit=summary) from error
    summary["folds"] = _fold_summary(found, splits, kind)
    summary["warnings"] += [*splits.warnings, *_class_warnings(found, splits, kind)]
    return Prepared(
        manifest=manifest_table(
            found.cases, kind.targets(found), labels=kind.labels, classes=kind.outputs == "classes"
        ),
        manifest_metadata={
            "provenance": dict(provenance),
            "root": source.root.as_posix(),
            "classes": list(get_task(task).logit_names(classes, kind.labels)),
            "labels": list(kind.labels),
            "task": task,
            "phantom": source.phantom,
            **get_task(task).table_metadata(classes),
        },
        folds=fold_table(found.cases, splits.parts),
        folds_metadata={
            "provenance": dict(provenance),
            "protocol": asdict(protocol),
            "selected_and_reported_on_same_cases": splits.selected_and_reported_on_same_cases,
        },
        audit=summary,
    )


def write_prepared(prepared: Prepared, *, manifest: Path, folds: Path, audit: Path) -> None:
    """Write the three files, and folds.csv and catalog.csv for reading beside the folds and the manifest."""
    write_table(manifest, prepared.manifest, prepared.manifest_metadata)
    write_table(folds, prepared.folds, prepared.folds_metadata)
    write_text(folds.with_suffix(".csv"), _as_csv(prepared.folds))
    write_text(manifest.with_name("catalog.csv"), _as_csv(prepared.manifest.drop_columns(["lesions"])))
    write_json(audit, prepared.audit)
    failed_audit_path(audit).unlink(missing_ok=True)


def failed_audit_path(audit: Path) -> Path:
    """Where the audit of a refused dataset lies: Snakemake deletes the declared outputs of a failed job."""
    return audit.with_name(f"{audit.stem}.failed.json")


def _columns_in_use(source: Source, protocol: Protocol) -> tuple[bool, bool]:
    """Whether the protocol uses the source's split column, and its fold column."""
    has_split = any(raw.split for raw in source.rows)
    has_fold = any(raw.fold for raw in source.rows)
    if protocol.kind == "given":
        return has_split, has_fold
    return has_split and protocol.kind == "holdout", False


def _stop_if_bad(found: Audit, summary: dict[str, Any], *, dataset: str, max_bad_fraction: float) -> None:
    errors = [problem for problem in found.problems if problem.severity == ERROR]
    n_excluded = sum(1 for kind in found.dropped.values() if kind == "excluded")
    fraction = len(found.bad) / max(found.n_rows - n_excluded, 1)
    reasons = []
    if errors:
        counts = Counter(problem.kind for problem in errors)
        reasons.append(", ".join(f"{number} x {kind}" for kind, number in counts.most_common()))
    if fraction > max_bad_fraction:
        reasons.append(
            f"{len(found.bad)} of {found.n_rows - n_excluded} rows ({fraction:.1%}) are unusable, more than "
            f"audit.max_bad_fraction ({max_bad_fraction:.1%})"
        )
    if not found.cases:
        reasons.append("no usable row is left")
    if not reasons:
        return
    shown = errors + [problem for problem in found.problems if problem.severity == "warning"]
    lines = [_problem_line(problem) for problem in shown[:LISTED_PROBLEMS]]
    if len(shown) > LISTED_PROBLEMS:
        lines.append(f"... and {len(shown) - LISTED_PROBLEMS} more, all in audit.failed.json")
    remedy = "Correct the data, or leave rows out with `exclude`, or change the `audit` settings."
    text = "\n  ".join([f"dataset {dataset}: {'; '.join(reasons)}", *lines, remedy])
    raise DatasetError(text, audit=summary)


def _problem_line(problem: Problem) -> str:
    return f"{problem.file}:{problem.row}: {problem.kind}: {problem.message}"


@dataclass(frozen=True)
class _Kind:
    """What the targets of the dataset are."""

    task: str
    outputs: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]

    def targets(self, found: Audit) -> np.ndarray:
        """Targets of all cases, shape (N, L)."""
        return np.array([case.targets for case in found.cases], dtype=np.float64).reshape(-1, len(self.labels))

    def strata(self, found: Audit) -> tuple[tuple[str, ...], np.ndarray]:
        """Names (C,) and counts (N, C) of what is spread over the parts and counted in the audit."""
        return strata(self.targets(found), outputs=self.outputs, classes=self.classes, labels=self.labels)


def _split(found: Audit, kind: _Kind, *, protocol: Protocol, use_split: bool, use_fold: bool) -> Splits:
    cases = found.cases
    return make_splits(
        case_ids=[case.case_id for case in cases],
        patient_ids=[case.patient_id for case in cases],
        strata=kind.strata(found)[1],
        protocol=protocol,
        given_split=[str(split_name(case.raw.split)) for case in cases] if use_split else None,
        given_fold=[int(case.raw.fold) for case in cases] if use_fold else None,
    )


def _audit_summary(
    found: Audit,
    *,
    dataset: str,
    kind: _Kind,
    phantom: bool,
    protocol: Protocol,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    names, counts = kind.strata(found)
    patients = np.array([case.patient_id for case in found.cases])
    warnings = label_warnings(kind.targets(found), outputs=kind.outputs, labels=kind.labels)
    return {
        "provenance": dict(provenance),
        "dataset": dataset,
        "phantom": phantom,
        "task": kind.task,
        "classes": [
            {"name": name, "n_cases": int(column.sum()), "n_patients": len(set(patients[column > 0].tolist()))}
            for name, column in zip(names, counts.T, strict=True)
        ],
        **_label_summary(found, kind, patients),
        "n_rows": found.n_rows,
        "n_cases": len(found.cases),
        "n_patients": len({case.patient_id for case in found.cases}),
        "n_dropped": len(found.dropped),
        "problems": [asdict(problem) for problem in found.problems],
        "dropped": dict(sorted(Counter(found.dropped.values()).items())),
        **({"volumes": found.volumes} if found.volumes else {}),
        "protocol": asdict(protocol),
        "warnings": [*found.warnings, *warnings],
        "folds": [],
    }


def _label_summary(found: Audit, kind: _Kind, patients: np.ndarray) -> dict[str, Any]:
    if kind.outputs in ("labels", "masks"):
        return label_summary(kind.targets(found), patients, labels=kind.labels)
    if kind.outputs == "zones":
        graded = [name for name in kind.classes if name != UNGRADABLE]
        return zone_summary(kind.targets(found), classes=graded, labels=kind.labels)
    return {}


def _fold_summary(found: Audit, splits: Splits, kind: _Kind) -> list[dict[str, Any]]:
    _, counts = kind.strata(found)
    patients = np.array([case.patient_id for case in found.cases])
    summary = []
    for fold, row in enumerate(splits.parts):
        masks = {name: row == part for part, name in enumerate(PARTS)}
        parts = {
            name: {
                "n_cases": int(mask.sum()),
                "n_patients": len(set(patients[mask].tolist())),
                "per_class": counts[mask].sum(axis=0).tolist(),
            }
            for name, mask in masks.items()
        }
        summary.append({"fold": fold, "parts": parts})
    return summary


def _class_warnings(found: Audit, splits: Splits, kind: _Kind) -> list[str]:
    """Classes that some part of some fold lacks, though the data have them."""
    names, counts = kind.strata(found)
    warnings = []
    for index, name in enumerate(names):
        has = counts[:, index] > 0
        lacking = [
            f"{PARTS[part]} of fold {fold}"
            for fold, row in enumerate(splits.parts)
            for part in np.unique(row).tolist()
            if has.any() and not ((row == part) & has).any()
        ]
        if lacking:
            warnings.append(f"class {name} has no case in {', '.join(lacking)}: it has too few patients")
    return warnings


def _as_csv(table: pa.Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return out.getvalue()
