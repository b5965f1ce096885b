"""The page about given masks: which tool is best, by how much, and what its best and worst masks look like."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import package_versions
from archbench.report.collect import ModelResult
from archbench.report.figures import Panel, Picture, line_styles, render
from archbench.report.labels import format_interval, format_value
from archbench.report.mask_pictures import COLOURS
from archbench.report.mask_study import MaskStudy
from archbench.report.mask_tables import (
    detection_table,
    named,
    pairs_table,
    results_table,
    slices_table,
    success_table,
    tool_label,
)
from archbench.report.page import TEMPLATES

GIVEN = (
    "Masks were paired with the truth by exact case id. Inference seconds and memory of the tools are not known here: "
    "the masks were given.",
)

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase


@dataclass(frozen=True)
class MaskSection:
    """What the page says of one dataset, or of given masks.

    Attributes:
        name: Of the dataset.
        summary: The content of summary.json; None where no model has masks.
        folder: Where the pictures of `summary["overlays"]` lie.
        study: Of models that were trained here; None for given masks.
        without_result: Models that failed or were not finished.
    """

    name: str
    summary: Mapping[str, Any] | None
    folder: Path
    study: MaskStudy | None = None
    without_result: Sequence[ModelResult] = ()


def render_mask_page(sections: Sequence[MaskSection], *, title: str, command: str) -> str:
    """Return the page as HTML, dataset after dataset; every text from data is escaped by the template.

    Args:
        command: What makes the page again.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    several = len(sections) > 1
    told: list[Sequence[str]] = [section.study.methods if section.study else GIVEN for section in sections]
    told += [methods(section.summary["settings"]) for section in sections if section.summary is not None]
    return str(
        environment.get_template("masks.html.j2").render(
            title=title,
            command=command,
            trained=sections[0].study is not None,
            packages=package_versions(),
            methods=list(dict.fromkeys(text for texts in told for text in texts)),
            sections=[_content(section, several=several) for section in sections],
            colours=COLOURS,
            css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            js=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        )
    )


def _content(section: MaskSection, *, several: bool) -> dict[str, Any]:
    """What the template shows of one dataset; headings and names of tables say which, where there are several."""
    prefix = f"{section.name}-" if several else ""
    warnings = [f"{model.name}: {model.status}, see Failures" for model in section.without_result]
    shared: dict[str, Any] = {
        "name": section.name,
        "prefix": prefix,
        "heading": f"{section.name}: " if several else "",
        "summary": section.summary,
        "study": section.study and section.study.named(prefix),
        "without_result": section.without_result,
        "warnings": warnings,
        "success": None,
    }
    summary = section.summary
    if summary is None:
        return shared | {"answer": ["No model has masks to compare."]}
    first, *others = summary["structures"]
    overlays = summary.get("overlays", [])
    tables = {
        "results": results_table(summary, first, caption=_caption(summary, first)),
        "pairs": pairs_table(summary),
        "detection": detection_table(summary),
        "slices": slices_table(summary),
        "success": success_table(summary),
    }
    return {
        **shared,
        **{key: named(table, prefix) for key, table in tables.items()},
        "warnings": [*warnings, *summary["warnings"]],
        "answer": answer(summary),
        "forest": render(forest_panel(summary)),
        "by_label": [named(results_table(summary, name, caption=_caption(summary, name)), prefix) for name in others],
        "overlays": [
            {
                "tool": tool,
                "pictures": [_picture(entry, section.folder) for entry in overlays if entry["tool"] == tool],
            }
            for tool in summary["order"]
        ],
        "notes": [entry["note"] for entry in overlays if entry["note"]],
    }


def _caption(summary: Mapping[str, Any], structure: str) -> str:
    level = f"{100 * summary['settings']['confidence']:g} %"
    return f"{structure}: mean over patients, with {level} intervals from redrawn patients."


