"""The hub's board, with the hub's real client against a server that speaks its API."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from board_fixtures import script
from hub_server import Hub, model, serving

from archbench.artifacts import read_json, write_json
from archbench.command_line import run

ROOT = Path(__file__).resolve().parents[2]
leaderboard = script("leaderboard")
TASKS = ("--tasks", "image-classification", "--tags", "medical")


@pytest.fixture
def hub() -> Iterator[Hub]:
    models = [model(f"org/net-{k}", downloads=10000 - 100 * k, likes=k) for k in range(8)]
    with serving(models) as server:
        yield server


class Board:
    """The command, run in a folder of its own against the server."""

    def __init__(self, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.hub, self.folder = hub, folder
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {"HF_ENDPOINT": self.hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "", **environment}
        for name, value in settings.items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.chdir(self.folder)
        for handler in logging.getLogger("huggingface_hub").handlers:  # made with the stream of another test
            self._monkeypatch.setattr(handler, "stream", sys.stderr)
        with pytest.raises(SystemExit) as ended:
            run(lambda: leaderboard.main(["hub", *arguments]))
        out, err = self._capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(str(ended.value.code)), out, err)

    def document(self) -> dict[str, Any]:
        content: dict[str, Any] = read_json(self.folder / "results/leaderboard/hub.json")
        return content

    def names(self, task: str = "image-classification") -> list[str]:
        return [entry["id"] for entry in self.document()["tasks"][task]["models"]]


@pytest.fixture
def board(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Board:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    return Board(hub, tmp_path, monkeypatch, capsys)


def test_all_pages_are_read_and_three_files_written(hub: Hub, board: Board) -> None:
    done = board(*TASKS)
    assert done.returncode == 0, done.stderr
    assert board.names() == [f"org/net-{k}" for k in range(8)]
    assert len(hub.asked) == 3, "eight models, three a page"
    first = board.document()["tasks"]["image-classification"]["models"][0]
    assert first["size_mib"] == 4.0, "2^20 float32 parameters"
    assert (first["downloads"], first["likes"], first["licence"], first["library"]) == (
        *(10000, 0, "apache-2.0", "transformers"),
    )
    assert first["changed"].startswith("2026-05-01")
    page = (board.folder / "results/leaderboard/hub.html").read_text()
    assert "org/net-7" in page
    assert "| org/net-7 |" in (board.folder / "results/leaderboard/hub.md").read_text()


def test_the_cache_is_read_until_its_time_is_over(hub: Hub, board: Board) -> None:
    """A seed's tracker wrote its cache and never read it."""
    assert board(*TASKS).returncode == 0
    asked = len(hub.asked)
    again = board(*TASKS)
    assert again.returncode == 0, again.stderr
    assert len(hub.asked) == asked, "a fresh answer is not asked for again"
    assert "1 of 1 answers were kept from before" in again.stdout
    (kept,) = (board.folder / "results/cache/hub").glob("*.json")
    content = read_json(kept)
    old = datetime.now(UTC) - timedelta(hours=23)
    write_json(kept, {**content, "fetched_at": old.isoformat()})
    assert board(*TASKS).returncode == 0
    assert len(hub.asked) == asked
    write_json(kept, {**content, "fetched_at": (old - timedelta(hours=2)).isoformat()})
    assert board(*TASKS).returncode == 0
    assert len(hub.asked) == 2 * asked, "after 25 hours it is asked again"
    write_json(kept, {**content, "fetched_at": (datetime.now(UTC) + timedelta(days=9)).isoformat()})
    assert board(*TASKS).returncode == 0
    assert len(hub.asked) == 3 * asked, "an answer from the future isn't trusted"
    assert board(*TASKS, "--refresh").returncode == 0
    assert len(hub.asked) == 4 * asked
    write_json(kept, {**read_json(kept), "fetched_at": old.isoformat()})
    assert board(*TASKS, "--cache-hours", "2").returncode == 0
    assert len(hub.asked) == 5 * asked


def test_a_damaged_cache_is_named_and_asked_again(hub: Hub, board: Board) -> None:
    assert board(*TASKS).returncode == 0
    (kept,) = (board.folder / "results/cache/hub").glob("*.json")
    kept.write_text("{")
    asked = len(hub.asked)
    done = board(*TASKS)
    assert done.returncode == 0
    assert f"{kept.relative_to(board.folder)} is damaged and not used" in done.stderr
    assert len(hub.asked) > asked
    kept.write_text("{")
    offline = board(*TASKS, "--offline")
    assert offline.returncode == 1
    assert "is damaged" in offline.stderr


