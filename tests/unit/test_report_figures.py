"""Figures that several processes draw."""

import os
import sys
from functools import partial

import pytest

from archbench.report import figures
from archbench.report.beside import beside
from archbench.report.figures import Panel, draw_ahead, drawn_svg


def draw_line(figure, *, height, drawn_by):
    axes = figure.subplots()
    axes.plot([0, 1], [0, height])
    drawn_by.append(os.getpid())


def panels(drawn_by):
    return [
        Panel(f"line {k}", "A line.", partial(draw_line, height=k, drawn_by=drawn_by), width=2.0 + 0.1 * k)
        for k in range(4)
    ]


def test_several_processes_draw_what_one_draws(monkeypatch):
    monkeypatch.setattr(figures, "_SVGS", {})
    mine, theirs = [], []
    alone, shared = panels(mine), panels(theirs)
    expected = [drawn_svg(panel) for panel in alone]
    draw_ahead(shared, processes=2)
    assert [drawn_svg(panel) for panel in shared] == expected
    drawn_here = 2 if sys.platform.startswith("linux") else 4
    assert (len(mine), len(theirs)) == (4, drawn_here), "the other half was drawn elsewhere and not drawn again"


def test_what_another_process_can_not_draw_fails_here_with_its_error(monkeypatch):
    def broken(figure):
        raise ValueError("no such curve")

    monkeypatch.setattr(figures, "_SVGS", {})
    small = Panel("broken", "Nothing.", broken, width=1.0, height=1.0)
    with pytest.raises(ValueError, match="no such curve"):
        draw_ahead([*panels([])[:1], small], processes=2)


def test_a_second_process_sends_back_what_it_found():
    mine = os.getpid()
    assert beside(os.getpid, processes=1)() == mine
    if sys.platform.startswith("linux"):
        assert beside(os.getpid, processes=2)() != mine
