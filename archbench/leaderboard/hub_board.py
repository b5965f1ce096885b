"""The board of the hub: models by task and popularity, with recommendations, as HTML, JSON and Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from archbench.leaderboard.board_page import BoardPage, BoardSection, markdown_table, markdown_text
from archbench.leaderboard.hub_cache import Answer, age_words
from archbench.leaderboard.hub_models import Wanted, chosen, recommended, sort_models
from archbench.leaderboard.hub_query import Question
from archbench.report.cells import Cell, Column, Table, number_cell, undefined_cell

ASKED_FOR = "asked for by name"
UNSTATED = "not stated"
FILTERS = ("Task", "Licence", "Library")
CAVEAT = (
    "Downloads and likes say what is popular, not what is good on your data: put candidates into a study and compare."
)
COLUMNS = (
    Column("Model", numeric=False),
    Column("Downloads", "In the last 30 days, as the hub counts them."),
    Column("Likes"),
    Column("Licence", "As its card states it; read it before use.", numeric=False),
    Column("Size, MiB", "One set of weights, from its files or its parameters by type."),
    Column("Parameters, M"),
    Column("Library", numeric=False),
    Column("Changed", "Day of the last change.", numeric=False),
)


@dataclass(frozen=True)
class TaskBoard:
    """Models of one task, in order, the recommended ones among them and what was left out."""

    task: str
    models: list[dict[str, Any]]
    recommended: list[dict[str, Any]]
    notes: list[str]


@dataclass(frozen=True)
class HubBoard:
    """What the hub was asked and what came of it.

    Attributes:
        asked: When the oldest answer was given, and how old it is.
    """

    endpoint: str
    tasks: list[TaskBoard]
    questions: list[Question]
    asked: str
    min_downloads: int
    notes: list[str]


def questions_of(
    *,
    tasks: Sequence[str],
    tags: Sequence[str],
    searches: Sequence[str],
    authors: Sequence[str],
    models: Sequence[str],
    sort: str,
    limit: int,
) -> list[Question]:
    """Return what to ask: each tag, each search and each author within each task, then models by name."""
    common = Question(sort="downloads" if sort == "size" else sort, limit=limit)
    asked = []
    for task in tasks:
        asked += [replace(common, task=task, tag=tag) for tag in tags]
        asked += [replace(common, task=task, search=search) for search in searches]
        asked += [replace(common, task=task, author=author) for author in authors]
        if not (tags or searches or authors):
            asked.append(replace(common, task=task))
    return asked + [Question(model=name) for name in models]


def build_board(
    answers: Mapping[Question, Answer],
    *,
    endpoint: str,
    wanted: Wanted,
    sort: str,
    min_downloads: int,
    recommendations: int,
) -> HubBoard:
    """Return the board of all answers: each task's models once, sorted, with recommendations."""
    tasks = []
    for task in dict.fromkeys(question.task or ASKED_FOR for question in answers):
        found = [
            model
            for question, answer in answers.items()
            if (question.task or ASKED_FOR) == task
            for model in answer.models
        ]
        shown, left_out = chosen(found, wanted)
        best, refused = recommended(shown, min_downloads=min_downloads, count=recommendations)
        notes = [f"{n} left out: {reason}." for reason, n in left_out.items()]
        notes += [f"{n} popular enough but not recommended: {reason}." for reason, n in refused.items()]
        tasks.append(TaskBoard(task, sort_models(shown, sort), best, notes))
    oldest = min(answers.values(), key=lambda answer: answer.fetched_at)
    kept = sum(answer.from_cache for answer in answers.values())
    return HubBoard(
        endpoint=endpoint,
        tasks=tasks,
        questions=list(answers),
        asked=oldest.fetched_at.isoformat(timespec="minutes"),
        min_downloads=min_downloads,
        notes=[f"{kept} of {len(answers)} answers were kept from before; the oldest is {age_words(oldest)}."]
        if kept
        else [],
    )


def headline(board: TaskBoard, min_downloads: int) -> str:
    """The recommendations of a task in one sentence."""
    if not board.models:
        return "The hub has no model that matches."
    if not board.recommended:
        return f"None is recommended: no usable model has {min_downloads:,} downloads in 30 days."
    names = [f"{model['id']} ({model['downloads']:,} downloads, {model['licence']})" for model in board.recommended]
    return f"Most downloaded with a stated licence, which is to be read: {', '.join(names)}."


