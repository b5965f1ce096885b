"""Sheets: panels side by side in one file. An SVG sheet takes the pictures of the page as they are drawn already."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from archbench.artifacts import atomic_path, write_text
from archbench.report.figures import Line, Panel, drawn_svg, new_figure, styled, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

POINTS_PER_INCH = 72.0
TITLE_SIZE, LINE_HEIGHT = 9.5, 12.0
_OPENING = re.compile(r"<svg\b[^>]*>")
# Letters of a matplotlib path by the code of its segment.
_LETTERS = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}


def write_sheet(panels: Sequence[Panel], paths: Sequence[Path], *, columns: int = 3) -> None:
    """Write the panels side by side into one file per path; the suffix chooses SVG or PNG."""
    shown = panels or [_empty_panel()]
    for path in paths:
        if path.suffix == ".svg":
            write_text(path, _svg_sheet(shown, columns))
            continue
        with styled(), atomic_path(path) as temporary:
            _drawn_sheet(shown, columns).savefig(temporary, format=path.suffix.lstrip("."))


def _empty_panel() -> Panel:
    def draw(figure: FigureBase) -> None:
        figure.text(0.5, 0.5, "nothing to show: see the report page", ha="center", va="center")

    return Panel("", "Nothing to show.", draw, width=3.4, height=1.2)


def _svg_sheet(panels: Sequence[Panel], columns: int) -> str:
    """The panels' own SVGs in a grid, each below its title. Equal identifiers in two of them name equal things."""
    columns = min(columns, len(panels))
    width = POINTS_PER_INCH * max(panel.width for panel in panels)
    titles = [wrap(panel.title, int(width / 5.6)).split("\n") if panel.title else [] for panel in panels]
    parts, top = [], 0.0
    for start in range(0, len(panels), columns):
        row = range(start, min(start + columns, len(panels)))
        room = LINE_HEIGHT * max(len(titles[k]) for k in row) + 4.0
        for place, k in enumerate(row):
            left = place * width
            middle = left + POINTS_PER_INCH * panels[k].width / 2.0
            parts += [_title(line, middle, top + LINE_HEIGHT * (n + 1)) for n, line in enumerate(titles[k])]
            parts.append(_nested(drawn_svg(panels[k]), left, top + room, panels[k]))
        top += room + POINTS_PER_INCH * max(panels[k].height for k in row)
    size = f'width="{columns * width:g}pt" height="{top:g}pt" viewBox="0 0 {columns * width:g} {top:g}"'
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    white = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg {names} {size} version="1.1">\n{white}\n' + "\n".join(parts) + "\n</svg>\n"


def _nested(svg: str, left: float, top: float, panel: Panel) -> str:
    """A whole SVG file as an element of another one, at a place in points."""
    opening = _OPENING.search(svg)
    if opening is None:
        raise ValueError(f"the picture of '{panel.title}' is no SVG")
    width, height = POINTS_PER_INCH * panel.width, POINTS_PER_INCH * panel.height
    box = f'x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return f"<svg {box}>\n<desc>{escape(panel.alt)}</desc>\n{svg[opening.end() :].strip()}"


def _title(line: str, middle: float, base: float) -> str:
    """A line of text as a path, so that it looks the same where the font is missing."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), line, size=TITLE_SIZE, prop=FontProperties(family="DejaVu Sans"))
    letters = " ".join(
        _LETTERS[int(code)] + " ".join(f"{value:.2f}" for value in ([] if code == 79 else points))
        for points, code in path.iter_segments()
    )
    start = middle - float(path.get_extents().width) / 2.0
    return f'<path transform="translate({start:.2f} {base:.2f}) scale(1 -1)" d="{letters}"/>'


def _drawn_sheet(panels: Sequence[Panel], columns: int) -> Figure:
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = max(panel.width for panel in panels)
    height = max(panel.height for panel in panels) + 0.3
    figure = new_figure(width * columns, height * rows)
    parts = figure.subfigures(rows, columns, squeeze=False).ravel()
    for part, panel in zip(parts, panels, strict=False):
        if panel.title:
            part.suptitle(wrap(panel.title, int(width * 13)), fontsize=TITLE_SIZE)
        panel.draw(part)
    return figure


def legend_panel(styles: Mapping[str, Line]) -> Panel:
    """The names of the lines, as one more panel of a sheet."""

    def draw(figure: FigureBase) -> None:
        from matplotlib.lines import Line2D

        handles = [
            Line2D([], [], color=style.color, linestyle=style.linestyle, label=name) for name, style in styles.items()
        ]
        figure.legend(handles=handles, loc="center")

    return Panel("", f"Legend: {', '.join(styles)}.", draw, width=2.85, height=2.75)
