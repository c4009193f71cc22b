"""What an OpenAI-compatible server streams, read strictly.

Decides what of it is sound: one choice, known finish reasons, ids inside the vocabulary, lines and messages of bounded length.
Whatever a server says about a request may repeat the prompt, so its messages are cut, and dropped where they do.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from ..engine import Chunk, EngineRequest, FinishReason, Usage
from ..errors import EngineError
from ..redaction import redacted

LINE_BYTES = 1 << 20
_MESSAGE_CHARS = 300
_QUOTE_CHARS = 16
"""As many characters of a prompt in a row are taken for a repetition of it."""
_NUMBERS = re.compile(r"\[\s*-?\d+(?:\s*,\s*-?\d+){2,}[^\]]*\]?")
_FINISHES: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


class Disconnected(EngineError):
    """A server could not be reached, or the connection broke before the answer was whole."""

    retryable = True


class Unreachable(Disconnected):
    """Nobody listens at a server's address."""


class Reading:
    """Takes the bytes of one stream, gives chunks.

    Args:
        ids_field: field of a choice that holds the ids; empty = the text is taken.
        most: tokens asked for; ids beyond are not taken.

    Attributes:
        finished: the last chunk was given.
        error: why nothing follows the last chunk although it was not the end.
    """

    __slots__ = (
        "_buffer", "_done", "_eos_ids", "_field", "_finish", "_ids", "_left", "_request", "_texts", "_usage", "_vocab",
        "error", "finished",
    )  # fmt: skip

    def __init__(
        self,
        request: EngineRequest,
        *,
        ids_field: str,
        most: int,
        vocab: int = 0,
        eos_ids: tuple[int, ...] = (),
    ) -> None:
        self.finished = False
        self.error: EngineError | None = None
        self._request = request
        self._field = ids_field
        self._left = most
        self._vocab = vocab or 1 << 32
        self._eos_ids = frozenset[int]() if request.sampling.ignore_eos else frozenset(eos_ids)
        self._buffer = b""
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._usage: Usage | None = None
        self._finish: FinishReason | None = None
        self._done = False

    def feed(self, data: bytes) -> Chunk | None:
        """What these bytes add to the text; empty bytes are the end of the stream.

        Raises:
            EngineError: the stream is broken or says that the request failed; kept in `error` when there is a chunk from before.
        """
        try:
            self._take(data)
        except EngineError as error:
            if not self._ids and not self._texts:
                raise
            self.error = error
        return self._chunk()

    def _take(self, data: bytes) -> None:
        if not data:
            what = "no finish reason" if self._finish is None else "no [DONE]"
            raise Disconnected(f"ended its stream with {what}")
        lines = (self._buffer + data).split(b"\n")
        self._buffer = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:])
            if self._done:
                return
        if len(self._buffer) > LINE_BYTES:
            raise EngineError(f"sent a line of more than {LINE_BYTES} bytes")

    def _chunk(self) -> Chunk | None:
        finish = self._finish if self._done else None
        if not self._ids and not self._texts and finish is None:
            return None
        self.finished = finish is not None
        text = None if self._field else "".join(self._texts)
        chunk = Chunk(tuple(self._ids), finish, text, self._usage if finish is not None else None)
        self._ids.clear()
        self._texts.clear()
        return chunk

    def _event(self, data: bytes) -> None:
        if len(data) > LINE_BYTES:
            raise EngineError(f"sent a line of more than {LINE_BYTES} bytes")
        data = data.strip()
        if data == b"[DONE]":
            if self._finish is None:
                raise EngineError("ended its stream without a finish reason")
            self._done = True
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            raise EngineError("sent an event that is not JSON") from None
        if type(event) is not dict:
            _odd("an event", event)
        if event.get("error") is not None:
            raise complaint(_code(event["error"]), data, self._request)
        choices = event.get("choices")
        if type(choices) is not list:
            _odd("its choices", choices)
        if choices:
            self._choice(choices)
        if event.get("usage") is not None:
            self._usage = _usage(event["usage"])

    def _choice(self, choices: list[Any]) -> None:
        choice = choices[0]
        if len(choices) != 1 or type(choice) is not dict or choice.get("index", 0) != 0:
            raise EngineError("sent other than one choice")
        if self._finish is not None:
            raise EngineError("went on after its finish reason")
        if self._field:
            self._take_ids(choice)
        else:
            self._take_text(choice)
        reason = choice.get("finish_reason")
        if reason is not None and not self._done:
            self._finish = _FINISHES.get(reason) if type(reason) is str else None
            if self._finish is None:
                raise EngineError(f"ended with the finish reason {str(reason)[:40]!r}")

    def _take_ids(self, choice: dict[str, Any]) -> None:
        ids = choice.get(self._field)
        if ids is None:
            if choice.get("text"):
                raise EngineError("told text without its token ids")
            return None
        if type(ids) is not list:
            _odd("token ids", ids)
        for token in ids:
            if type(token) is not int or not 0 <= token < self._vocab:
                raise EngineError("told a token id that is none of its vocabulary")
            if token in self._eos_ids:
                return None if choice.get("finish_reason") else self._cut("stop")
            if self._left == 0:
                return self._cut("length")
            self._ids.append(token)
            self._left -= 1
        return None

    def _take_text(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta", choice)
        if type(delta) is not dict:
            _odd("its delta", delta)
        text = delta.get("content" if "delta" in choice else "text")
        if text is None:
            return
        if type(text) is not str:
            _odd("its text", text)
        if text:
            self._texts.append(text)

    def _cut(self, finish: FinishReason) -> None:
        """The text is whole, whatever the server thinks; who hangs up makes it stop."""
        self._finish, self._done = finish, True


def _odd(what: str, found: Any) -> NoReturn:
    raise EngineError(f"sent {what} as {type(found).__name__}")


def _usage(found: Any) -> Usage:
    if type(found) is not dict:
        _odd("its usage", found)
    return Usage(_tokens(found.get("prompt_tokens")), _tokens(found.get("completion_tokens", 0)))


def _tokens(count: Any) -> int:
    if type(count) is not int or not 0 <= count < 1 << 32:
        raise EngineError("sent token counts that are none")
    return count


def _code(error: Any) -> int:
    code = error.get("code") if type(error) is dict else None
    return code if type(code) is int and 100 <= code < 600 else 500


def complaint(status: int, body: bytes, request: EngineRequest | None) -> EngineError:
    """What a server says about a request that it did not answer; `status` is a field of the error."""
    message = _message(body)
    said = f": {message}" if message and not _repeats(message, request) else ""
    return EngineError(f"answered with status {status}{said}", status=status)


def _message(body: bytes) -> str:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    for _ in range(3):
        if type(found) is dict:
            found = found.get("error") or found.get("message") or found.get("detail")
    if type(found) is not str:
        return ""
    first = " ".join(_NUMBERS.sub("[…]", redacted(found[: 4 * _MESSAGE_CHARS])).split())
    return first[:_MESSAGE_CHARS]


def _repeats(message: str, request: EngineRequest | None) -> bool:
    if request is None:
        return False
    texts = [request.prompt or "", *(str(m.get("content", "")) for m in request.messages or ())]
    for text in texts:
        if 4 <= len(text) < _QUOTE_CHARS and text in message:
            return True
        ends = range(len(message) - _QUOTE_CHARS + 1)
        if any(message[n : n + _QUOTE_CHARS] in text for n in ends):
            return True
    return False
