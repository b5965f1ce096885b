"""The files that stages exchange: atomic writes, checked reads, provenance.

Stages meet only in files. A file appears under its name only when it is whole: it is written
beside its place, flushed to the disk, and renamed.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"archbench"
PROVENANCE_PACKAGES = (
    "archbench",
    "torch",
    "timm",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "monai",
    "numpy",
    "scikit-learn",
    "snakemake",
)


class ArtifactError(ValueError):
    """A file that a stage reads is missing, damaged, or not what the stage expects."""


class MetricRecord(TypedDict):
    """A metric with its interval; an undefined one has value None and says why.

    `method` says how the interval was made: percentile, logit_delong, wilson, normal, or none. Files of older versions
    and records without an interval of ours lack it.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n_cases: int
    n_patients: int
    method: NotRequired[str]
    reason: str | None


def undefined(name: str, reason: str, n_cases: int, n_patients: int) -> MetricRecord:
    """Return the record of a metric that has no value, with the reason."""
    return MetricRecord(
        name=name,
        value=None,
        low=None,
        high=None,
        n_cases=n_cases,
        n_patients=n_patients,
        method="none",
        reason=reason,
    )


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, since undefined is null with a reason."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    write_text(path, text + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically, with line feeds on every platform."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or damaged file raises ArtifactError with its name."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: run the rule that makes it (snakemake {path})") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}): delete it and run snakemake again") from error


