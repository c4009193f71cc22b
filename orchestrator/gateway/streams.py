"""Answers as OpenAI clients read them: server-sent events and whole documents.

Everything that stays the same within a stream is encoded once. It must not know where the text comes from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from actors.wire import End

from ..errors import RequestError
from .exchange import Answered
from .problems import document

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What all chunks of one answer repeat."""

    id: str
    created: int
    model: str
    fingerprint: str


def usage(end: End) -> dict[str, Any]:
    """Real token counts of the engine."""
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }


class Chat:
    """The shapes of `/v1/chat/completions`."""

    id_prefix = "chatcmpl-"
    chunk_object = "chat.completion.chunk"
    before_text = '"choices":[{"index":0,"delta":{"content":'
    after_text = '},"logprobs":null,"finish_reason":null}]'

    def opening(self) -> dict[str, Any] | None:
        """The choice of the first chunk."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}

    def closing(self, finish: str) -> dict[str, Any]:
        """The choice of the last chunk."""
        return {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}

    def whole(self, identity: Identity, answered: Answered) -> dict[str, Any]:
        """The document of an answer that is not streamed."""
        message = {"role": "assistant", "content": answered.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": answered.end.finish,
        }
        return _whole("chat.completion", identity, choice, answered.end)


class Completion:
    """The shapes of `/v1/completions`."""

    id_prefix = "cmpl-"
    chunk_object = "text_completion"
    before_text = '"choices":[{"index":0,"text":'
    after_text = ',"logprobs":null,"finish_reason":null}]'

    def opening(self) -> dict[str, Any] | None:
        """Completions have no role."""
        return None

    def closing(self, finish: str) -> dict[str, Any]:
        """The choice of the last chunk."""
        return {"index": 0, "text": "", "logprobs": None, "finish_reason": finish}

    def whole(self, identity: Identity, answered: Answered) -> dict[str, Any]:
        """The document of an answer that is not streamed."""
        choice = self.closing(answered.end.finish) | {"text": answered.text}
        return _whole("text_completion", identity, choice, answered.end)


Shape = Chat | Completion


def _whole(kind: str, identity: Identity, choice: dict[str, Any], end: End) -> dict[str, Any]:
    return {
        "id": identity.id,
        "object": kind,
        "created": identity.created,
        "model": identity.model,
        "system_fingerprint": identity.fingerprint,
        "choices": [choice],
        "usage": usage(end),
    }


class Events:
    """The server-sent events of one answer.

    Args:
        include_usage: a last chunk has the usage, and all others say `usage: null`.
    """

    def __init__(self, shape: Shape, identity: Identity, *, include_usage: bool) -> None:
        self._shape = shape
        self._include_usage = include_usage
        head = {
            "id": identity.id,
            "object": shape.chunk_object,
            "created": identity.created,
            "model": identity.model,
            "system_fingerprint": identity.fingerprint,
        }
        self._head = "data: " + json.dumps(head, separators=(",", ":"))[:-1] + ","
        self._tail = ',"usage":null}\n\n' if include_usage else "}\n\n"
        self._before = self._head + shape.before_text
        self._after = shape.after_text + self._tail

    def opening(self) -> str:
        """What comes before the first text."""
        choice = self._shape.opening()
        return self._chunk(choice) if choice is not None else ""

    def text(self, piece: str) -> str:
        """One event with a piece of text."""
        return f"{self._before}{quoted(piece)}{self._after}"

    def closing(self, end: End) -> str:
        """finish_reason, usage when asked for, and the one [DONE]."""
        chunks = self._chunk(self._shape.closing(end.finish))
        if self._include_usage:
            chunks += f'{self._head}"choices":[],"usage":{json.dumps(usage(end))}}}\n\n'
        return chunks + DONE.decode()

    def _chunk(self, choice: dict[str, Any]) -> str:
        return f'{self._head}"choices":[{json.dumps(choice)}]{self._tail}'


def error_event(error: RequestError) -> bytes:
    """The last event of a stream that broke: no finish_reason and no [DONE] follow."""
    return b"data: " + json.dumps(document(error)).encode() + b"\n\n"
