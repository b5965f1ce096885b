"""The report page: what each section shows, and the template that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from archbench.report.audit_tables import audit_tables, hash_table, version_table
from archbench.report.cells import Table
from archbench.report.collect import INCOMPLETE, DatasetResult, ModelResult, StudyResult
from archbench.report.comparison_tables import fold_table_of_values, pairs_table, ranks_table
from archbench.report.cost_tables import parity_table, training_table
from archbench.report.curves import read_precision_recall
from archbench.report.figures import Panel, Picture, line_styles, render
from archbench.report.label_figures import co_occurrence_panel, labels_per_case_panel
from archbench.report.label_tables import label_table, risk_table, threshold_table, tuned_table, zone_table
from archbench.report.labels import format_share
from archbench.report.methods import commands_of, hardware_words, methods_paragraphs
from archbench.report.notices import warnings_of
from archbench.report.pareto_figure import pareto_panel
from archbench.report.pictures import CamCase, cam_cases, cases_per_side, embed
from archbench.report.quality_figures import (
    class_distribution_panel,
    confusion_panels,
    precision_recall_panels,
    ranked,
    ranked_drawn,
    reliability_panels,
    roc_panels,
)
from archbench.report.quality_tables import (
    calibration_table,
    class_table,
    ensemble_table,
    main_table,
    other_metrics_table,
    planted_table,
)
from archbench.report.text import answer, planted_sentence
from archbench.report.timing_view import speed_view
from archbench.report.training_figures import training_panels
from archbench.tasks import get_task

TEMPLATES = Path(__file__).parent / "templates"
DECISION_RULES = {
    "argmax": "the predicted class is the one with the highest probability",
    "expected_grade": "the predicted class is the mean grade under the predicted probabilities, rounded",
}


@dataclass(frozen=True)
class Section:
    """A section of the page: its anchor and heading."""

    identifier: str
    title: str


SECTIONS = (
    Section("answer", "The answer"),
    Section("results", "Results"),
    Section("latency", "Accuracy against latency"),
    Section("classes", "Classes and calibration"),
    Section("cam", "What the models look at"),
    Section("ensemble", "The ensemble"),
    Section("cost", "Cost"),
    Section("audit", "The data audit"),
    Section("protocol", "Protocol and how to repeat it"),
)


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


def dataset_panels(dataset: DatasetResult) -> DatasetPanels:
    """Prepare all panels of a dataset; nothing is drawn yet."""
    curves = {m.name: read_precision_recall(m.folder / "predictions.parquet") for m in dataset.drawn}
    pareto = pareto_panel(dataset)
    counts = (class_distribution_panel(dataset), labels_per_case_panel(dataset), co_occurrence_panel(dataset))
    return DatasetPanels(
        class_distribution=[panel for panel in counts if panel],
        confusion=confusion_panels(dataset),
        roc=roc_panels(dataset),
        precision_recall=precision_recall_panels(dataset, curves),
        reliability=reliability_panels(dataset),
        training=training_panels(dataset),
        pareto=[pareto] if pareto else [],
    )


def render_page(study: StudyResult, panels: Sequence[DatasetPanels]) -> str:
    """Return the page as HTML; every text from data is escaped by the template."""
    views = [_dataset_view(study, dataset, of) for dataset, of in zip(study.datasets, panels, strict=True)]
    return str(
        _template().render(
            study=study,
            sections=SECTIONS,
            views=views,
            notices=warnings_of(study),
            methods=methods_paragraphs(study),
            commands=commands_of(study),
            configuration=_pretty(study.configuration),
            versions=version_table(study),
            hashes=hash_table(study),
            css=_asset("report.css"),
            js=_asset("report.js"),
        )
    )


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template("report.html.j2")


def _breakable(text: str) -> Any:
    """Escaped text that a narrow column may break after _, - and / instead of inside a word."""
    from markupsafe import Markup, escape

    marked = str(escape(text))
    for mark in "_-/":
        marked = marked.replace(mark, f"{mark}<wbr>")
    return Markup(marked)


def _asset(name: str) -> Any:
    """Our own stylesheet or script, marked as needing no escape; never text from data."""
    from markupsafe import Markup

    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _pretty(configuration: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True, width=100))


def _dataset_view(study: StudyResult, dataset: DatasetResult, panels: DatasetPanels) -> dict[str, Any]:
    """What the template shows of one dataset."""
    return {
        "name": dataset.name,
        "phantom": dataset.phantom,
        "say": "Phantom data. " if dataset.phantom else "",
        "level": f"{100 * dataset.confidence:g}\u00a0%",
        "answer": answer(dataset),
        "failed": dataset.failed,
        "incomplete": [m for m in dataset.models if m.status == INCOMPLETE],
        **_quality_view(dataset, panels),
        **_cost_view(dataset, panels),
        "speed": speed_view(study, dataset),
        **_cam_view(dataset),
        **_ensemble_view(dataset),
        "audit_tables": audit_tables(dataset),
        "problems": (dataset.audit or {}).get("problems") or [],
    }


def _quality_view(dataset: DatasetResult, panels: DatasetPanels) -> dict[str, Any]:
    styles = line_styles([model.name for model in dataset.models])
    hidden = [model.name for model in dataset.evaluated if model not in dataset.drawn]
    return {
        "main_table": main_table(dataset),
        "other_metrics": other_metrics_table(dataset),
        "pairs": pairs_table(dataset),
        "ranks": ranks_table(dataset),
        "fold_values": fold_table_of_values(dataset),
        "hidden": hidden,
        "class_tables": [{"model": m.name, "table": _class_table(dataset, m)} for m in ranked_drawn(dataset)],
        "tuned": tuned_table(dataset),
        "thresholds": [t for m in ranked(dataset) if (t := threshold_table(dataset, m)) is not None],
        "risk": risk_table(dataset),
        "calibration": calibration_table(dataset),
        "decision_rule": DECISION_RULES[get_task(dataset.entry["task"]).decision],
        "legend": [
            {"name": m.name, "color": styles[m.name].color, "dash": " ".join(f"{d * 2:g}" for d in styles[m.name].dash)}
            for m in dataset.drawn
        ],
        "class_distribution": _pictures(panels.class_distribution),
        "confusion": _pictures(panels.confusion),
        "roc": _pictures(panels.roc),
        "precision_recall": _pictures(panels.precision_recall),
        "reliability": _pictures(panels.reliability),
    }


def _class_table(dataset: DatasetResult, model: ModelResult) -> Table | None:
    """Each class, label or zone of a model; None for a regression."""
    makers = {"classes": class_table, "labels": label_table, "zones": zone_table}
    return makers[dataset.outputs](dataset, model) if dataset.outputs in makers else None


def _pictures(panels: Sequence[Panel]) -> list[Picture]:
    return [render(panel) for panel in panels]


def _cost_view(dataset: DatasetResult, panels: DatasetPanels) -> dict[str, Any]:
    narrow = pareto_panel(dataset, narrow=True)
    timing = dataset.timing or {}
    untimed = dataset.missing.get("timing", "timing.json holds no result of it")
    return {
        "pareto": next(iter(_pictures(panels.pareto)), None),
        "pareto_narrow": render(narrow) if narrow else None,
        "pareto_missing": f"There is no such figure: no evaluated model was timed ({untimed}).",
        "training": _pictures(panels.training),
        "training_table": training_table(dataset),
        "parity_table": parity_table(dataset),
        "timing_missing": f"Inference was not timed: {untimed}.",
        "hardware": f"Measured on {hardware_words(timing.get('hardware') or {})}; {timing.get('rounds')} rounds.",
    }


def _cam_view(dataset: DatasetResult) -> dict[str, Any]:
    explained = [m for m in ranked(dataset) if m.gradcam]
    n = cases_per_side(len(explained))
    missing = [f"{m.name}: no CAM ({m.missing['gradcam']})." for m in dataset.evaluated if m.missing.get("gradcam")]
    if not explained and not missing:
        missing = ["No CAM was made: the study asks for none, or no model was evaluated."]
    return {
        "cams": [_cam_of(dataset, model, n) for model in explained],
        "cam_missing": missing,
        "planted": planted_table(dataset),
        "planted_sentence": planted_sentence(dataset),
    }


def _cam_of(dataset: DatasetResult, model: ModelResult, n: int) -> dict[str, Any]:
    cases = cam_cases(dataset, model)
    right, wrong = [c for c in cases if c.right], [c for c in cases if not c.right]
    return {
        "model": model.name,
        "n_right": len(right),
        "n_wrong": len(wrong),
        "sides": [
            {"title": "Right", "cases": [_cam_pictures(model, case) for case in right[:n]]},
            {"title": "Wrong", "cases": [_cam_pictures(model, case) for case in wrong[:n]]},
        ],
    }


def _cam_pictures(model: ModelResult, case: CamCase) -> dict[str, Any]:
    grades = f"{case.about}true {case.true}, predicted {case.predicted}"
    lesion = {None: "", True: "strongest point inside a lesion", False: "strongest point outside the lesions"}
    return {
        "original": embed(case.original, f"Image {case.case_id}: {grades}."),
        "overlay": embed(case.overlay, f"Grad-CAM of {model.name} over image {case.case_id}: {grades}."),
        "case_id": case.case_id,
        "about": case.about,
        "true": case.true,
        "predicted": case.predicted,
        "probability": "" if case.probability is None else format_share(case.probability),
        "lesion": lesion[case.in_lesion],
    }


def _ensemble_view(dataset: DatasetResult) -> dict[str, Any]:
    ensemble = dataset.ensemble
    decision = ensemble.decision if ensemble else None
    if ensemble is None:
        missing = "No ensemble was tried: the study names no candidate, or there is only one model."
    else:
        missing = f"The ensemble is missing: {'; '.join(ensemble.missing.values()) or 'no decision was written'}."
    shown = None
    if decision:
        keys = ("choice", "reason", "members", "per_fold_choice", "diagnostics")
        shown = {key: decision.get(key) or "" for key in keys}
        shown["fell_back"] = bool(ensemble and ensemble.fell_back)
    return {
        "decision": shown,
        "ensemble_table": ensemble_table(dataset, decision) if decision else None,
        "ensemble_missing": missing,
    }