def answer(summary: Mapping[str, Any]) -> list[str]:
    """The result in sentences: the best by mean Dice, and what can be told apart from it."""
    structure, comparison = summary["structures"][0], summary["comparison"]["dice"]
    best = comparison["best"]
    record = summary["models"][best]["structures"][structure]["dice"]
    if record["value"] is None:
        return [f"No Dice is defined: {record['reason']}."]
    reached = f"mean Dice {format_interval(record)} over {record['n_patients']} patients ({structure})"
    sentences = [f"{tool_label(summary, best)}: {reached}."]
    for pair in comparison["pairs"]:
        if pair["a"] == best:
            difference = format_interval({**pair, "value": pair["difference"]})
            sentences.append(f"Against {pair['b']}: {difference}, {pair['verdict']}.")
    for tool in summary.get("apart", ()):
        told = format_interval(summary["models"][tool]["structures"][structure]["dice"])
        sentences.append(f"{tool_label(summary, tool)}: {told}, an upper bound that is not ranked.")
    return sentences


def forest_panel(summary: Mapping[str, Any]) -> Panel:
    """Mean Dice of each tool and structure with its interval, best tool on top."""
    tools, structures = summary["order"], summary["structures"]
    styles = line_styles(structures)
    offsets = {name: 0.62 * ((k + 0.5) / len(structures) - 0.5) for k, name in enumerate(structures)}

    def draw(figure: FigureBase) -> None:
        axes = figure.subplots()
        for name in structures:
            for row, tool in enumerate(tools):
                record = summary["models"][tool]["structures"][name]["dice"]
                if record["value"] is not None:
                    at, style = row + offsets[name], styles[name]
                    if record["low"] is not None:
                        axes.plot([record["low"], record["high"]], [at, at], color=style.color, lw=1.6)
                    axes.plot(record["value"], at, style.marker, color=style.color, ms=5, label="_")
            axes.plot([], [], styles[name].marker, color=styles[name].color, label=name)
        axes.set_yticks(range(len(tools)), [tool_label(summary, tool) for tool in tools])
        axes.set_ylim(len(tools) - 0.4, -0.6)
        axes.set_xlabel("mean Dice over patients")
        axes.grid(axis="x", color="#d9d9d9", lw=0.6)
        if len(structures) > 1:
            figure.legend(loc="outside upper center", ncols=min(4, len(structures)))

    values = (f"{tool} {format_value(_dice(summary, tool, structures[0]))}" for tool in tools)
    height = 1.1 + len(tools) * (0.3 + 0.13 * len(structures)) + 0.25 * (len(structures) > 1)
    return Panel("Mean Dice", f"Mean Dice with intervals: {', '.join(values)}.", draw, width=6.4, height=height)


def _dice(summary: Mapping[str, Any], tool: str, structure: str) -> float | None:
    value: float | None = summary["models"][tool]["structures"][structure]["dice"]["value"]
    return value


def _picture(entry: Mapping[str, Any], folder: Path) -> Picture:
    encoded = base64.b64encode((folder / entry["file"]).read_bytes()).decode()
    title = f"{entry['kind']}: {entry['case']}, Dice {format_value(entry['dice'])}"
    alt = f"Masks of {entry['tool']} and the truth, {title}."
    return Picture(f"data:image/png;base64,{encoded}", alt, title, 0, 0)


def methods(settings: Mapping[str, Any]) -> list[str]:
    """How the numbers were made, in sentences."""
    return [
        "Masks were compared with the truth voxel by voxel. A case's value over all "
        "labels is the mean over the labels with a value, a patient's the mean over the cases, and the result the "
        "mean over the patients.",
        "Truth and prediction empty: Dice, IoU, sensitivity and distances are undefined and the case is a true "
        "negative of the detection table. Truth empty only: undefined, and a false positive with its size. "
        "Prediction empty only: Dice, IoU, sensitivity and surface Dice are 0 and HD95 is the diagonal of the image.",
        f"HD95 and surface Dice (tolerance {settings['tolerance_mm']:g} mm, boundary elements weighed by area) are "
        "those of MONAI, with exact distances; HD95 is the larger of the two directed 95 % quantiles over boundary "
        "voxels.",
        f"Intervals are percentiles of {settings['resamples']} draws of the patients, p values of "
        f"{settings['comparison_resamples']} draws that all tools share, corrected after Holm over all pairs. "
        "Dice is the primary metric; only it has a verdict. Differences that are not significant are not called equal.",
    ]