def test_offline_asks_nothing_and_takes_what_is_kept(hub: Hub, board: Board) -> None:
    nothing = board(*TASKS, "--offline")
    assert nothing.returncode == 1
    assert "offline, and no answer is kept for task image-classification, tag medical" in nothing.stderr
    assert hub.asked == []
    assert board(*TASKS).returncode == 0
    asked = len(hub.asked)
    (kept,) = (board.folder / "results/cache/hub").glob("*.json")
    write_json(kept, {**read_json(kept), "fetched_at": (datetime.now(UTC) - timedelta(days=30)).isoformat()})
    for arguments, environment in ((("--offline",), {}), ((), {"HF_HUB_OFFLINE": "1"})):
        done = board(*TASKS, *arguments, **environment)
        assert done.returncode == 0, done.stderr
        assert "the oldest is 30 days old" in done.stdout
        assert "30 days old" in (board.folder / "results/leaderboard/hub.html").read_text()
    assert len(hub.asked) == asked


def fails(board: Board, *expected: str, quick: tuple[str, ...] = ("--retries", "0")) -> None:
    """A failure is an exit code and a message; no file is written, and nothing is kept as an answer."""
    done = board(*TASKS, *quick)
    assert done.returncode == 1, done.stdout
    for text in expected:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not (board.folder / "results/leaderboard").exists()
    assert not list(board.folder.glob("results/cache/hub/*"))


def test_a_rate_limit_is_waited_for(hub: Hub, board: Board) -> None:
    hub.trouble = [(429, {"Retry-After": "1"})]
    start = time.monotonic()
    done = board(*TASKS)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start >= 1.0
    assert "Rate limited. Waiting" in done.stderr
    assert len(board.names()) == 8


def test_a_rate_limit_that_is_too_long_is_told(hub: Hub, board: Board) -> None:
    hub.trouble = [(429, {"Retry-After": "300"})]
    fails(board, "limits the rate (429) and asks to wait 300 s, more than the 60 s of --max-wait", quick=())
    assert len(hub.asked) == 1
    hub.trouble = [(429, {"ratelimit": '"api";r=0;t=120', "ratelimit-policy": '"fixed window";"api";q=500;w=300'})]
    fails(board, "asks to wait 120 s", quick=())


def test_a_rate_limit_that_never_ends_is_told(hub: Hub, board: Board) -> None:
    hub.trouble = [(429, {"Retry-After": "0"})] * 9
    fails(board, "limits the rate (429), 2 times in a row: try again later", quick=("--retries", "1"))


def test_errors_of_the_hub_are_retried_then_told(hub: Hub, board: Board) -> None:
    hub.trouble = [(500, {}), "fine"]
    assert board(*TASKS).returncode == 0
    (board.folder / "results").rename(board.folder / "before")
    hub.trouble = [(503, {})] * 9
    fails(board, "has an error of its own (503), 2 times in a row", quick=("--retries", "1"))


def test_an_error_on_a_later_page_fails_the_whole_answer(hub: Hub, board: Board) -> None:
    hub.trouble = ["fine", (500, {})]
    fails(board, "has an error of its own (500)")


def test_a_hub_that_hangs_is_given_up(hub: Hub, board: Board) -> None:
    hub.trouble = ["hang"] * 3
    start = time.monotonic()
    fails(board, "gave no answer in 1 attempts of 0.3 s", "timed out", quick=("--retries", "0", "--timeout", "0.3"))
    assert time.monotonic() - start < 60


def test_a_hub_that_isnt_there_is_told(board: Board) -> None:
    board.hub.endpoint = "http://127.0.0.1:9"
    fails(board, "http://127.0.0.1:9 gave no answer in 1 attempts", "check the network and HF_ENDPOINT")


@pytest.mark.parametrize("how", ["garbage", "html", "object"])
def test_garbage_is_told(hub: Hub, board: Board, how: str) -> None:
    hub.trouble = [how]
    fails(board, "the answer is none of the hub's", "does HF_ENDPOINT or a proxy lead elsewhere?")


