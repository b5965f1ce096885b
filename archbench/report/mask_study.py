"""What the page of a segmentation study shows beside the masks: training, export, timing, data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from archbench.report.audit_tables import audit_tables
from archbench.report.cells import Table
from archbench.report.collect import DatasetResult
from archbench.report.cost_tables import parity_table, training_table
from archbench.report.mask_tables import inference_table, named
from archbench.report.timing_tables import batch_table

LEFT_OUT = (
    "Calibration, decision thresholds, prediction sets, ensembles and Grad-CAM are made for pictures with one answer; "
    "they are left out of a study of masks.",
    "Networks were stopped by the mean Dice of their validation part, in the pixels of the cache; what is reported was "
    "computed in the pixels of the source files, on test cases of which no patient was trained on or validated with.",
    "Volumes were predicted slice by slice and scored whole: the slices' masks were put together again.",
)


@dataclass(frozen=True)
class MaskStudy:
    """Tables of a trained study; `methods` say how it was done."""

    inference: Table | None
    training: Table | None
    parity: Table | None
    latency: Table | None
    audit: list[Table]
    methods: tuple[str, ...]

    def named(self, prefix: str) -> MaskStudy:
        """Return the same with names of tables that start so."""
        audit = [replace(table, identifier=f"{prefix}{table.identifier}") for table in self.audit]
        return MaskStudy(
            inference=named(self.inference, prefix),
            training=named(self.training, prefix),
            parity=named(self.parity, prefix),
            latency=named(self.latency, prefix),
            audit=audit,
            methods=self.methods,
        )


def mask_study(dataset: DatasetResult, summary: Mapping[str, Any] | None) -> MaskStudy:
    """Return the tables of a dataset's training, prediction, export, timing and data."""
    return MaskStudy(
        inference=None if summary is None else inference_table(summary),
        training=training_table(dataset),
        parity=parity_table(dataset),
        latency=batch_table(dataset),
        audit=audit_tables(dataset),
        methods=LEFT_OUT,
    )
