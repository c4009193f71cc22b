from __future__ import annotations

import struct

import pytest

from actors.wire import (
    FrameReader,
    Kind,
    Tokens,
    WireError,
    credit_frame,
    decode,
    decode_credit,
    encode,
    frame,
)


def test_a_frame_is_length_stream_kind_payload() -> None:
    assert encode(5, Tokens((258,), "hi")) == struct.pack("<IIBII", 10, 5, 6, 1, 258) + b"hi"


def test_unknown_kinds_and_too_large_frames_are_refused_before_they_arrive() -> None:
    with pytest.raises(WireError, match="unknown frame kind 99"):
        FrameReader().feed(struct.pack("<IIB", 0, 1, 99))
    with pytest.raises(WireError, match="HELLO"):
        FrameReader().feed(struct.pack("<IIB", 65 * 1024, 0, Kind.HELLO))
    with pytest.raises(WireError):
        frame(0, Kind.HELLO, bytes(65 * 1024))


def test_a_count_that_exceeds_the_payload_is_refused() -> None:
    with pytest.raises(WireError, match="TOKENS"):
        decode(Kind.TOKENS, struct.pack("<I", 2**31))


def test_credits_are_counted() -> None:
    [credit] = FrameReader().feed(credit_frame(9, 128))
    assert (credit.stream, credit.kind, decode_credit(credit.payload)) == (9, Kind.CREDIT, 128)
    with pytest.raises(WireError):
        decode_credit(b"12")
