"""A leaderboard as a page of its own: plain HTML that sorts and filters without a network, and Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from archbench.report.cells import Table

TEMPLATES = Path(__file__).parent / "templates"
REPORT_TEMPLATES = Path(__file__).parent.parent / "report" / "templates"


@dataclass(frozen=True)
class BoardSection:
    """One table with what stands around it.

    Attributes:
        paragraphs: Above the table; the first says the answer.
        notices: What speaks against it.
        links: Address of each row's heading, None without one.
        facets: What each row is filtered by, in the order of the page's filters.
    """

    identifier: str
    title: str
    paragraphs: Sequence[str]
    notices: Sequence[str]
    table: Table
    facets: Sequence[Sequence[str]]
    links: Sequence[str | None] = ()
    phantom: bool = False


@dataclass(frozen=True)
class BoardPage:
    """A page; `filters` are the names of the choices above the tables."""

    title: str
    product: str
    paragraphs: Sequence[str]
    sections: Sequence[BoardSection]
    filters: Sequence[str]
    notices: Sequence[str] = ()
    snippet: str = ""
    absent: str = ""
    footer: str = ""
    choices: list[list[str]] = field(init=False)

    def __post_init__(self) -> None:
        chosen = [
            sorted({row[k] for section in self.sections for row in section.facets}) for k in range(len(self.filters))
        ]
        object.__setattr__(self, "choices", chosen)


def render_board(page: BoardPage) -> str:
    """Return the page as HTML; every text is escaped by the template."""
    return str(_template().render(page=page, css=_asset("report.css", "board.css"), js=_asset("report.js", "board.js")))


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("board.html.j2")


def _asset(shared: str, own: str) -> Any:
    """The report's stylesheet or script and ours, marked as needing no escape; never text from data."""
    from markupsafe import Markup

    texts = [
        (folder / name).read_text(encoding="utf-8") for folder, name in ((REPORT_TEMPLATES, shared), (TEMPLATES, own))
    ]
    return Markup("\n".join(texts))


def markdown_text(text: str) -> str:
    """Return text that stays text in a Markdown table: no markup, no HTML, no line of its own."""
    flat = "".join(letter for letter in " ".join(str(text).split()) if letter.isprintable())
    return re.sub(r"([\\`*_{}\[\]<>|#~!])", r"\\\1", flat)


def terminal_text(markdown: str) -> str:
    """Return Markdown as a terminal shows it: without the backslashes that keep text from being markup."""
    return re.sub(r"\\(.)", r"\1", markdown)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of texts, escaped."""
    lines = [headings, ["---"] * len(headings)]
    escaped = [[markdown_text(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [*lines, *escaped])
