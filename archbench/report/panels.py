"""The pictures of a dataset by subject; the files beside the page and the page draw from the same ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from archbench.report.beside import beside
from archbench.report.collect import DatasetResult
from archbench.report.curve_bands import Band, read_bands
from archbench.report.curves import read_precision_recall
from archbench.report.decision_curves import decision_panels
from archbench.report.figures import Panel
from archbench.report.forest_figure import forest_panel
from archbench.report.label_figures import co_occurrence_panel, labels_per_case_panel
from archbench.report.pareto_figure import pareto_panel
from archbench.report.quality_figures import (
    class_distribution_panel,
    confusion_panels,
    precision_recall_panels,
    ranked_drawn,
    reliability_panels,
    roc_panels,
)
from archbench.report.threshold_view import cut_panel, threshold_panels
from archbench.report.training_figures import training_panels
from archbench.report.variance import variance_panel


@dataclass(frozen=True)
class DatasetPanels:
    """The panels of a dataset by subject; files and page draw from the same ones."""

    class_distribution: list[Panel]
    confusion: list[Panel]
    roc: list[Panel]
    precision_recall: list[Panel]
    reliability: list[Panel]
    training: list[Panel]
    pareto: list[Panel] = field(default_factory=list)
    forest: list[Panel] = field(default_factory=list)
    variance: list[Panel] = field(default_factory=list)
    thresholds: list[Panel] = field(default_factory=list)
    cuts: list[Panel] = field(default_factory=list)
    decision_curves: list[Panel] = field(default_factory=list)


def dataset_panels(dataset: DatasetResult, *, processes: int = 1) -> DatasetPanels:
    """Prepare all panels of a dataset, in up to two processes; nothing is drawn yet."""
    found = beside(partial(_bands, dataset), processes=processes)
    curves = {m.name: read_precision_recall(m.folder / "predictions.parquet") for m in dataset.drawn}
    bands = found()
    pareto = pareto_panel(dataset)
    counts = (class_distribution_panel(dataset), labels_per_case_panel(dataset), co_occurrence_panel(dataset))
    return DatasetPanels(
        class_distribution=[panel for panel in counts if panel],
        confusion=confusion_panels(dataset),
        roc=roc_panels(dataset, bands),
        precision_recall=precision_recall_panels(dataset, curves, bands),
        reliability=reliability_panels(dataset),
        training=training_panels(dataset),
        pareto=[pareto] if pareto else [],
        forest=_one(forest_panel(dataset)),
        variance=_one(variance_panel(dataset)),
        thresholds=threshold_panels(dataset),
        cuts=_one(cut_panel(dataset)),
        decision_curves=decision_panels(dataset),
    )


def _bands(dataset: DatasetResult) -> dict[str, dict[str, Band]]:
    """Bands of the best model's curves."""
    best = next(iter(ranked_drawn(dataset)), None)
    return read_bands(best.folder / "predictions.parquet", confidence=dataset.confidence) if best else {}


def _one(panel: Panel | None) -> list[Panel]:
    return [panel] if panel else []
