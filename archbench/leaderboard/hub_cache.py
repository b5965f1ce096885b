"""Answers of the hub, kept for a day: read before anything is asked, and all there is when offline."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from archbench.artifacts import ArtifactError, read_json, write_json
from archbench.leaderboard.hub_query import HubUnavailableError, Question

FORM = 1  # of the files; another one is asked for again


@dataclass(frozen=True)
class Answer:
    """What the hub said.

    Attributes:
        fetched_at: When, UTC.
        from_cache: Whether it was read from the cache.
    """

    models: list[dict[str, Any]]
    fetched_at: datetime
    from_cache: bool


class AnswerCache:
    """Answers as JSON files, one a question and endpoint."""

    def __init__(self, folder: str | Path, endpoint: str, *, hours: float) -> None:
        self._folder = Path(folder)
        self._endpoint = endpoint
        self._lifetime = timedelta(hours=hours)

    def path(self, question: Question) -> Path:
        """Return where the answer to a question is kept."""
        text = json.dumps([self._endpoint, question.plain()], sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def read(self, question: Question) -> Answer | None:
        """Return the kept answer, however old; None without one, damaged ones named on stderr."""
        path = self.path(question)
        if not path.is_file():
            return None
        try:
            content = read_json(path)
            if content["form"] != FORM:
                return None
            fetched_at = datetime.fromisoformat(content["fetched_at"])
            return Answer([dict(model) for model in content["models"]], fetched_at, from_cache=True)
        except (ArtifactError, KeyError, TypeError, ValueError) as error:
            print(f"{path} is damaged and not used ({error})", file=sys.stderr)
            return None

    def write(self, question: Question, models: list[dict[str, Any]], fetched_at: datetime) -> None:
        """Keep an answer."""
        told = {"form": FORM, "endpoint": self._endpoint, "question": question.plain()}
        write_json(self.path(question), {**told, "fetched_at": fetched_at.isoformat(), "models": models})

    def is_fresh(self, answer: Answer) -> bool:
        """Whether an answer is younger than the time to live; one from the future isn't trusted."""
        age = datetime.now(UTC) - answer.fetched_at
        return timedelta(0) <= age < self._lifetime


def answer_to(
    question: Question,
    cache: AnswerCache,
    ask: Callable[[Question], list[dict[str, Any]]],
    *,
    offline: bool = False,
    refresh: bool = False,
) -> Answer:
    """Return a kept answer that is fresh, or what the hub says now.

    Args:
        ask: Asks the hub; never called offline.
        offline: Take what is kept, however old.
        refresh: Ask although the kept answer is fresh.
    Raises:
        HubUnavailableError: If there is neither; never an empty answer instead.
    """
    kept = cache.read(question)
    if offline:
        if kept is None:
            raise HubUnavailableError(
                f"offline, and no answer is kept for {question}: ask once with a network (it is kept in"
                f" {cache.path(question)})"
            )
        return kept
    if kept is not None and cache.is_fresh(kept) and not refresh:
        return kept
    print(f"asking the hub for {question}", file=sys.stderr)
    try:
        models = ask(question)
    except HubUnavailableError as error:
        if kept is None:
            raise
        raise HubUnavailableError(f"{error} (an answer {age_words(kept)} is kept: --offline shows it)") from error
    fetched_at = datetime.now(UTC)
    cache.write(question, models, fetched_at)
    return Answer(models, fetched_at, from_cache=False)


def age_words(answer: Answer) -> str:
    """Return how old an answer is, in words."""
    hours = (datetime.now(UTC) - answer.fetched_at).total_seconds() / 3600
    return f"{hours / 24:.0f} days old" if hours >= 48 else f"{max(hours, 0):.1f} hours old"
