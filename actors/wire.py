"""Frames between gateway and replica: `u32 length | u32 stream | u8 kind | payload`, little endian.

One connection carries many streams; stream 0 is the connection itself. A stream is OPEN, then REJECT, or FIRST, any
number of TOKENS and END; ERROR may replace END. Pure codec: it must not know sockets, tasks or what a replica is.
Messages of the hot path are named tuples, because one is made for every token.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct, unpack_from
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from placement.errors import ShardyardError

VERSION = 1
KIB = 1024
LARGEST_OPEN = 16 * KIB * KIB


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1
    WELCOME = 2
    OPEN = 3
    REJECT = 4
    FIRST = 5
    TOKENS = 6
    END = 7
    ERROR = 8
    CANCEL = 9
    CREDIT = 10
    PING = 11
    PONG = 12
    STATE = 13


_SMALL = 64 * KIB
LIMITS: dict[int, int] = {kind.value: _SMALL for kind in Kind} | {
    Kind.OPEN.value: LARGEST_OPEN,
    Kind.FIRST.value: LARGEST_OPEN,
    Kind.TOKENS.value: LARGEST_OPEN,
}
"""Largest payload in bytes by kind; a FIRST holds the prompt's ids, a TOKENS at most one window of ids and text."""

FinishWord = Literal["stop", "length"]
_FINISH: tuple[FinishWord, ...] = ("stop", "length")


class WireError(ShardyardError):
    """The other side broke the protocol; the connection ends, other connections do not."""

    code = "wire.malformed"


class Frame(NamedTuple):
    """One undecoded frame."""

    stream: int
    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First frame of a gateway."""

    secret: str
    gateway: str
    version: int = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Answer to a good HELLO: who is here."""

    slot: str
    incarnation: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Load of a replica over all gateways, and whether it takes new streams."""

    state: str
    load_ratio: float
    running: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """One request. Exactly one of `messages` (kind chat) and `prompt` (kind completion) is given.

    Attributes:
        id: request id, for logs.
        max_tokens: as the client asked; None = the rest of the window.
        seed: None = the replica draws one.
        json_schema: as JSON text; the answer must be JSON of it. Empty = any text.
        lora: name of an adapter of the model; empty = the model itself.
        deadline_s: seconds until the answer is worthless, counted from the arrival of this frame.
        credits: TOKENS frames that may be sent before the first CREDIT.
    """

    id: str
    kind: Literal["chat", "completion"]
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[int] | None = None
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    json_schema: str = ""
    lora: str = ""
    deadline_s: float = 600.0
    credits: int = 256


class Reject(NamedTuple):
    """The request is not accepted; nothing was generated."""

    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None


class First(NamedTuple):
    """What the replica made of the request: with the later ids it is all that a continuation needs."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    seed: int


class Tokens(NamedTuple):
    """New ids and the text that became certain; either may be empty."""

    ids: tuple[int, ...]
    text: str


class End(NamedTuple):
    """The text is complete."""

    finish: FinishWord
    prompt_tokens: int
    completion_tokens: int


class Failure(NamedTuple):
    """The stream ends without being complete. `retryable`: another replica may do better."""

    code: str
    message: str
    retryable: bool = False


Answer = Reject | First | Tokens | End | Failure
Message = Hello | Welcome | State | Open | Answer

_HEADER = Struct("<IIB")
_FIRST = Struct("<IqI")
_END = Struct("<BII")
_COUNT = Struct("<I")
_ONE = Struct("<II")
_TOKENS_ONE = Struct("<IIBII")


class FrameReader:
    """Cuts a byte stream into frames, however it was split."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes.

        Raises:
            WireError: unknown kind or a payload above its limit; the reader is of no use afterwards.
        """
        buffer: bytes | bytearray = data
        if self._rest:
            self._rest += data
            buffer = self._rest
        frames: list[Frame] = []
        at, size = 0, len(buffer)
        while size - at >= 9:
            length, stream, kind = _HEADER.unpack_from(buffer, at)
            if length > LIMITS.get(kind, -1):
                raise _too_large(kind, length)
            end = at + 9 + length
            if end > size:
                break
            frames.append(Frame(stream, kind, bytes(buffer[at + 9 : end])))
            at = end
        if buffer is data:
            self._rest += data[at:]
        else:
            del self._rest[:at]
        return frames


def _too_large(kind: int, length: int) -> WireError:
    if kind not in LIMITS:
        return WireError(f"unknown frame kind {kind}", hint="run the same version on every node")
    return WireError(f"frame of kind {Kind(kind).name} with {length} bytes")


def frame(stream: int, kind: Kind, payload: bytes = b"") -> bytes:
    """One frame as bytes.

    Raises:
        WireError: the payload is above the kind's limit.
    """
    if len(payload) > LIMITS[kind]:
        raise _too_large(kind, len(payload))
    return _HEADER.pack(len(payload), stream, kind) + payload


