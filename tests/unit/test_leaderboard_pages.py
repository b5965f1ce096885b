"""The boards in a real browser: sorting, filters, keyboard, phone width, and text that stays text."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from board_fixtures import write_results
from chromium import Chromium, find_browser
from hub_server import model as hub_entry

from archbench.leaderboard.board_page import markdown_table, render_board, terminal_text
from archbench.leaderboard.hub_board import build_board, hub_page
from archbench.leaderboard.hub_cache import Answer
from archbench.leaderboard.hub_models import Wanted, plain_model
from archbench.leaderboard.hub_query import Question
from archbench.leaderboard.ranking import PairTesting, rank_runs
from archbench.leaderboard.run_board import run_page
from archbench.leaderboard.study_runs import runs_of

needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium here (apt-get install chromium)")

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
NAMES = (
    "Array.from(document.querySelectorAll('{} tbody tr')).filter(r => !r.hidden && r.offsetParent)"
    ".map(r => r.cells[0].querySelector('.value').textContent)"
)
CHOOSE = """(() => {{
    const select = document.querySelector('select[data-facet="{}"]');
    select.value = '={}';
    select.dispatchEvent(new Event('input', {{bubbles: true}}));
}})()"""
SHOWN = "new Promise(done => setTimeout(() => done(document.getElementById('shown').textContent), 50))"
FOCUSED = "document.activeElement.id || document.activeElement.textContent || document.activeElement.tagName"


def names(page: Chromium, table: str = "#runs-1") -> list[str]:
    found: list[str] = page.value(NAMES.format(table))
    return found


def focused(page: Chromium) -> str:
    return str(page.value(FOCUSED))


@pytest.fixture(scope="module")
def run_board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("board")
    latency = {"good": 9.0, "fair": 10.0, "poor": 2.0}
    skills = {"good": 3.0, "fair": 1.0, "poor": 0.4, "untimed": 0.2}
    found = runs_of(write_results(root, skills, study="first", latency_ms=latency)).runs
    others = runs_of(write_results(root, {"chest_net": 1.0}, study="second", dataset="chest")).runs
    odd = replace(others[0], id="x", model=EVIL, study=EVIL, site=EVIL)
    page = root / "runs.html"
    page.write_text(render_board(run_page(rank_runs([*found, *others, odd], PairTesting(300)), database="d")))
    return page


@pytest.fixture(scope="module")
def hub_board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from huggingface_hub import ModelInfo

    entries = [
        hub_entry("org/<b>bold</b>", downloads=20000, likes=3, tags=["medical", EVIL], cardData={"license": EVIL}),
        hub_entry("org/plain", downloads=100000, likes=30),
        hub_entry("org/a-name-that-is-longer-than-any-phone-is-wide-" + "x" * 60, downloads=9, library_name="timm"),
    ]
    models = [plain_model(ModelInfo(**entry)) for entry in entries]
    question = Question(task="image-classification", tag="medical")
    answers = {question: Answer(models, datetime.now(UTC), from_cache=False)}
    board = build_board(
        answers, endpoint="https://hub", wanted=Wanted(), sort="downloads", min_downloads=1000, recommendations=5
    )
    page = tmp_path_factory.mktemp("hub") / "hub.html"
    page.write_text(render_board(hub_page(board)))
    return page


@needs_browser
def test_headings_sort_both_ways_and_unknown_values_stay_last(run_board: Path) -> None:
    with Chromium(run_board) as page:
        assert names(page) == ["good", "fair", "poor", "untimed"], "by quality at first"
        latency = "document.querySelectorAll('#runs-1 thead th')[4].querySelector('button')"
        page.value(f"{latency}.click()")
        assert names(page) == ["fair", "good", "poor", "untimed"], "10 is more than 9: numbers, not text"
        page.value(f"{latency}.click()")
        assert names(page) == ["poor", "good", "fair", "untimed"]
        assert page.value("document.querySelectorAll('#runs-1 thead th')[4].getAttribute('aria-sort')") == "ascending"
        page.value("document.querySelectorAll('#runs-1 thead th')[0].querySelector('button').click()")
        assert names(page) == ["fair", "good", "poor", "untimed"]


@needs_browser
def test_words_and_choices_filter_rows_and_hide_empty_tables(run_board: Path) -> None:
    with Chromium(run_board) as page:
        assert page.value(SHOWN) == "6 of 6 shown"
        page.value("document.getElementById('find').focus()")
        page.type("FIRST good")
        assert names(page) == ["good"]
        assert page.value(SHOWN) == "1 of 6 shown"
        hidden = "Array.from(document.querySelectorAll('main section')).map(s => s.hidden)"
        assert sorted(page.value(hidden)) == [False, True]
        page.value("document.querySelector('form.filters button[type=reset]').click()")
        assert page.value(SHOWN) == "6 of 6 shown"
        page.value(CHOOSE.format(0, "chest"))
        assert page.value(SHOWN) == "2 of 6 shown"
        page.value(CHOOSE.format(2, "this database"))
        assert page.value(SHOWN) == "1 of 6 shown"


@needs_browser
def test_everything_is_reached_and_used_by_keyboard(run_board: Path) -> None:
    with Chromium(run_board) as page:
        page.press("Tab")
        assert focused(page) == "To the tables"
        page.press("Tab")
        assert focused(page) == "find"
        page.type("first")
        seen = []
        for _ in range(30):
            page.press("Tab")
            seen.append(focused(page))
            if seen[-1] == "Latency, ms" and len(seen) > 4:
                break
        assert "Model" in seen
        assert any("Show all" in text for text in seen)
        outline = page.value("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", "where the focus is can be seen"
        page.press("Enter", "\r")
        assert page.value("document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"
        page.press(" ", " ")
        assert page.value("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"


@needs_browser
@pytest.mark.parametrize("which", ["run_board", "hub_board"])
@pytest.mark.parametrize("width", [360, 500, 1280])
def test_the_page_is_as_wide_as_the_screen(which: str, width: int, request: pytest.FixtureRequest) -> None:
    """Only tables scroll sideways, inside their frames; nothing of the controls is cut off."""
    with Chromium(request.getfixturevalue(which), width=width) as page:
        assert page.value("document.documentElement.scrollWidth") <= width
        cut = (
            "Array.from(document.querySelectorAll('h1, h2, p, label, select, input, .filters button'))"
            ".filter(e => e.offsetParent && !e.closest('.skip')).map(e => e.getBoundingClientRect())"
            f".filter(r => r.left < -1 || r.right > {width} + 1).length"
        )
        assert page.value(cut) == 0
        size = page.value("parseFloat(getComputedStyle(document.querySelector('tbody td')).fontSize)")
        assert size >= 12
        heights = page.value("Array.from(document.querySelectorAll('.filters select')).map(e => e.offsetHeight)")
        assert min(heights) >= 32, "large enough for a finger"


@needs_browser
@pytest.mark.parametrize("which", ["run_board", "hub_board"])
def test_nothing_of_the_data_runs_and_nothing_is_fetched(which: str, request: pytest.FixtureRequest) -> None:
    with Chromium(request.getfixturevalue(which)) as page:
        assert "owned" not in page.value("document.title")
        assert page.value("document.images.length") == 0
        assert page.value("document.querySelectorAll('b').length") == 0
        assert page.value("document.scripts.length") == 1
        assert "<script>" in page.value("document.body.textContent"), "shown as the text that it is"
        assert page.problems() == []


@needs_browser
def test_the_hubs_models_link_to_it_and_sort_by_number(hub_board: Path) -> None:
    with Chromium(hub_board) as page:
        assert names(page, "#models-0")[:2] == ["org/plain", "org/<b>bold</b>"]
        links = page.value("Array.from(document.querySelectorAll('tbody a')).map(a => a.getAttribute('href'))")
        assert links[:2] == ["https://hub/org/plain", "https://hub/org/%3Cb%3Ebold%3C/b%3E"]
        page.value("document.querySelectorAll('#models-0 thead th')[1].querySelector('button').click()")
        page.value("document.querySelectorAll('#models-0 thead th')[1].querySelector('button').click()")
        assert names(page, "#models-0")[1:] == ["org/<b>bold</b>", "org/plain"], "9, 20000, 100000"


def test_markdown_cells_make_no_columns_lines_or_markup() -> None:
    table = markdown_table(["a", "b"], [["x|y\nz", "**<b>[l](u)`"]])
    assert len(table.splitlines()) == 3
    assert terminal_text(r"a\_b \| c") == "a_b | c"
    assert "\x1b" not in markdown_table(["a"], [["red \x1b[31m"]]), "nothing that a terminal would obey"
    assert table.splitlines()[2] == r"| x\|y z | \*\*\<b\>\[l\](u)\` |"


def test_pages_are_small_and_whole(run_board: Path, hub_board: Path) -> None:
    for page in (run_board, hub_board):
        text = page.read_text()
        assert len(text) < 200_000
        assert "src=" not in text.replace("src=x", "")
        assert 'lang="en"' in text
