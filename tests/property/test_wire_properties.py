"""decode(encode(x)) == x however the bytes are cut, and no bytes make the reader do anything but return or raise WireError."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from actors.wire import (
    LIMITS,
    End,
    Failure,
    First,
    FrameReader,
    Hello,
    Kind,
    Open,
    Reject,
    State,
    Tokens,
    Welcome,
    WireError,
    decode,
    encode,
    tokens_frame,
)

ids = st.lists(st.integers(0, 2**32 - 1), max_size=20).map(tuple)
text = st.text(max_size=40)
seconds = st.floats(0, 1e6)
messages = st.lists(
    st.dictionaries(text, st.one_of(text, st.integers(-(2**60), 2**60), st.none()), max_size=3),
    max_size=3,
)
opens = st.builds(
    Open,
    id=text,
    kind=st.just("chat"),
    messages=st.one_of(st.none(), messages),
    max_tokens=st.one_of(st.none(), st.integers(1, 10**30)),
    temperature=st.floats(0, 2),
    seed=st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    stop=st.lists(text, max_size=4).map(tuple),
    frequency_penalty=st.floats(-2, 2),
    json_schema=text,
    lora=text,
    deadline_s=seconds,
)
everything = st.one_of(
    opens,
    st.builds(Hello, secret=text, gateway=text),
    st.builds(Welcome, slot=text, incarnation=text, state=text),
    st.builds(
        State,
        state=text,
        load_ratio=st.floats(0, 1),
        running=st.integers(0, 99),
        waiting=st.integers(0, 99),
    ),
    st.builds(Reject, text, text, st.one_of(st.none(), text), st.one_of(st.none(), seconds)),
    st.builds(First, ids, st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1)),
    st.builds(Tokens, ids, text),
    st.builds(
        End,
        st.sampled_from(["stop", "length"]),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
    ),
    st.builds(Failure, text, text, st.booleans()),
)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), everything), max_size=6), st.data())
def test_messages_survive_any_cut_of_the_bytes(sent, data) -> None:
    raw = b"".join(encode(stream, message) for stream, message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    reader = FrameReader()
    frames = []
    for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        frames += reader.feed(raw[begin:end])
    assert [(f.stream, decode(f.kind, f.payload)) for f in frames] == sent


@given(ids, text)
def test_the_fast_path_writes_what_the_codec_writes(token_ids, piece) -> None:
    assert tokens_frame(7, token_ids, piece) == encode(7, Tokens(token_ids, piece))


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_is_refused_and_nothing_else(chunks) -> None:
    reader = FrameReader()
    with suppress(WireError):
        for chunk in chunks:
            for frame in reader.feed(chunk):
                assert len(frame.payload) <= LIMITS[frame.kind]


@given(st.sampled_from(list(Kind)), st.binary(max_size=60))
def test_garbage_payloads_are_refused_and_nothing_else(kind, payload) -> None:
    try:
        message = decode(kind, payload)
    except WireError as error:
        assert error.code == "wire.malformed"
    else:
        assert encode(1, message)
