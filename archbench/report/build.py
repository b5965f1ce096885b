"""Write the whole report of a study: tables, results.json, figures and the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from archbench.artifacts import write_json, write_text
from archbench.report.beside import beside
from archbench.report.checklist_view import checklist_markdown
from archbench.report.collect import StudyResult, collect_study
from archbench.report.exports import write_tables
from archbench.report.figures import Drawing, Panel, draw_ahead, line_styles
from archbench.report.methods import methods_markdown
from archbench.report.page import page_content, render_page
from archbench.report.panels import DatasetPanels, dataset_panels
from archbench.report.pictures import write_cam_sheet
from archbench.report.results import results_document
from archbench.report.sheets import legend_panel, write_sheet
from archbench.report.tables import result_rows, to_csv, to_latex, to_text


class IncompleteStudyError(ValueError):
    """A model has no result, and the caller did not ask for a partial report."""


def write_report(
    *,
    configuration: dict[str, Any],
    results: Path,
    output: Path,
    logs: Path | None = None,
    failed_logs: Sequence[Path] | None = None,
    outdated: Sequence[Path] = (),
    partial: bool = False,
    code: str = "",
    processes: int = 1,
) -> StudyResult:
    """Write every output of the report below `output`.

    Args:
        configuration: The study file as plain values.
        results: Folder of the study's artifacts, `results/<study>`.
        output: Folder to write to; usually the same.
        logs: Folder of the job logs, for the end of the log of a failed model.
        failed_logs: Logs of the jobs that failed, where that is known; else the logs are read for it.
        outdated: Files of an earlier run, see `collect_study`.
        partial: Go on although a model has no result, and list it as failed or not finished.
        code: Fingerprint of the report's code.
        processes: How many share the work.
    Returns:
        The study that was reported.
    Raises:
        IncompleteStudyError: If a model has no result and `partial` is false.
    """
    told: dict[str, Any] = {"logs": logs, "failed_logs": failed_logs, "outdated": outdated}
    study = collect_study(configuration=configuration, results=results, **told, code=code)
    if study.without_result and not partial:
        names = ", ".join(f"{dataset}/{model}" for dataset, model in study.without_result)
        raise IncompleteStudyError(f"no result of {names}: run the study again, or report what there is with --partial")
    panels = [dataset_panels(dataset, processes=processes) for dataset in study.datasets]
    write_text(output / "results_table.csv", to_csv(result_rows(study)))
    write_text(output / "results_table.txt", to_text(study))
    write_text(output / "results_table.tex", to_latex(study))
    content = page_content(study, panels)
    draw_ahead((drawing.panel for drawing in _drawings(content)), processes=processes)
    undrawn_written = beside(lambda: _write_undrawn(study, panels, output), processes=processes)
    write_figures(study, panels, output)
    write_tables(content, output / "tables")
    write_text(output / "methods.md", methods_markdown(study))
    write_text(output / "checklist.md", checklist_markdown(study))
    write_text(output / "report.html", render_page(content))
    undrawn_written()
    return study


def _write_undrawn(study: StudyResult, panels: list[DatasetPanels], output: Path) -> None:
    """Write what takes none of the page's drawings, so that another process can."""
    write_json(output / "results.json", results_document(study))
    write_confusion(study, panels, output / "confusion_matrices.png")


def _drawings(content: Any) -> Iterator[Drawing]:
    """What the page will draw, wherever it stands in the page's content."""
    if isinstance(content, Drawing):
        yield content
    elif isinstance(content, Mapping | list | tuple):
        for part in content.values() if isinstance(content, Mapping) else content:
            yield from _drawings(part)


def write_figures(study: StudyResult, panels: list[DatasetPanels], output: Path) -> None:
    """Write the figure files: each subject as SVG with all datasets side by side."""
    figures = output / "figures"
    several = len(study.datasets) > 1
    sheets = {
        "class_distribution": 2,
        "roc_curves": 3,
        "precision_recall_curves": 3,
        "training_curves": 3,
        "reliability": 3,
        "accuracy_against_latency": 1,
        "forest": 1,
    }
    sources = {"roc_curves": "roc", "precision_recall_curves": "precision_recall", "training_curves": "training"}
    sources["accuracy_against_latency"] = "pareto"
    for name, columns in sheets.items():
        chosen = _gather(study, panels, sources.get(name, name), several)
        if chosen and name in ("roc_curves", "precision_recall_curves"):
            chosen.append(legend_panel(line_styles([model.name for model in study.datasets[0].models])))
        write_sheet(chosen, [figures / f"{name}.svg"], columns=columns)
    write_confusion(study, panels, figures / "confusion_matrices.svg")
    write_cam_sheet(study.datasets, figures / "cam_sheet.png")


def write_confusion(study: StudyResult, panels: list[DatasetPanels], path: Path) -> None:
    """Write the confusion matrices of all datasets side by side."""
    found = _gather(study, panels, "confusion", len(study.datasets) > 1)
    write_sheet(found, [path], columns=2 if len(found) == 4 else 3)


def _gather(study: StudyResult, panels: list[DatasetPanels], subject: str, several: bool) -> list[Panel]:
    """The panels of a subject over all datasets, titles saying which and whether phantom."""
    found = []
    for dataset, of in zip(study.datasets, panels, strict=True):
        for panel in getattr(of, subject):
            title = f"{dataset.name}: {panel.title}" if several else panel.title
            mark = " (phantom data)" if dataset.phantom else ""
            found.append(Panel(title + mark, panel.alt, panel.draw, panel.width, panel.height))
    return found