def snippet(board: HubBoard) -> str:
    """The recommended models as entries of a study file; those of transformers only."""
    names = {
        model["id"]: re.sub(r"[^A-Za-z0-9]+", "_", model["id"].rpartition("/")[2]).strip("_").lower()[:60] or "model"
        for task in board.tasks
        for model in task.recommended
        if model["library"] == "transformers" and (model["task"] or "").startswith("image-")
    }
    lines = [f"  {name}: {{architecture: {json.dumps('hf:' + key)}, weights: hub}}" for key, name in names.items()]
    return "\n".join(["models:", *lines]) if lines else ""


def hub_page(board: HubBoard) -> BoardPage:
    """Return the page of a board."""
    return BoardPage(
        title="Models of the Hugging Face hub",
        product="archbench leaderboard",
        paragraphs=[CAVEAT],
        sections=[_section(k, task, board) for k, task in enumerate(board.tasks)],
        filters=FILTERS,
        notices=board.notes,
        snippet=snippet(board),
        absent="" if any(task.models for task in board.tasks) else "The hub has no model that matches any question.",
        footer=f"From {board.endpoint}, {board.asked}. Asked: " + "; ".join(map(str, board.questions)) + ".",
    )


def _section(k: int, task: TaskBoard, board: HubBoard) -> BoardSection:
    places = {model["id"]: n for n, model in enumerate(task.recommended, start=1)}
    return BoardSection(
        identifier=f"task-{k}",
        title=task.task,
        paragraphs=[headline(task, board.min_downloads)],
        notices=task.notes,
        table=Table(
            identifier=f"models-{k}",
            caption=f"{len(task.models)} models",
            columns=COLUMNS,
            rows=[_row(model, places.get(model["id"])) for model in task.models],
            sortable=True,
        ),
        facets=[(task.task, model["licence"] or UNSTATED, model["library"] or UNSTATED) for model in task.models],
        links=[f"{board.endpoint}/{quote(model['id'])}" for model in task.models],
    )


def _row(model: dict[str, Any], place: int | None) -> list[Cell]:
    notes = [f"recommended {place}" if place else "", "gated" if model["gated"] else "", ", ".join(model["tags"][:4])]
    size, parameters, changed = model["size_mib"], model["parameters"], model["changed"]
    millions = None if parameters is None else parameters / 1e6
    return [
        Cell(
            text=model["id"], sort=model["id"].lower(), sub="; ".join(filter(None, notes)), tone="good" if place else ""
        ),
        _count(model["downloads"]),
        _count(model["likes"]),
        _words(model["licence"], "licence"),
        number_cell(size, "" if size is None else f"{size:,.1f}", reason=f"size {UNSTATED}"),
        number_cell(millions, "" if millions is None else f"{millions:,.1f}", reason=f"parameters {UNSTATED}"),
        _words(model["library"], "library"),
        undefined_cell(f"day {UNSTATED}") if changed is None else Cell(text=changed[:10], sort=changed),
    ]


def _count(value: int | None) -> Cell:
    return number_cell(value, "" if value is None else f"{value:,}", reason=f"count {UNSTATED}")


def _words(text: str | None, what: str) -> Cell:
    return Cell(text=text, sort=text.lower()) if text else undefined_cell(f"{what} {UNSTATED}")


def hub_document(board: HubBoard) -> dict[str, Any]:
    """Return the board as plain values."""
    return {
        "endpoint": board.endpoint,
        "asked": board.asked,
        "questions": [question.plain() for question in board.questions],
        "notes": board.notes,
        "tasks": {
            task.task: {
                "models": task.models,
                "recommended": [model["id"] for model in task.recommended],
                "notes": task.notes,
            }
            for task in board.tasks
        },
        "snippet": snippet(board),
    }


def hub_markdown(board: HubBoard) -> str:
    """Return the board as Markdown."""
    parts = ["# Models of the Hugging Face hub", f"From {markdown_text(board.endpoint)}, {board.asked}. {CAVEAT}"]
    parts += [markdown_text(note) for note in board.notes]
    for task in board.tasks:
        parts += [f"## {markdown_text(task.task)}", markdown_text(headline(task, board.min_downloads))]
        parts += [markdown_text(note) for note in task.notes]
        if task.models:
            rows = [[cell.text for cell in _row(model, None)] for model in task.models]
            parts.append(markdown_table([column.title for column in COLUMNS], rows))
    return "\n\n".join(parts) + "\n"
