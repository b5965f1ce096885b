"""Panels: small pictures that the page shows one by one and a file shows side by side.

A panel draws itself into a matplotlib figure or subfigure. Letters are drawn as paths, so that
a picture looks the same wherever it is opened, and each is embedded as an image of its own, so
that identifiers of two pictures never clash.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from archbench.report.beside import beside

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
    """An embedded picture: a data URI, its alternative text, its heading and its size in pixels."""

    uri: str
    alt: str
    title: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Drawing:
    """A panel as an embedded picture like `Picture`, drawn once it is asked for."""

    panel: Panel

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        encoded = base64.b64encode(drawn_svg(self.panel).encode()).decode()
        return f"data:image/svg+xml;base64,{encoded}"

    @property
    def alt(self) -> str:
        """What the picture shows."""
        return self.panel.alt

    @property
    def title(self) -> str:
        """Its heading."""
        return self.panel.title

    @property
    def width(self) -> int:
        """Pixels."""
        return round(self.panel.width * 96)

    @property
    def height(self) -> int:
        """Pixels."""
        return round(self.panel.height * 96)


def render(panel: Panel) -> Drawing:
    """Return a panel as an embeddable picture."""
    return Drawing(panel)


def drawn_svg(panel: Panel) -> str:
    """Return a panel as SVG; page and files share what is drawn once."""
    key = _key(panel)
    if key not in _SVGS:
        _SVGS[key] = _svg(*key)
    return _SVGS[key]


_Key = tuple[Callable[["FigureBase"], None], float, float]
_SVGS: dict[_Key, str] = {}


def _key(panel: Panel) -> _Key:
    return panel.draw, panel.width, panel.height


def draw_ahead(panels: Iterable[Panel], *, processes: int) -> None:
    """Draw panels in several processes, so that `drawn_svg` has them."""
    keys = [key for key in dict.fromkeys(_key(panel) for panel in panels) if key not in _SVGS]
    keys.sort(key=lambda key: -key[1] * key[2])  # dealt out from the largest on, the shares take about as long
    new_figure(1.0, 1.0)  # what it imports is imported once
    mine, *others = (keys[k::processes] for k in range(processes))
    drawn = [beside(partial(_svgs, share), processes=processes) for share in others]
    _SVGS.update(zip(mine, _svgs(mine), strict=True))
    for share, svgs in zip(others, drawn, strict=True):
        _SVGS.update(zip(share, svgs(), strict=True))


def _svgs(keys: Sequence[_Key]) -> list[str]:
    return [_svg(*key) for key in keys]


def _svg(draw: Callable[[FigureBase], None], width: float, height: float) -> str:
    with styled():
        figure = new_figure(width, height)
        draw(figure)
        return _written(figure)


def _written(figure: Figure) -> str:
    """A figure as SVG, as `savefig` writes it; that draws everything twice, only to find the places."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    canvas, buffer = FigureCanvasSVG(figure), io.BytesIO()
    figure.set_dpi(canvas.fixed_dpi)  # letters are measured as they will be drawn
    engine = figure.get_layout_engine()
    if engine is not None and figure.axes:
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.set_dpi(_STYLE["savefig.dpi"])  # of the pixels in it
    canvas.print_svg(buffer, metadata={"Date": None, "Creator": "archbench"})
    return buffer.getvalue().decode()


def render_all(panels: Sequence[Panel]) -> list[Drawing]:
    """Return each panel as an embeddable picture."""
    return [render(panel) for panel in panels]


def styled() -> Any:
    """A context in which figures have the report's looks."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches."""
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(width, height), layout="constrained")
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
