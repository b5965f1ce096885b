"""What the page shows of the timing, as its templates take it."""

from __future__ import annotations

from typing import Any

from archbench.report.collect import DatasetResult, StudyResult
from archbench.report.figures import render
from archbench.report.timing import energy_sentence, isolation_sentence, machine_sentence, runtime_name, volume_sentence
from archbench.report.timing_budget import budget_of, budget_sentences, budget_table, names_of_failed
from archbench.report.timing_figures import stages_panel, trade_panels
from archbench.report.timing_tables import (
    batch_table,
    rounds_table,
    runtime_table,
    stages_table,
    start_table,
    work_table,
)


def speed_view(study: StudyResult, dataset: DatasetResult) -> dict[str, Any]:
    """Return the budget's answer, the pictures and the tables of a dataset's timing."""
    budget_ms = budget_of(study.configuration)
    stages, narrow = stages_panel(dataset), stages_panel(dataset, narrow=True)
    return {
        "budget": f"{budget_ms:g}\u00a0ms",
        "a_unit": dataset.a_unit,
        "budget_sentences": budget_sentences(dataset, budget_ms),
        "budget_table": budget_table(dataset, budget_ms),
        "untimed": names_of_failed(dataset),
        "disturbed": dataset.timing_disturbed,
        "headline": runtime_name(dataset.headline_runtime),
        "trades": [render(panel) for panel in trade_panels(dataset)],
        "batches": batch_table(dataset),
        "runtimes": runtime_table(dataset),
        "stages": stages_table(dataset),
        "stages_picture": render(stages) if stages else None,
        "stages_narrow": render(narrow) if narrow else None,
        "starts": start_table(dataset),
        "work": work_table(dataset),
        "rounds": rounds_table(dataset),
        "sentences": [
            text
            for text in (
                volume_sentence(dataset),
                isolation_sentence(dataset),
                machine_sentence(dataset),
                energy_sentence(dataset),
            )
            if text and dataset.timing
        ],
    }