def tokens_frame(stream: int, ids: tuple[int, ...], text: str) -> bytes:
    """A TOKENS frame; the fast path of `encode`."""
    data = text.encode()
    if len(ids) == 1 and len(data) < _SMALL:
        return _TOKENS_ONE.pack(8 + len(data), stream, 6, 1, ids[0]) + data
    return frame(stream, Kind.TOKENS, _ids(ids) + data)


def credit_frame(stream: int, count: int) -> bytes:
    """Allows `count` more TOKENS frames."""
    return frame(stream, Kind.CREDIT, _COUNT.pack(count))


def encode(stream: int, message: Message) -> bytes:
    """A message as one frame."""
    kind, payload = _ENCODERS[type(message)]
    return frame(stream, kind, payload(message))


def decode(kind: int, payload: bytes) -> Message:
    """Inverse of `encode` for the payload of one frame.

    Raises:
        WireError: the payload is not what the kind promises, or the kind carries no message.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise WireError(f"frame kind {kind} carries no message")
    try:
        return decoder(payload)
    except (struct.error, ValueError, TypeError, IndexError) as error:
        raise WireError(f"malformed {Kind(kind).name} frame") from error


def decode_tokens(payload: bytes) -> Tokens:
    """The payload of a TOKENS frame; the fast path of `decode`."""
    if payload[:4] == b"\x01\0\0\0":
        return Tokens(_COUNT.unpack_from(payload, 4), payload[8:].decode())
    ids, at = _read_ids(payload, 0)
    return Tokens(ids, payload[at:].decode())


def decode_credit(payload: bytes) -> int:
    """The count of a CREDIT frame."""
    try:
        return int(_COUNT.unpack(payload)[0])
    except struct.error as error:
        raise WireError("malformed CREDIT frame") from error


def _ids(ids: tuple[int, ...]) -> bytes:
    return Struct(f"<I{len(ids)}I").pack(len(ids), *ids)


def _read_ids(payload: bytes, at: int) -> tuple[tuple[int, ...], int]:
    (count,) = _COUNT.unpack_from(payload, at)
    if count * 4 > len(payload) - at:
        raise ValueError("more ids than bytes")
    return unpack_from(f"<{count}I", payload, at + 4), at + 4 + 4 * count


def _encode_first(first: First) -> bytes:
    count = len(first.prompt_ids)
    head = _FIRST.pack(first.max_tokens, first.seed, count)
    return head + Struct(f"<{count}I").pack(*first.prompt_ids)


def _decode_first(payload: bytes) -> First:
    max_tokens, seed, count = _FIRST.unpack_from(payload)
    if count * 4 != len(payload) - _FIRST.size:
        raise ValueError("wrong number of ids")
    return First(unpack_from(f"<{count}I", payload, _FIRST.size), max_tokens, seed)


def _encode_end(end: End) -> bytes:
    return _END.pack(_FINISH.index(end.finish), end.prompt_tokens, end.completion_tokens)


def _decode_end(payload: bytes) -> End:
    finish, prompt_tokens, completion_tokens = _END.unpack(payload)
    return End(_FINISH[finish], prompt_tokens, completion_tokens)


def _json_encoder(kind: Any) -> Callable[[Any], bytes]:
    adapter = TypeAdapter(kind)
    return adapter.dump_json


def _json_decoder(kind: Any) -> Callable[[bytes], Any]:
    adapter = TypeAdapter(kind)

    def read(payload: bytes) -> Any:
        try:
            return adapter.validate_json(payload, strict=True)
        except ValidationError as error:
            raise ValueError(str(error)) from error

    return read


def _row_encoder(row: Any) -> bytes:
    return json.dumps(row).encode()


_BINARY: dict[type, tuple[Kind, Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    First: (Kind.FIRST, _encode_first, _decode_first),
    Tokens: (Kind.TOKENS, lambda m: _ids(m.ids) + m.text.encode(), decode_tokens),
    End: (Kind.END, _encode_end, _decode_end),
    Reject: (Kind.REJECT, _row_encoder, _json_decoder(Reject)),
    Failure: (Kind.ERROR, _row_encoder, _json_decoder(Failure)),
}
_JSON: dict[type, Kind] = {
    Hello: Kind.HELLO,
    Welcome: Kind.WELCOME,
    State: Kind.STATE,
    Open: Kind.OPEN,
}
_ENCODERS: dict[type, tuple[Kind, Callable[[Any], bytes]]] = {
    **{message: (kind, write) for message, (kind, write, _) in _BINARY.items()},
    **{message: (kind, _json_encoder(message)) for message, kind in _JSON.items()},
}
_DECODERS: dict[int, Callable[[bytes], Any]] = {
    **{kind.value: read for kind, _, read in _BINARY.values()},
    **{kind.value: _json_decoder(message) for message, kind in _JSON.items()},
}
