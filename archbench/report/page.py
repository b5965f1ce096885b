"""The report page: what each section shows, and the template that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from archbench.report.across import across_view
from archbench.report.audit_tables import audit_tables, hash_table, version_table
from archbench.report.cam_view import cam_view
from archbench.report.checklist_view import checklist_markdown, checklist_table
from archbench.report.collect import INCOMPLETE, DatasetResult, StudyResult
from archbench.report.cost_tables import parity_table, training_table
from archbench.report.decisions_view import decisions_view
from archbench.report.ensemble_figures import ensemble_panels
from archbench.report.ensemble_words import ensemble_sentences
from archbench.report.exports import data_uri, file_stem, table_csv, table_latex
from archbench.report.figures import render, render_all
from archbench.report.labels import spelled
from archbench.report.methods import commands_of, hardware_words, methods_markdown, methods_paragraphs
from archbench.report.notices import warnings_of
from archbench.report.panels import DatasetPanels
from archbench.report.pareto_figure import pareto_panel
from archbench.report.quality_tables import ensemble_table
from archbench.report.quality_view import quality_view
from archbench.report.text import answer
from archbench.report.timing_view import speed_view
from archbench.report.tuning_view import final_table, search_panels, search_table

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A section of the page: its anchor and heading."""

    identifier: str
    title: str


SECTIONS = (
    Section("answer", "The answer"),
    Section("results", "Results"),
    Section("latency", "Accuracy against latency"),
    Section("classes", "Classes, calibration and decisions"),
    Section("cam", "What the models look at"),
    Section("ensemble", "The ensemble"),
    Section("cost", "Cost"),
    Section("audit", "The data audit"),
    Section("protocol", "Protocol and how to repeat it"),
)


def page_content(study: StudyResult, panels: Sequence[DatasetPanels]) -> dict[str, Any]:
    """Return everything that the page shows, as the template takes it."""
    return {
        "study": study,
        "sections": SECTIONS,
        "views": [_dataset_view(study, dataset, of) for dataset, of in zip(study.datasets, panels, strict=True)],
        "across": _across(study),
        "notices": warnings_of(study),
        "methods": methods_paragraphs(study),
        "methods_file": methods_markdown(study),
        "checklist": checklist_table(study),
        "checklist_file": checklist_markdown(study),
        "commands": commands_of(study),
        "configuration": _pretty(study.configuration),
        "versions": version_table(study),
        "hashes": hash_table(study),
    }


def render_page(content: Mapping[str, Any]) -> str:
    """Return the page as HTML; every text from data is escaped by the template."""
    return str(_template().render(**content, css=_asset("report.css"), js=_asset("report.js")))


def _across(study: StudyResult) -> dict[str, Any] | None:
    view = across_view(study)
    if view is None:
        return None
    difference = view.pop("difference")
    return {
        **view,
        "picture": render(view.pop("panel")),
        "picture_narrow": render(view.pop("narrow")),
        "difference_picture": render(difference) if difference else None,
    }


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["breakable"] = _breakable
    environment.filters["file_stem"] = file_stem
    environment.filters["csv_link"] = lambda table: data_uri(table_csv(table), "text/csv")
    environment.filters["latex_link"] = lambda table: data_uri(table_latex(table), "application/x-tex")
    environment.filters["text_link"] = lambda text: data_uri(text, "text/markdown")
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
        "without_result": dataset.without_result,
        "incomplete": [m for m in dataset.models if m.status == INCOMPLETE],
        **quality_view(dataset, panels),
        **decisions_view(dataset, panels),
        **_cost_view(dataset, panels),
        "speed": speed_view(study, dataset),
        **_tuning_view(study, dataset),
        **cam_view(dataset),
        **_ensemble_view(dataset),
        "audit_tables": audit_tables(dataset),
        "problems": (dataset.audit or {}).get("problems") or [],
    }


def _cost_view(dataset: DatasetResult, panels: DatasetPanels) -> dict[str, Any]:
    narrow = pareto_panel(dataset, narrow=True)
    timing = dataset.timing or {}
    untimed = dataset.missing.get("timing", "timing.json holds no result of it")
    return {
        "pareto": next(iter(render_all(panels.pareto)), None),
        "pareto_narrow": render(narrow) if narrow else None,
        "pareto_missing": f"There is no such figure: no evaluated model was timed ({untimed}).",
        "training": render_all(panels.training),
        "training_table": training_table(dataset),
        "parity_table": parity_table(dataset),
        "timing_missing": f"Inference was not timed: {untimed}.",
        "hardware": f"Measured on {hardware_words(timing.get('hardware') or {})}; {timing.get('rounds')} rounds.",
    }


def _tuning_view(study: StudyResult, dataset: DatasetResult) -> dict[str, Any]:
    return {
        "searches": render_all(search_panels(dataset)),
        "search_table": search_table(dataset),
        "search_applied": bool((study.configuration.get("tuning") or {}).get("apply")),
        "final_table": final_table(dataset),
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
        metric = dataset.primary
        folds = decision.get("per_fold_choice") or []
        shown = {
            "choice": decision.get("choice") or "",
            "reason": spelled(str(decision.get("reason") or ""), metric),
            "members": decision.get("members") or [],
            "per_fold_choice": [{**row, "reason": spelled(row.get("reason", ""), metric)} for row in folds],
            "diagnostics": [spelled(text, metric) for text in decision.get("diagnostics") or []],
            "fell_back": bool(ensemble and ensemble.fell_back),
        }
    return {
        "decision": shown,
        "ensemble_table": ensemble_table(dataset, decision) if decision else None,
        "ensemble_missing": missing,
        "ensemble_words": ensemble_sentences(decision or {}),
        "ensemble_pictures": render_all(ensemble_panels(dataset)),
    }
