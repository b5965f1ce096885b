"""The tables that prepare_dataset writes: one row a case, and who is in which part of which fold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from archbench.audit import Case
from archbench.splits import PARTS
from archbench.volume_audit import VolumeFacts

if TYPE_CHECKING:
    import pyarrow as pa


def manifest_table(cases: Sequence[Case], targets: np.ndarray, *, labels: Sequence[str], classes: bool) -> pa.Table:
    """One row per case: ids, file, its hash and size, targets, and what is known of masks, volumes and lesions.

    Args:
        targets: Shape (N, L), NaN where unknown.
        classes: The one target is a class index; else targets are numbers.
    """
    import pyarrow as pa

    columns = dict(zip(labels, targets.T, strict=True))
    type_of = pa.int8() if classes else pa.float32()
    masks = {"mask": pa.array([case.raw.mask for case in cases], pa.string())} if any(c.raw.mask for c in cases) else {}
    return pa.table(
        {
            "case_id": pa.array([case.case_id for case in cases], pa.string()),
            "patient_id": pa.array([case.patient_id for case in cases], pa.string()),
            "image": pa.array([case.case_id for case in cases], pa.string()),
            "sha256": pa.array([case.facts.sha256 for case in cases], pa.string()),
            "width": pa.array([case.facts.width for case in cases], pa.int32()),
            "height": pa.array([case.facts.height for case in cases], pa.int32()),
            **{
                f"target_{name}": pa.array(values, type_of, mask=np.isnan(values))
                if not classes
                else pa.array(values.astype(np.int8), type_of)
                for name, values in columns.items()
            },
            **masks,
            **_slice_columns(cases),
            **_volume_columns(cases),
            "source_row": pa.array([case.raw.row for case in cases], pa.int32()),
            "lesions": pa.array([case.raw.lesions for case in cases], pa.string()),
        }
    )


def _slice_columns(cases: Sequence[Case]) -> dict[str, pa.Array]:
    """Of images with masks: pixel spacing, and of slices what they were cut from and their distance."""
    import pyarrow as pa

    columns = {}
    if any(case.raw.spacing_mm for case in cases):
        for k, name in enumerate(("row_mm", "column_mm")):
            columns[name] = pa.array([case.raw.spacing_mm and case.raw.spacing_mm[k] for case in cases], pa.float64())
    if any(case.raw.volume for case in cases):
        columns["volume"] = pa.array([case.raw.volume for case in cases], pa.string())
        columns["slice_mm"] = pa.array([case.raw.slice_mm for case in cases], pa.float64())
    return columns


def _volume_columns(cases: Sequence[Case]) -> dict[str, pa.Array]:
    """Of volumes: slices, spacing, orientation of the file, and what a table declares of them, as JSON."""
    import pyarrow as pa

    facts = [case.facts for case in cases if isinstance(case.facts, VolumeFacts)]
    if not facts:
        return {}
    spacing = zip(*(fact.spacing_mm for fact in facts), strict=True)
    return {
        "depth": pa.array([fact.depth for fact in facts], pa.int32()),
        **{f"spacing_{axis}_mm": pa.array(values, pa.float32()) for axis, values in zip("zyx", spacing, strict=True)},
        "orientation": pa.array([fact.orientation for fact in facts], pa.string()),
        "declared": pa.array(
            [case.raw.declared and json.dumps(dict(case.raw.declared)) for case in cases], pa.string()
        ),
    }


def fold_table(cases: Sequence[Case], parts: np.ndarray) -> pa.Table:
    """One row per fold and case, of parts (folds, N)."""
    import pyarrow as pa

    n_folds = len(parts)
    return pa.table(
        {
            "case_id": pa.array([case.case_id for case in cases] * n_folds, pa.string()),
            "patient_id": pa.array([case.patient_id for case in cases] * n_folds, pa.string()),
            "fold": pa.array(np.repeat(np.arange(n_folds), len(cases)), pa.int32()),
            "split": pa.array([PARTS[part] for part in parts.ravel().tolist()], pa.string()),
        }
    )
