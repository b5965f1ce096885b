"""Tables of the page about the data and the origin: classes, problems, folds, versions, hashes."""

from __future__ import annotations

from typing import Any

from archbench.report.cells import Cell, Column, Table
from archbench.report.collect import DatasetResult, StudyResult
from archbench.report.label_tables import label_count_tables
from archbench.report.labels import format_count, format_share
from archbench.report.origins import hashes_of, versions_of
from archbench.report.quality_tables import caption

MAX_PROBLEMS = 50
_SEVERITY = {"error": 0, "warning": 1, "info": 2}


def audit_tables(dataset: DatasetResult) -> list[Table]:
    """Counts, classes, problems and folds of a dataset; empty without an audit."""
    audit = dataset.audit
    if audit is None:
        return []
    tables = [_count_table(dataset, audit), _class_count_table(dataset, audit), *label_count_tables(dataset)]
    if audit.get("problems"):
        tables.append(_problem_table(dataset, audit["problems"]))
    if audit.get("volumes"):
        tables.append(_volume_table(dataset, audit["volumes"]))
    if audit.get("folds"):
        tables.append(_fold_table(dataset, audit))
    return tables


def _count_table(dataset: DatasetResult, audit: dict[str, Any]) -> Table:
    rows = [
        [Cell("rows in the source"), _count(audit.get("n_rows"))],
        [Cell("rows left out"), _count(audit.get("n_dropped"))],
        *([Cell(f"… {kind.replace('_', ' ')}"), _count(n)] for kind, n in (audit.get("dropped") or {}).items() if n),
        [Cell("cases used"), _count(audit.get("n_cases"))],
        [Cell("patients"), _count(audit.get("n_patients"))],
    ]
    columns = [Column("What", numeric=False), Column("Count")]
    return Table(
        f"counts-{dataset.name}", caption(dataset, "what came in and what was used."), columns, rows, compact=True
    )


def _volume_table(dataset: DatasetResult, volumes: dict[str, Any]) -> Table:
    """Of CT volumes: slices, spacing and axes of the files, from the smallest to the largest."""
    low, high = volumes["slices"]
    axes = ", ".join(f"{number} × {name}" for name, number in volumes["orientations"].items())
    smallest, largest = (" × ".join(f"{value:g}" for value in values) for values in volumes["spacing_mm"])
    rows = [
        [Cell("slices of a volume"), Cell(str(low) if low == high else f"{low} to {high}")],
        [Cell("voxel size (z × y × x), mm"), Cell(smallest if smallest == largest else f"{smallest} to {largest}")],
        [Cell("axes of the files"), Cell(axes)],
        [Cell("Hounsfield units already, slope not applied again"), _count(volumes["already_rescaled"])],
    ]
    columns = [Column("What", numeric=False), Column("Volumes", numeric=False)]
    return Table(f"volumes-{dataset.name}", caption(dataset, "the volumes as they came."), columns, rows, compact=True)


def _count(value: Any) -> Cell:
    return Cell(format_count(value), value)


def _class_count_table(dataset: DatasetResult, audit: dict[str, Any]) -> Table:
    total = sum(row["n_cases"] for row in audit["classes"]) or 1
    # A case may have several labels, so a label's share is that of the cases in which it is known.
    known = {row["name"]: row["n_positive"] + row["n_negative"] for row in audit.get("labels") or []}
    rows = []
    for row in audit["classes"]:
        share = row["n_cases"] / (known.get(row["name"], total) or 1)
        shown = Cell(format_share(share), share)
        rows.append([Cell(row["name"], row["name"]), _count(row["n_cases"]), shown, _count(row["n_patients"])])
    columns = [Column("Class", numeric=False), Column("Cases"), Column("Share"), Column("Patients")]
    counted = {
        "labels": "positive cases, their share of the known ones, and patients per label; a case may have several."
    }
    counted["zones"] = "zones of each grade, and patients that have one."
    text = counted.get(dataset.outputs, "cases and patients per class; a patient may be in several.")
    return Table(f"class-counts-{dataset.name}", caption(dataset, text), columns, rows, compact=True)


def _problem_table(dataset: DatasetResult, problems: list[dict[str, Any]]) -> Table:
    ordered = sorted(problems, key=lambda p: _SEVERITY.get(p.get("severity", ""), 3))
    tones = {"error": "bad", "warning": "warn"}
    rows = [
        [
            Cell(
                str(p.get("severity", "")), _SEVERITY.get(p.get("severity", ""), 3), tone=tones.get(p["severity"], "")
            ),
            Cell(str(p.get("kind", "")).replace("_", " "), p.get("kind")),
            Cell("" if p.get("row") is None else str(p["row"]), p.get("row")),
            Cell(str(p.get("file") or p.get("case_id") or "")),
            Cell(str(p.get("message", ""))),
        ]
        for p in ordered[:MAX_PROBLEMS]
    ]
    columns = [
        Column("Severity", numeric=False),
        Column("Kind", numeric=False),
        Column("Row", "row of the source table"),
        Column("File", numeric=False),
        Column("What", numeric=False),
    ]
    rest = len(problems) - len(rows)
    text = f"{format_count(len(problems))} problems found in the data."
    if rest > 0:
        text += f" The gravest {len(rows)} are shown; the other {format_count(rest)} stand in data/audit.json."
    return Table(f"problems-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _fold_table(dataset: DatasetResult, audit: dict[str, Any]) -> Table:
    classes = [row["name"] for row in audit["classes"]]
    columns = [
        Column("Fold", numeric=False),
        Column("Part", numeric=False),
        Column("Cases"),
        Column("Patients"),
        *(Column(name) for name in classes),
    ]
    rows = []
    for fold in audit["folds"]:
        for part, counts in fold["parts"].items():
            per_class = [_count(n) for n in counts.get("per_class") or []]
            rows.append(
                [
                    Cell(str(fold["fold"]), fold["fold"]),
                    Cell(part, part),
                    _count(counts["n_cases"]),
                    _count(counts["n_patients"]),
                    *per_class,
                ]
            )
    text = "the parts of every fold, cases per class; no patient is in two parts of a fold."
    return Table(f"parts-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def version_table(study: StudyResult) -> Table:
    """Versions of the packages that made the artifacts."""
    rows = [[Cell(name), Cell(version)] for name, version in versions_of(study).items()]
    columns = [Column("Package", numeric=False), Column("Version", numeric=False)]
    return Table("versions", _study_caption(study, "packages that made these results."), columns, rows, compact=True)


def hash_table(study: StudyResult) -> Table:
    """Configuration hash, code fingerprint and device of every artifact."""
    rows = [[Cell(text) for text in row] for row in hashes_of(study)]
    columns = [Column(title, numeric=False) for title in ("Artifact", "Configuration", "Code", "Device")]
    text = "the hash of the settings and of the code that each artifact was made with."
    return Table("hashes", _study_caption(study, text), columns, rows)


def _study_caption(study: StudyResult, text: str) -> str:
    return f"{'Phantom data. ' if study.phantom else ''}Study {study.name}: {text}"
