"""Clients of a real endpoint: each request on a connection of its own, every stream judged by how it ended."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

TIMEOUT_S = 60.0
DONE, ERROR_FRAME, BARE_EOF = "done", "error frame", "bare EOF"


def chat_body(text: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "smollm2", "messages": [{"role": "user", "content": text}], **fields}


@dataclass(slots=True)
class Answer:
    """How one request ended.

    Attributes:
        outcome: `done`, `error frame`, `bare EOF`, a status code, or the name of a transport error.
        streaming: True once the first event of the stream was there.
        took_s: from the connection to the end.
    """

    outcome: str = ""
    streaming: bool = False
    text: str = ""
    detail: str = ""
    took_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def replica(self) -> str:
        return self.headers.get("x-shardyard-replica", "")


def ask(endpoint: str, body: dict[str, Any], first: threading.Event | None = None) -> Answer:
    """One request; `first` is set when its first text has come."""
    answer = Answer()
    began = time.monotonic()
    try:
        with (
            httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http,
            http.stream("POST", f"{endpoint}/chat/completions", json=body) as response,
        ):
            answer.headers = dict(response.headers)
            if response.status_code != 200:
                answer.outcome = str(response.status_code)
                answer.detail = response.read().decode()
            elif body.get("stream"):
                answer.outcome = BARE_EOF
                _follow(response.iter_lines(), answer, first)
            else:
                answer.text = json.loads(response.read())["choices"][0]["message"]["content"]
                answer.outcome = DONE
    except httpx.TransportError as error:
        answer.outcome, answer.detail = type(error).__name__, str(error)
    answer.took_s = time.monotonic() - began
    return answer


def _follow(lines: Iterator[str], answer: Answer, first: threading.Event | None) -> None:
    for line in lines:
        if not line.startswith("data: "):
            continue
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            answer.outcome = DONE
            return
        event = json.loads(data)
        if "error" in event:
            answer.outcome, answer.detail = ERROR_FRAME, json.dumps(event["error"])
            return
        answer.streaming = True
        answer.text += "".join(c["delta"].get("content") or "" for c in event["choices"])
        if first is not None and answer.text:
            first.set()


class Load:
    """Clients that ask again and again, whole and streamed in turn, until they are stopped."""

    def __init__(self, endpoint: str, clients: int, **fields: Any) -> None:
        self._endpoint = endpoint
        self._fields = fields
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(clients)
        self._running = [self._pool.submit(self._ask, n) for n in range(clients)]
        self.answers: list[Answer] = []

    def _ask(self, client: int) -> None:
        turn = client
        while not self._stopped.is_set():
            turn += 1
            body = chat_body(f"question {turn}", stream=bool(turn % 2), **self._fields)
            answer = ask(self._endpoint, body)
            with self._lock:
                self.answers.append(answer)

    def count(self) -> int:
        with self._lock:
            return len(self.answers)

    def slowest_s(self) -> float:
        with self._lock:
            return max((answer.took_s for answer in self.answers), default=0.0)

    def stop(self) -> Counter[str]:
        """Waits for what is under way; how often each outcome came."""
        self._stopped.set()
        self._pool.shutdown()
        for running in self._running:
            running.result()
        return Counter(answer.outcome for answer in self.answers)


@contextmanager
def load(endpoint: str, clients: int, **fields: Any) -> Iterator[Load]:
    running = Load(endpoint, clients, **fields)
    try:
        yield running
    finally:
        running.stop()
