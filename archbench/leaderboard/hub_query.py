"""Questions to the Hugging Face hub, through its own client, with an end to its patience.

The client retries by itself and waits as long as the hub says; without a limit a listing that hangs would hang a
job, and a rate limit would stop it for minutes without a word.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from archbench.leaderboard.hub_models import plain_model

EXPANDED = (
    *("author", "cardData", "createdAt", "disabled", "downloads", "gated", "lastModified", "library_name"),
    *("likes", "pipeline_tag", "safetensors", "tags"),
)
CLIENT_LOGGER = "huggingface_hub.utils._http"
RETRIED = (429, 500, 502, 503, 504)  # by the client


class HubUnavailableError(RuntimeError):
    """The hub gave no usable answer; the message says what happened and what to do."""


@dataclass(frozen=True)
class Question:
    """One listing of the hub, or one model by its name.

    Attributes:
        limit: Models at most, in the order of `sort`, best first.
    """

    task: str | None = None
    tag: str | None = None
    search: str | None = None
    author: str | None = None
    sort: str = "downloads"
    limit: int = 50
    model: str | None = None

    def plain(self) -> dict[str, Any]:
        """What was asked, without what was left open."""
        if self.model:
            return {"model": self.model}
        return {key: value for key, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        return ", ".join(f"{key} {value}" for key, value in self.plain().items())


@dataclass(frozen=True)
class Patience:
    """How long the hub is waited for.

    Attributes:
        timeout_s: Seconds without a byte after which a request is given up.
        retries: Requests after the first.
        max_wait_s: Longest pause that a rate limit may ask for.
    """

    timeout_s: float = 20.0
    retries: int = 2
    max_wait_s: float = 60.0


class HubClient:
    """The hub's own client, which ends with a message instead of waiting for good; see `hub_client`."""

    def __init__(self, patience: Patience) -> None:
        from huggingface_hub import HfApi

        self.endpoint = hub_endpoint()
        self.warnings = _LastWarning()
        self._patience = patience
        self._attempts = 0
        self._api = HfApi(endpoint=self.endpoint, library_name="archbench")

    def ask(self, question: Question) -> list[dict[str, Any]]:
        """Return the models that answer a question, all pages of it, as plain values.

        Raises:
            HubUnavailableError: With the reason.
        """
        self._attempts = 0
        try:
            if question.model:
                return [plain_model(self._api.model_info(question.model, files_metadata=True))]
            found = self._api.list_models(
                filter=question.tag,
                pipeline_tag=question.task,
                search=question.search,
                author=question.author,
                sort=question.sort,  # type: ignore[arg-type]
                limit=question.limit,
                expand=list(EXPANDED),  # type: ignore[arg-type]
            )
            return [plain_model(model) for model in found]
        except HubUnavailableError:
            raise
        except Exception as error:  # the client raises many kinds; each means: no usable answer
            raise HubUnavailableError(f"{self.endpoint}, asked for {question}: {self._explained(error)}") from error

    def before(self, request: Any) -> None:
        """Limit a request's time, and refuse one attempt too many."""
        self._attempts += 1
        seconds = self._patience.timeout_s
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        if self._attempts > self._patience.retries + 1:
            raise HubUnavailableError(
                f"{self.endpoint} gave no answer in {self._attempts - 1} attempts of {seconds:g} s"
                f" (the last: {self.warnings.text}): check the network and HF_ENDPOINT, or use --offline"
            )

    def after(self, response: Any) -> None:
        """Refuse to wait longer, or more often, than patience allows."""
        if response.status_code not in RETRIED:
            self._attempts = 0
            return
        wait = wait_asked_for(response.headers)
        limited = response.status_code == 429
        if limited and wait is not None and wait > self._patience.max_wait_s:
            raise HubUnavailableError(
                f"{self.endpoint} limits the rate (429) and asks to wait {wait:g} s, more than the"
                f" {self._patience.max_wait_s:g} s of --max-wait: try again later, log in (hf auth login) for a higher"
                " limit, or use --offline"
            )
        if self._attempts > self._patience.retries:
            what = "limits the rate (429)" if limited else f"has an error of its own ({response.status_code})"
            raise HubUnavailableError(
                f"{self.endpoint} {what}, {self._attempts} times in a row: try again later, or use --offline"
            )

    def _explained(self, error: Exception) -> str:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 404 or (status == 401 and "Repository Not Found" in str(error)):
            return f"there is no such model, or it is private ({status})"
        if status is not None:
            return f"refused with {status}: {_short(error)}"
        if isinstance(error, ValueError | KeyError | TypeError | AttributeError):
            return (
                f"the answer is none of the hub's ({type(error).__name__}: {_short(error)}); does HF_ENDPOINT or a"
                " proxy lead elsewhere?"
            )
        return f"{type(error).__name__}: {_short(error)}"


@contextmanager
def hub_client(patience: Patience) -> Iterator[HubClient]:
    """Give a client whose requests are watched; afterwards the hub's client is as it was."""
    from huggingface_hub import set_client_factory

    kind, usual = _usual_client()
    client = HubClient(patience)
    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": [*usual["request"], client.before],
        "response": [*usual["response"], client.after],
    }
    logger = logging.getLogger(CLIENT_LOGGER)
    logger.addHandler(client.warnings)
    set_client_factory(lambda: kind(event_hooks=hooks, follow_redirects=True))
    try:
        yield client
    finally:
        set_client_factory(lambda: kind(event_hooks=usual, follow_redirects=True, timeout=None))
        logger.removeHandler(client.warnings)


@cache
def _usual_client() -> tuple[Any, dict[str, list[Callable[..., Any]]]]:
    """The class and the hooks of the HTTP client that the hub's client makes by itself."""
    from huggingface_hub import get_session

    session = get_session()
    return type(session), {name: list(hooks) for name, hooks in session.event_hooks.items()}


def hub_endpoint() -> str:
    """Return the hub's address: HF_ENDPOINT, or the public one."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or str(constants.ENDPOINT)).rstrip("/")


def wait_asked_for(headers: Any) -> float | None:
    """Return the seconds that a hub's answer asks to wait; None if it doesn't say."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    text = str(headers.get("retry-after", "")).strip()
    return float(text) if text.isdigit() else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class _LastWarning(logging.Handler):
    """Keeps what the client last warned of: the reason of an attempt that failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = "no reason known"

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "thrown while requesting" in message:
            self.text = message.split(" thrown while requesting", 1)[0].strip("'") or "no reason given"
