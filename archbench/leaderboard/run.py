"""One run: a model of a study on a dataset, with what was measured of it and its predictions."""

from __future__ import annotations

import hashlib
import hmac
import io
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError, Predictions, read_predictions, write_predictions
from archbench.metrics.scoring import scored_rows

HASH_LENGTH = 16


@dataclass(frozen=True)
class Run:
    """A model of a study on a dataset.

    Attributes:
        id: Hash of the study, the model, its settings, the data and the predictions; the same wherever it lies.
        added_at: When it came into the database it was made for, UTC.
        data_hash: Hash of the scored cases with patients and targets; equal: the same cases.
        config_hash: Hash of the settings that made it, without paths and the machine.
        code: Fingerprint of the training code.
        details: Architecture, recipe, hardware, versions, warnings and the like.
        metrics: Metric records by name.
        timings: Rows (runtime, batch_size, median_ms, p95_ms, throughput_img_per_s).
        predictions: The scored rows as a parquet file.
        hashed_with: None where case names are plain; else the fingerprint of the key that hides them.
        site: Where an imported run was made; empty for one's own.
    """

    id: str
    added_at: str
    study: str
    dataset: str
    task: str
    model: str
    data_hash: str
    config_hash: str
    code: str
    primary_metric: str
    phantom: bool
    details: dict[str, Any]
    metrics: dict[str, dict[str, Any]] = field(repr=False)
    timings: list[dict[str, Any]] = field(repr=False)
    predictions: bytes = field(repr=False)
    hashed_with: str | None = None
    site: str = ""

    @property
    def primary(self) -> dict[str, Any]:
        """The record of the metric that ranks it; without a value where it was not computed."""
        missing = {"value": None, "low": None, "high": None, "reason": f"{self.primary_metric} was not computed"}
        return self.metrics.get(self.primary_metric, missing)

    @property
    def name(self) -> str:
        """Model and study, for people."""
        return f"{self.model} of {self.study}" + (f" ({self.site})" if self.site else "")

    @property
    def latency_ms(self) -> float | None:
        """Median of the study's headline runtime at batch 1, milliseconds; None where it wasn't timed."""
        runtime = self.details.get("latency_runtime") or "onnxruntime"
        for row in self.timings:
            if (row["runtime"], row["batch_size"]) == (runtime, 1):
                return None if row["median_ms"] is None else float(row["median_ms"])
        return None

    def table(self) -> Predictions:
        """Return the scored rows.

        Raises:
            ArtifactError: If the stored table is damaged.
        """
        try:
            return read_predictions(io.BytesIO(self.predictions))  # type: ignore[arg-type]
        except ArtifactError as error:
            raise ArtifactError(f"the stored predictions of {self.name} are damaged ({error})") from error


def digest(parts: Iterable[str | bytes]) -> str:
    """Return a short hash of parts, in order."""
    found = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()[:HASH_LENGTH]


def data_hash(rows: Predictions) -> str:
    """Return the hash of the cases with their patients and targets, whatever their order, folds and seeds."""
    _, index = np.unique(rows.case_id, return_index=True)
    targets = rows.targets[index].astype("<f4")
    targets[np.isnan(targets)] = np.nan  # one bit pattern for all
    return digest(
        ["\n".join(rows.labels), *rows.case_id[index].tolist(), *rows.patient_id[index].tolist(), targets.tobytes()]
    )


def predictions_hash(rows: Predictions) -> str:
    """Return the hash of what was predicted: cases, folds, seeds and logits, whatever the order of the rows."""
    p = rows.sorted()
    numbers = (p.fold.astype("<i8"), p.seed.astype("<i8"), p.logits.astype("<f4"))
    return digest(["\n".join(p.classes), *p.case_id.tolist(), *(column.tobytes() for column in numbers)])


def stored_table(rows: Predictions) -> bytes:
    """Return the scored rows as a parquet file, without what training needed."""
    kept = {key: value for key, value in rows.metadata.items() if key in ("decision", "outputs", "class_names")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.parquet"
        write_predictions(path, replace(scored_rows(rows), metadata=kept))
        return path.read_bytes()


def key_fingerprint(key: bytes) -> str:
    """Return what tells one key from another without giving it away."""
    return hmac.new(key, b"archbench case names", hashlib.sha256).hexdigest()[:HASH_LENGTH]


def hidden_names(rows: Predictions, key: bytes) -> Predictions:
    """Return the rows with case and patient names replaced by their HMAC-SHA256 under a key."""

    def hide(kind: str, names: np.ndarray) -> np.ndarray:
        unique, index = np.unique(names, return_inverse=True)
        hidden = [hmac.new(key, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()[:24] for name in unique]
        return np.array(hidden, dtype=str)[index]

    return replace(rows, case_id=hide("case", rows.case_id), patient_id=hide("patient", rows.patient_id))