@pytest.mark.parametrize("wrong", [{"downloads": "many"}, {"id": 7}, {"lastModified": "yesterday"}])
def test_entries_of_a_wrong_kind_are_told(hub: Hub, board: Board, wrong: dict[str, Any]) -> None:
    hub.models[0].update(wrong)
    hub.trouble = ["fine"]
    if "id" in wrong:
        hub.models = hub.models[:1]
    fails(board, "the answer is none of the hub's")


def test_a_failure_leaves_the_last_board_and_names_the_kept_answer(hub: Hub, board: Board) -> None:
    """A seed's tracker made an empty list of every failure."""
    assert board(*TASKS).returncode == 0
    before = (board.folder / "results/leaderboard/hub.json").read_bytes()
    hub.trouble = [(500, {})]
    done = board(*TASKS, "--refresh", "--retries", "0")
    assert done.returncode == 1
    assert "an answer 0.0 hours old is kept: --offline shows it" in done.stderr
    assert (board.folder / "results/leaderboard/hub.json").read_bytes() == before


def test_an_empty_answer_says_that_it_is_one(board: Board) -> None:
    done = board("--tasks", "image-classification", "--tags", "nothing-has-this")
    assert done.returncode == 0
    assert board.names() == []
    assert "The hub has no model that matches." in done.stdout
    assert "no model that matches any question" in (board.folder / "results/leaderboard/hub.html").read_text()


def test_one_model_by_name_with_its_files(hub: Hub, board: Board) -> None:
    files = [
        {"rfilename": "model.safetensors", "size": 3 * 2**20},
        {"rfilename": "pytorch_model.bin", "size": 9 * 2**20},
    ]
    hub.models.append(model("nvidia/mit-b0", siblings=files, pipeline_tag="image-segmentation"))
    done = board("--tasks", "--tags", "--models", "nvidia/mit-b0")
    assert done.returncode != 0, "a board needs a task"
    done = board(*TASKS, "--models", "nvidia/mit-b0")
    assert done.returncode == 0, done.stderr
    (found,) = board.document()["tasks"]["asked for by name"]["models"]
    assert (found["id"], found["size_mib"], found["task"]) == ("nvidia/mit-b0", 3.0, "image-segmentation")
    missing = board(*TASKS, "--models", "nvidia/mit-b9")
    assert missing.returncode == 1
    assert "asked for model nvidia/mit-b9: there is no such model, or it is private (404)" in missing.stderr


def listed(hub: Hub) -> list[dict[str, list[str]]]:
    return [query for path, query in hub.asked if "cursor" not in query]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("--tasks", "image-segmentation"), {"pipeline_tag": ["image-segmentation"]}),
        (("--tags", "radiology"), {"filter": ["radiology"]}),
        (("--searches", "chest x-ray"), {"search": ["chest x-ray"]}),
        (("--authors", "org"), {"author": ["org"]}),
        (("--sort", "likes"), {"sort": ["likes"]}),
        (("--sort", "last_modified"), {"sort": ["lastModified"]}),
        (("--limit", "4"), {"limit": ["4"]}),
    ],
)
def test_what_is_asked_for_reaches_the_hub(
    hub: Hub, board: Board, arguments: tuple[str, ...], asked: dict[str, list[str]]
) -> None:
    """A seed's tracker ignored most of its settings."""
    assert board(*TASKS, *arguments).returncode == 0
    assert any(asked.items() <= query.items() for query in listed(hub)), listed(hub)


def three_kinds(hub: Hub) -> None:
    hub.models = [
        model(
            "org/large", downloads=9000, likes=1, safetensors={"parameters": {"F32": 10 * 2**20}, "total": 10 * 2**20}
        ),
        model(
            "org/mit", downloads=8000, likes=50, cardData={"license": "mit"}, lastModified="2026-10-01T00:00:00.000Z"
        ),
        model("org/gated", downloads=7000, likes=9, gated="manual"),
        model(
            "org/unsaid", downloads=6000, likes=9, cardData={}, tags=["medical"], safetensors=None, lastModified=None
        ),
        model("org/rare", downloads=900, likes=9),
    ]


