"""Panels: small pictures that the page shows one by one and a file shows side by side.

A panel draws itself into a matplotlib figure or subfigure. Letters are drawn as paths, so that
a picture looks the same wherever it is opened, and each is embedded as an image of its own, so
that identifiers of two pictures never clash.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

# Okabe and Ito, "Color Universal Design", 2008; their yellow is left out: too pale on white.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GRID_COLOR = "#d9d9d9"

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.constrained_layout.w_pad": 0.09,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "archbench",
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class Line:
    """How one model is drawn in every figure: colour, dash pattern and marker."""

    color: str
    dash: tuple[float, ...]
    marker: str

    @property
    def linestyle(self) -> Any:
        """The dash pattern as matplotlib takes it."""
        return (0, self.dash) if self.dash else "-"


def line_styles(names: Sequence[str]) -> dict[str, Line]:
    """One distinct look per name: seven colours, then the same ones dashed, then dotted."""
    styles = {}
    for k, name in enumerate(names):
        dash = DASHES[(k // len(OKABE_ITO)) % len(DASHES)]
        styles[name] = Line(OKABE_ITO[k % len(OKABE_ITO)], dash, MARKERS[k % len(MARKERS)])
    return styles


@dataclass(frozen=True)
class Panel:
    """A picture to be drawn.

    Attributes:
        title: Heading; the page sets it as text, a sheet draws it.
        alt: What the picture shows, for a reader who can't see it.
        draw: Draws into a figure or subfigure.
        width: Inches.
        height: Inches.
    """

    title: str
    alt: str
    draw: Callable[[FigureBase], None]
    width: float = 3.4
    height: float = 3.1


@dataclass(frozen=True)
class Picture:
    """An embedded picture: a data URI, its alternative text, its heading and its width in pixels."""

    uri: str
    alt: str
    title: str = ""
    width: int = 0
    height: int = 0


def render(panel: Panel) -> Picture:
    """Draw a panel as SVG and return it as an embeddable picture."""
    with _styled():
        buffer = io.BytesIO()
        _draw(panel).savefig(buffer, format="svg", metadata={"Date": None, "Creator": "archbench"})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    uri = f"data:image/svg+xml;base64,{encoded}"
    return Picture(uri, panel.alt, panel.title, round(panel.width * 96), round(panel.height * 96))


def render_all(panels: Sequence[Panel]) -> list[Picture]:
    """Draw each panel as an embeddable picture."""
    return [render(panel) for panel in panels]


def write_sheet(panels: Sequence[Panel], paths: Sequence[Path], *, columns: int = 3) -> None:
    """Write the panels side by side into one file per path; the suffix chooses the format."""
    with _styled():
        figure = _sheet(panels, columns) if panels else _empty_sheet()
        for path in paths:
            metadata = {"Date": None} if path.suffix in (".svg", ".pdf") else None
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=path.suffix.lstrip("."), metadata=metadata)
            figure.set_layout_engine("none")  # laid out once: a second format need not be


def _styled() -> Any:
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(width, height), layout="constrained")
    return figure


def _draw(panel: Panel) -> Figure:
    figure = _new_figure(panel.width, panel.height)
    panel.draw(figure)
    return figure


def _sheet(panels: Sequence[Panel], columns: int) -> Figure:
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = max(panel.width for panel in panels)
    height = max(panel.height for panel in panels) + 0.3
    figure = _new_figure(width * columns, height * rows)
    parts = figure.subfigures(rows, columns, squeeze=False).ravel()
    for part, panel in zip(parts, panels, strict=False):
        if panel.title:
            part.suptitle(wrap(panel.title, int(width * 13)), fontsize=9.5)
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


def _empty_sheet() -> Figure:
    figure = _new_figure(3.4, 1.2)
    figure.text(0.5, 0.5, "nothing to show: see the report page", ha="center", va="center")
    return figure


def wrap(text: str, width: int) -> str:
    """Text broken into lines of at most `width` letters; a long word is broken after _, - or /."""
    import textwrap

    lines: list[str] = []
    for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=True) or [""]:
        lines += _break_word(line, width)
    return "\n".join(lines)


def _break_word(line: str, width: int) -> list[str]:
    pieces = []
    while len(line) > width:
        cut = max(line.rfind(mark, 1, width) for mark in "_-/. ") + 1
        cut = cut if cut > 1 else width
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]
