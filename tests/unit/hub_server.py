"""A server on this machine that speaks the hub's API: listings with pages, single models, and every kind of trouble."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

PAGE = 3


def model(name: str, *, downloads: int = 5000, likes: int = 7, **changes: Any) -> dict[str, Any]:
    """An entry as the hub's API sends it."""
    return {
        "_id": "0",
        "id": name,
        "author": name.partition("/")[0],
        "downloads": downloads,
        "likes": likes,
        "pipeline_tag": "image-classification",
        "library_name": "transformers",
        "tags": ["transformers", "medical", "license:apache-2.0"],
        "cardData": {"license": "apache-2.0"},
        "lastModified": "2026-05-01T10:00:00.000Z",
        "createdAt": "2025-05-01T10:00:00.000Z",
        "gated": False,
        "disabled": False,
        "safetensors": {"parameters": {"F32": 1048576}, "total": 1048576},
        **changes,
    }


class Hub:
    """What the server knows, what it was asked, and how it misbehaves.

    Attributes:
        trouble: Answers to give first, in order: a status with headers, "hang", "garbage", "html", "object".
    """

    def __init__(self, models: list[dict[str, Any]]) -> None:
        self.models = models
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.trouble: list[Any] = []
        self.endpoint = ""

    def matching(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        found = self.models
        for tag in query.get("filter", []):
            found = [entry for entry in found if tag in entry["tags"]]
        for task in query.get("pipeline_tag", []):
            found = [entry for entry in found if entry.get("pipeline_tag") == task]
        for word in query.get("search", []):
            found = [entry for entry in found if word.lower() in entry["id"].lower()]
        for author in query.get("author", []):
            found = [entry for entry in found if entry.get("author") == author]
        key = query.get("sort", ["downloads"])[0]
        return sorted(found, key=lambda entry: str(entry.get(key) or 0).rjust(30), reverse=True)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        if not address.path.startswith("/api/models"):  # the client asks for more by itself
            self._send(404, "{}")
            return
        self.hub.asked.append((address.path, dict(query)))
        if self.hub.trouble and self._misbehave(self.hub.trouble.pop(0)):
            return
        name = address.path.removeprefix("/api/models").strip("/")
        if name:
            self._one(name)
        else:
            self._listing(query)

    def _one(self, name: str) -> None:
        found = [entry for entry in self.hub.models if entry["id"] == name]
        if found:
            self._send(200, json.dumps(found[0]))
        else:
            self._send(404, json.dumps({"error": "Repository not found"}), {"X-Error-Code": "RepoNotFound"})

    def _listing(self, query: dict[str, list[str]]) -> None:
        found, start = self.hub.matching(query), int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(found):
            query["cursor"] = [str(start + PAGE)]
            address = f"{self.hub.endpoint}/api/models?{urlencode(query, doseq=True)}"
            headers["Link"] = f'<{address}>; rel="next"'
        self._send(200, json.dumps(found[start : start + PAGE]), headers)

    def _misbehave(self, how: Any) -> bool:
        if isinstance(how, tuple):
            self._send(how[0], json.dumps({"error": "no"}), how[1])
        elif how == "hang":
            time.sleep(3)
            self.close_connection = True
        elif how == "garbage":
            self._send(200, '[{"id": "half')
        elif how == "html":
            self._send(200, "<html><body>Please log in to the guest network</body></html>")
        elif how == "object":
            self._send(200, json.dumps({"error": "not a list"}))
        return how != "fine"

    def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(models: list[dict[str, Any]]) -> Iterator[Hub]:
    """Serve models on a free port until the block ends."""
    hub = Hub(models)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