def write_table(path: str | Path, table: pa.Table, metadata: Mapping[str, Any]) -> None:
    """Write a parquet table with JSON metadata; equal content gives equal bytes."""
    import pyarrow.parquet as pq

    encoded = json.dumps(metadata, sort_keys=True, ensure_ascii=False, default=_plain).encode()
    table = table.replace_schema_metadata({METADATA_KEY: encoded})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: str | Path) -> tuple[pa.Table, dict[str, Any]]:
    """Read a parquet table and its JSON metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:  # pq.read_table would import pandas
            table = file.read()
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: run the rule that makes it (snakemake {path})") from None
    except pa.ArrowInvalid as error:
        raise ArtifactError(f"{path} is damaged ({error}): delete it and run snakemake again") from error
    raw = (table.schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise ArtifactError(f"{path} was not written by archbench: it has no metadata")
    return table, json.loads(raw)


def numeric_column(table: pa.Table, name: str) -> np.ndarray:
    """Return a numeric column as float64, NaN where null (pyarrow's own conversion would import pandas)."""
    column = table[name].combine_chunks()
    if column.null_count:
        return np.array(column.to_pylist(), dtype=np.float64)
    return np.from_dlpack(column).astype(np.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities in float64, shape (N, K)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def decide(probabilities: np.ndarray, rule: str) -> np.ndarray:
    """Return the class that each row is called, shape (N,).

    Args:
        probabilities: Shape (N, K), rows sum to 1.
        rule: "argmax", the likeliest class; or "expected_grade", the mean grade rounded, which minimises the
            expected squared distance of ordered grades, the loss behind QWK.
    """
    if rule == "argmax":
        return probabilities.argmax(axis=1)
    if rule == "expected_grade":
        return np.rint(probabilities @ np.arange(probabilities.shape[1])).astype(np.int64)
    raise ValueError(f"unknown decision rule '{rule}' (known: argmax, expected_grade)")


@dataclass(frozen=True)
class Predictions:
    """Logits of one model (or ensemble): one row per case, fold and seed.

    Attributes:
        case_id: Case names, shape (N,).
        patient_id: Patient of each case, shape (N,).
        split: "val" or "test", shape (N,).
        fold: Fold number, shape (N,).
        seed: Training seed, shape (N,).
        logits: float32, shape (N, K), columns in the order of `classes`.
        targets: float64, shape (N, L), columns in the order of `labels`; NaN where unknown.
        classes: Names of the K logit columns.
        labels: Names of the L target columns.
        metadata: Provenance and whatever else the file carries.
    """

    case_id: np.ndarray
    patient_id: np.ndarray
    split: np.ndarray
    fold: np.ndarray
    seed: np.ndarray
    logits: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.case_id)
        if self.logits.shape != (n, len(self.classes)):
            raise ValueError(f"logits have shape {self.logits.shape}, expected ({n}, {len(self.classes)})")
        if self.targets.shape != (n, len(self.labels)):
            raise ValueError(f"targets have shape {self.targets.shape}, expected ({n}, {len(self.labels)})")
        if not ((self.split == "test") | (self.split == "val")).all():
            unknown = sorted(set(self.split.tolist()) - {"val", "test"})
            raise ValueError(f"a prediction table holds val and test rows only, found {unknown}")

    def __len__(self) -> int:
        return len(self.case_id)

    @cached_property
    def case_code(self) -> np.ndarray:
        """A small number for each row's case, shape (N,); rows selected from this table keep it."""
        return np.unique(self.case_id, return_inverse=True)[1]

    @cached_property
    def patient_code(self) -> np.ndarray:
        """A small number for each row's patient, shape (N,); rows selected from this table keep it."""
        return np.unique(self.patient_id, return_inverse=True)[1]

    @property
    def y_true(self) -> np.ndarray:
        """Class index of each row, shape (N,), for tasks with one label."""
        if self.targets.shape[1] != 1:
            raise ValueError(f"y_true needs one label, this table has {len(self.labels)}")
        if np.isnan(self.targets).any():
            raise ValueError("y_true needs known targets: use .known() first")
        return self.targets[:, 0].astype(np.int64)

    @property
    def decisions(self) -> np.ndarray:
        """Class that each row is called, shape (N,), by the rule that the table carries (else argmax)."""
        return decide(softmax(self.logits), self.metadata.get("decision", "argmax"))

    @property
    def test(self) -> Predictions:
        """The rows of the test part."""
        return self.select(self.split == "test")

    @property
    def val(self) -> Predictions:
        """The rows of the validation part."""
        return self.select(self.split == "val")

    @property
    def outputs(self) -> str:
        """What the logits are: classes (the default), labels, zones or value."""
        return str(self.metadata.get("outputs", "classes"))

    def known(self) -> Predictions:
        """The rows with any target known: a case is left out only if nothing is known of it."""
        inside = ~np.isnan(self.targets).all(axis=1)
        return self if inside.all() else self.select(inside)

    def select(self, mask: np.ndarray) -> Predictions:
        """The rows that a boolean mask or an index array picks."""
        rows = {name: getattr(self, name)[mask] for name in _ROW_FIELDS}
        found = replace(self, **rows)
        known = {name: self.__dict__[name][mask] for name in _CODES if name in self.__dict__}
        found.__dict__.update(known)  # cached properties: names are compared once for all parts of a table
        return found

    def having(self, **fields: Any) -> Predictions:
        """The same rows of the same cases with other logits, targets or names of columns."""
        if not fields.keys().isdisjoint(("case_id", "patient_id")):
            raise ValueError("other cases are another table: use dataclasses.replace")
        found = replace(self, **fields)
        found.__dict__.update({name: self.__dict__[name] for name in _CODES if name in self.__dict__})
        return found

    def sorted(self) -> Predictions:
        """The rows by seed, fold, split and case."""
        return self.select(np.lexsort((self.case_id, self.split, self.fold, self.seed)))


_CODES = ("case_code", "patient_code")
_ROW_FIELDS = ("case_id", "patient_id", "split", "fold", "seed", "logits", "targets")


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write a prediction table, sorted, so that equal content gives equal bytes."""
    import pyarrow as pa

    p = predictions.sorted()
    columns: dict[str, Any] = {
        "case_id": pa.array(p.case_id.tolist(), pa.string()),
        "patient_id": pa.array(p.patient_id.tolist(), pa.string()),
        "split": pa.array(p.split.tolist(), pa.string()),
        "fold": pa.array(p.fold, pa.int32()),
        "seed": pa.array(p.seed, pa.int64()),
    }
    for k, name in enumerate(p.classes):
        columns[f"logit_{name}"] = pa.array(p.logits[:, k], pa.float32())
    for k, name in enumerate(p.labels):
        columns[f"target_{name}"] = _nullable(p.targets[:, k])
    extra = {**p.metadata, "classes": list(p.classes), "labels": list(p.labels)}
    write_table(path, pa.table(columns), extra)


def _nullable(values: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.float32(), mask=np.isnan(values))


def read_predictions(path: str | Path, classes: tuple[str, ...] | None = None) -> Predictions:
    """Read a prediction table and check names, order and completeness of its columns.

    Args:
        classes: Class names the reader expects, in order; None accepts what the file declares.
    Raises:
        ArtifactError: If columns are missing or class names or their order differ.
    """
    table, extra = read_table(path)
    found, labels = tuple(extra.get("classes", ())), tuple(extra.get("labels", ()))
    if classes is not None and found != tuple(classes):
        raise ArtifactError(f"{path} has the classes {list(found)}, expected {list(classes)} in this order")
    logit_columns = [name for name in table.column_names if name.startswith("logit_")]
    if logit_columns != [f"logit_{name}" for name in found]:
        raise ArtifactError(f"{path}: columns {logit_columns} do not match its declared classes {list(found)}")
    missing = {"case_id", "patient_id", "split", "fold", "seed"} - set(table.column_names)
    if missing:
        raise ArtifactError(f"{path} lacks the columns {sorted(missing)}")
    n = table.num_rows
    logits = [numeric_column(table, name).astype(np.float32) for name in logit_columns]
    targets = [numeric_column(table, f"target_{name}") for name in labels]
    return Predictions(
        case_id=np.array(table["case_id"].to_pylist(), dtype=str),
        patient_id=np.array(table["patient_id"].to_pylist(), dtype=str),
        split=np.array(table["split"].to_pylist(), dtype=str),
        fold=numeric_column(table, "fold").astype(np.int64),
        seed=numeric_column(table, "seed").astype(np.int64),
        logits=np.stack(logits, axis=1) if logits else np.zeros((n, 0), np.float32),
        targets=np.stack(targets, axis=1) if targets else np.zeros((n, 0)),
        classes=found,
        labels=labels,
        metadata={k: v for k, v in extra.items() if k not in ("classes", "labels")},
    )


def provenance(
    *, study: str, dataset: str, model: str | None, config_hash: str, code: str, device: str = "cpu"
) -> dict[str, Any]:
    """Return what every artifact carries about its origin; no time stamp, so equal runs stay equal."""
    return {
        "study": study,
        "dataset": dataset,
        "model": model,
        "config_hash": config_hash,
        "code": code,
        "device": device,
        "python": platform.python_version(),
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that can change a result."""
    found: dict[str, str] = {}
    for name in PROVENANCE_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