@pytest.mark.parametrize(
    ("arguments", "left", "note"),
    [
        (("--licences", "MIT"), ["org/mit"], "1 left out: no licence stated."),
        (("--min-likes", "10"), ["org/mit"], "4 left out: too few likes."),
        (("--max-size-mib", "10"), ["org/mit", "org/gated", "org/rare"], "1 left out: size not stated."),
        (("--changed-since", "2026-06-01"), ["org/mit"], "1 left out: day of the last change not stated."),
        (("--limit", "2"), ["org/large", "org/mit"], ""),
        (("--sort", "likes"), ["org/mit", "org/gated", "org/rare", "org/unsaid", "org/large"], ""),
        (("--sort", "size"), ["org/gated", "org/mit", "org/rare", "org/large", "org/unsaid"], ""),
    ],
)
def test_what_is_asked_for_decides_what_is_shown(
    hub: Hub, board: Board, arguments: tuple[str, ...], left: list[str], note: str
) -> None:
    three_kinds(hub)
    done = board(*TASKS, *arguments)
    assert done.returncode == 0, done.stderr
    assert board.names() == left
    assert note in board.document()["tasks"]["image-classification"]["notes"] or not note


def test_recommendations_are_popular_licensed_and_few(hub: Hub, board: Board) -> None:
    three_kinds(hub)
    assert board(*TASKS).returncode == 0
    found = board.document()["tasks"]["image-classification"]
    assert found["recommended"] == ["org/large", "org/mit"]
    assert "1 popular enough but not recommended: gated: access must be asked for." in found["notes"]
    assert "1 popular enough but not recommended: no licence stated." in found["notes"]
    assert 'large: {architecture: "hf:org/large", weights: hub}' in board.document()["snippet"]
    assert board(*TASKS, "--min-downloads", "100", "--recommendations", "3").returncode == 0
    assert board.document()["tasks"]["image-classification"]["recommended"] == ["org/large", "org/mit", "org/rare"]
    assert board(*TASKS, "--recommendations", "1").returncode == 0
    assert board.document()["tasks"]["image-classification"]["recommended"] == ["org/large"]
    none = board(*TASKS, "--min-downloads", "100000")
    assert "None is recommended" in none.stdout


def test_the_studys_own_settings_are_used(hub: Hub, board: Board) -> None:
    study = {
        "study": "mine",
        "datasets": {"d": {"format": "phantom", "classes": ["a", "b", "c", "d", "e"]}},
        "models": {"m": {"architecture": "custom1"}},
        "leaderboard": {
            "hub": {
                **{"tasks": ["image-segmentation"], "tags": ["pathology"], "searches": ["lung"], "licences": ["mit"]},
                **{"min_downloads": 5, "recommendations": 1, "limit": 7, "cache_hours": 0.0},
            }
        },
    }
    (board.folder / "study.json").write_text(json.dumps(study))
    hub.models = [
        model(f"org/lung-{k}", downloads=50 - k, pipeline_tag="image-segmentation", cardData={"license": licence})
        for k, licence in enumerate(["mit", "mit", "gpl"])
    ]
    assert board("--study", "study.json").returncode == 0
    asked = listed(hub)
    assert [query.get("filter", query.get("search")) for query in asked] == [["pathology"], ["lung"]]
    assert all(query["pipeline_tag"] == ["image-segmentation"] and query["limit"] == ["7"] for query in asked)
    found = board.document()["tasks"]["image-segmentation"]
    assert [entry["id"] for entry in found["models"]] == ["org/lung-0", "org/lung-1"]
    assert found["recommended"] == ["org/lung-0"]
    assert board("--study", "study.json").returncode == 0
    assert len(listed(hub)) == 4, "cache_hours: 0 keeps nothing"


def test_text_of_the_hub_stays_text(hub: Hub, board: Board) -> None:
    evil = "<script>alert(1)</script>"
    hub.models = [
        model(
            f"org/{evil}|x",
            library_name=f"{evil}`|",
            tags=["medical", f'"><img src=x onerror=alert(1)>{evil}'],
            cardData={"license": f"mit{evil}"},
        )
    ]
    assert board(*TASKS).returncode == 0
    page = (board.folder / "results/leaderboard/hub.html").read_text()
    assert evil not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    text = (board.folder / "results/leaderboard/hub.md").read_text()
    assert evil not in text
    row = next(line for line in text.splitlines() if line.startswith("| org/"))
    assert row.replace("\\|", "").count("|") == 9, "a bar in a name makes no column"


def test_as_a_command_with_the_endpoint_in_the_environment(hub: Hub, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "leaderboard.py"), "hub", *TASKS]
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    settings = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**clean, **settings})
    assert done.returncode == 0, done.stderr
    assert len(read_json(tmp_path / "results/leaderboard/hub.json")["tasks"]["image-classification"]["models"]) == 8
