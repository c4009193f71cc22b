"""A stand-in for the controller's HTTP API, on loopback: answers what a test told it to, remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TOKEN = "a-token"


@dataclass
class FakeControl:
    """`answers` maps `GET /v1/status` to a JSON value, a text, raw bytes, or (status, JSON value)."""

    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body for one request."""
        route = f"{method} {urlsplit(target).path}"
        self.asked.append((f"{method} {target}", json.loads(body) if body else None))
        if route not in self.answers:
            return 404, "application/json", b"{}"
        found = self.answers[route]
        status, value = found if isinstance(found, tuple) else (200, found)
        if isinstance(value, bytes):
            return status, "text/event-stream", value
        if isinstance(value, str):
            return status, "text/plain", value.encode()
        return status, "application/json", json.dumps(value).encode()


@contextmanager
def control_server(state: Path, **answers: Any) -> Iterator[FakeControl]:
    """A running fake whose address and token stand in `state`/control.json."""
    fake = FakeControl()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve("GET")

        def do_POST(self) -> None:
            self._serve("POST")

        def _serve(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            allowed = self.headers.get("authorization") == f"Bearer {TOKEN}"
            chat = self.path.endswith("/chat/completions")
            status, kind, answer = (
                fake.answer(method, self.path, body)
                if allowed or chat
                else (401, "application/json", b'{"code": "control.unauthorized", "message": "no"}')
            )
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    fake.answers.update(answers)
    state.mkdir(parents=True, exist_ok=True)
    (state / "control.json").write_text(json.dumps({"url": fake.url, "token": TOKEN}))
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
