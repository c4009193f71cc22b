"""The client of OpenAI-compatible servers: bodies, streams cut anywhere, garbage, and connections that give out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from support.engines import engine_request

from actors.engine import Chunk, EngineRequest, Sampling
from actors.errors import EngineError
from actors.openai.body import request_body
from actors.openai.dialect import Dialect
from actors.openai.events import Disconnected, Reading, complaint
from actors.openai.stream import OpenAIClient

IDS = Dialect(ids_switch={"return_token_ids": True}, ignore_eos=True)
TEXT = Dialect(prompt_ids=False)


def event(ids: Any = None, finish: Any = None, text: str = "x", **more: Any) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish, **more}
    if ids is not None:
        choice["token_ids"] = ids
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def reading(most: int = 100, *, field: str = "token_ids", **sampling: Any) -> Reading:
    request = engine_request(max_tokens=most, **sampling)
    return Reading(request, ids_field=field, most=most, vocab=4000, eos_ids=(2,))


def read(taking: Reading, *pieces: bytes) -> tuple[tuple[int, ...], str, str | None]:
    """All ids and text, and the finish; raises what the stream raises."""
    chunks: list[Chunk] = []
    for piece in pieces:
        chunk = taking.feed(piece)
        if chunk is not None:
            chunks.append(chunk)
        if taking.error is not None:
            raise taking.error
    text = "".join(chunk.text or "" for chunk in chunks)
    return tuple(n for c in chunks for n in c.ids), text, chunks[-1].finish if chunks else None


# -- bodies ---------------------------------------------------------------------------------------------------------


def test_ids_go_to_completions_with_every_figure_said() -> None:
    path, body = request_body(engine_request((5, 6), max_tokens=9), IDS, "m", window=8)
    assert path == "/completions"
    assert body == {
        "model": "m", "prompt": [5, 6], "max_tokens": 6, "temperature": 0.0, "top_p": 1.0, "stream": True,
        "return_token_ids": True,
    }  # fmt: skip


def test_messages_go_to_chat_and_ask_for_usage() -> None:
    request = EngineRequest(
        id="r",
        prompt_ids=(),
        sampling=Sampling(max_tokens=5),
        messages=({"role": "user", "content": "hi"},),
    )
    path, body = request_body(request, TEXT, "m")
    assert path == "/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["stream_options"] == {"include_usage": True}
    assert "prompt" not in body


def test_a_seed_fits_64_bits_and_is_said_only_when_it_matters() -> None:
    assert request_body(engine_request(temperature=1.0, seed=2**63 + 5), IDS, "m")[1]["seed"] == 5
    assert "seed" not in request_body(engine_request(seed=5), IDS, "m")[1]
    assert (
        "seed"
        not in request_body(engine_request(temperature=1.0, seed=5), Dialect(seed=False), "m")[1]
    )


def test_a_schema_stands_where_the_dialect_wants_it() -> None:
    dialect = Dialect(
        json_schema={"response_format": {"type": "json_schema", "schema": "{schema}"}}
    )
    body = request_body(engine_request(json_schema='{"type": "object"}'), dialect, "m")[1]
    assert body["response_format"] == {"type": "json_schema", "schema": {"type": "object"}}


def test_end_ids_adapters_and_extras() -> None:
    dialect = Dialect(stop_ids=True, extra={"repetition_penalty": 1.0})
    request = EngineRequest(id="r", prompt_ids=(1,), sampling=Sampling(max_tokens=3), lora="poet")
    body = request_body(request, dialect, "m", eos_ids=(2, 3))[1]
    assert (body["model"], body["stop_token_ids"], body["repetition_penalty"]) == (
        "poet",
        [2, 3],
        1.0,
    )
    ignoring = request_body(engine_request(ignore_eos=True), dialect, "m", eos_ids=(2, 3))[1]
    assert not {"stop_token_ids", "ignore_eos"} & set(ignoring)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"json_schema": "{}"}, "cannot be held to a JSON schema"),
        ({"frequency_penalty": 0.5}, "no frequency_penalty"),
        ({"max_tokens": 0}, "do not fit"),
    ],
)
def test_what_a_dialect_cannot_say_is_an_error(sampling: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        request_body(engine_request(**sampling), Dialect(penalties=False), "m", window=100)


def test_a_prompt_that_fills_the_window_does_not_fit() -> None:
    with pytest.raises(EngineError, match="8 prompt tokens and 1000 more do not fit a window of 8"):
        request_body(engine_request(tuple(range(8))), IDS, "m", window=8)


# -- streams --------------------------------------------------------------------------------------------------------

WHOLE = (
    b": a comment\n\n" + event([7]) + event([8, 9]) + event([2], "stop")
    + b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}\r\n\r\n' + DONE
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 64, len(WHOLE)])
def test_a_stream_reads_the_same_wherever_it_is_cut(size: int) -> None:
    pieces = [WHOLE[n : n + size] for n in range(0, len(WHOLE), size)]
    taking = reading()
    assert read(taking, *pieces) == ((7, 8, 9), "", "stop")
    assert taking.finished


def test_ids_and_end_that_arrive_together_are_one_chunk() -> None:
    assert reading().feed(event([7, 8], "length") + DONE) == Chunk((7, 8), "length", None, None)


def test_nothing_is_the_end_before_done() -> None:
    taking = reading()
    assert taking.feed(event([7], "length")) == Chunk((7,))
    assert not taking.finished
    assert taking.feed(DONE) == Chunk((), "length")


def test_text_comes_without_ids() -> None:
    chat = b'data: {"choices": [{"index": 0, "delta": {"content": "\xc3\xa4"}, "finish_reason": null}]}\n\n'
    role = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": null}]}\n\n'
    assert read(reading(field=""), role, chat, event(text="b", finish="stop"), DONE) == (
        (),
        "äb",
        "stop",
    )


def test_an_end_id_ends_the_text_whatever_the_server_does() -> None:
    assert read(reading(), event([7, 2, 8])) == ((7,), "", "stop")
    assert read(reading(ignore_eos=True), event([7, 2, 8], "length"), DONE) == (
        (7, 2, 8),
        "",
        "length",
    )
    assert read(reading(2), event([7]), event([8]), event([9])) == ((7, 8), "", "length")


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((event([7]), b""), "no finish reason"),
        ((event([7], "stop"), b""), r"no \[DONE\]"),
        ((event([7]), DONE), "without a finish reason"),
        ((event([7], "tool_calls"), DONE), "finish reason 'tool_calls'"),
        ((event([7], 3), DONE), "finish reason '3'"),
        ((event([7], "stop"), event([8])), "went on after its finish reason"),
        ((b"data: {\n\n",), "not JSON"),
        ((b"data: " + b"[" * 200_000 + b"\n\n",), "not JSON"),
        ((b"data: 7\n\n",), "an event as int"),
        ((b"data: {}\n\n",), "its choices as NoneType"),
        ((b'data: {"choices": {}}\n\n',), "its choices as dict"),
        ((b'data: {"choices": [7]}\n\n',), "other than one choice"),
        ((b'data: {"choices": [{}, {}]}\n\n',), "other than one choice"),
        ((event([7], index=1),), "other than one choice"),
        ((event([True]),), "none of its vocabulary"),
        ((event([4000]),), "none of its vocabulary"),
        ((event([-1]),), "none of its vocabulary"),
        ((event(["7"]),), "none of its vocabulary"),
        ((event([10**30]),), "none of its vocabulary"),
        ((event("77"),), "token ids as str"),
        ((event(),), "text without its token ids"),
        ((b'data: {"choices": [], "usage": {"prompt_tokens": -1}}\n\n',), "token counts that are none"),
        ((b'data: {"choices": [], "usage": {"prompt_tokens": 4294967296}}\n\n',), "token counts that are none"),
        ((b'data: {"choices": [], "usage": 3}\n\n',), "its usage as int"),
        ((b'data: {"error": "no memory"}\n\n',), "status 500: no memory"),
        ((b'data: {"error": {"message": "gone", "code": 429}}\n\n',), "status 429: gone"),
        ((b"x" * (1 << 20) + b"xx",), "more than 1048576 bytes"),
        ((b"data:" + b" " * (1 << 20) + b"7\n\n",), "more than 1048576 bytes"),
    ],
)  # fmt: skip
def test_garbage_fails_the_request(pieces: tuple[bytes, ...], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        read(reading(), *pieces)


def test_text_that_is_none_fails_the_request() -> None:
    with pytest.raises(EngineError, match="its text as int"):
        read(reading(field=""), b'data: {"choices": [{"text": 7}]}\n\n')
    with pytest.raises(EngineError, match="its delta as str"):
        read(reading(field=""), b'data: {"choices": [{"delta": "x"}]}\n\n')


def test_ids_before_garbage_are_given_out_first() -> None:
    taking = reading()
    assert taking.feed(event([7]) + b"data: {\n\n") == Chunk((7,))
    assert taking.error is not None


# -- what a server says about a request -----------------------------------------------------------------------------


def test_a_complaint_is_short_hides_secrets_and_never_repeats_the_prompt() -> None:
    request = EngineRequest(
        id="r", prompt_ids=(), sampling=Sampling(max_tokens=5),
        messages=({"role": "user", "content": "my diary of yesterday says"},),
    )  # fmt: skip
    plain = complaint(400, b'{"error": {"message": "HF_TOKEN=abcdef is wrong"}}', request)
    assert plain.message == "answered with status 400: HF_TOKEN=hidden is wrong"
    assert plain.fields == {"status": 400}
    assert complaint(400, b'{"detail": "input was: diary of yesterday"}', request).message.endswith(
        "400"
    )
    assert len(complaint(400, json.dumps({"message": "y" * 9000}).encode(), request).message) < 400
    numbers = json.dumps({"message": f"bad prompt {list(range(50))}"}).encode()
    assert complaint(400, numbers, None).message.endswith("bad prompt […]")
    for odd in (b"<html>", b"[1]", b'{"error": {"message": 7}}', b"[" * 100_000, b""):
        assert complaint(502, odd, request).message == "answered with status 502"


# -- connections ----------------------------------------------------------------------------------------------------

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def client_of(answer: Answer, dialect: Dialect = IDS) -> AsyncIterator[OpenAIClient]:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(answers, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = OpenAIClient(
        name="engine x", base_url=f"http://127.0.0.1:{port}/v1/", model="m", dialect=dialect,
        connector=aiohttp.TCPConnector(), vocab=4000, eos_ids=(2,),
    )  # fmt: skip
    try:
        yield client
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


def saying(*pieces: bytes) -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return answer


async def taken(client: OpenAIClient) -> list[Chunk]:
    return [chunk async for chunk in client.generate(engine_request())]


async def test_a_whole_stream() -> None:
    async with client_of(saying(HEAD, event([7]), event([8], "stop"), DONE)) as client:
        chunks = await taken(client)
    assert [n for chunk in chunks for n in chunk.ids] == [7, 8]
    assert chunks[-1].finish == "stop"


@pytest.mark.parametrize(
    ("pieces", "message", "retryable"),
    [
        ((), "closed the connection", True),
        ((b"nonsense\r\n\r\n",), "answered with something that is not HTTP|closed", True),
        ((HEAD,), "ended its stream with no finish reason", True),
        ((HEAD, event([7])[:20]), "ended its stream with no finish reason", True),
        ((HEAD.replace(b"Connection: close", b"Content-Length: 500"), event([7])), "broke off", True),
        ((HEAD.replace(b"text/event-stream", b"application/json"), b"{}"), "application/json instead", False),
        ((HEAD.replace(b"Connection: close", b"Content-Encoding: gzip"),), "compressed stream", False),
        ((b"HTTP/1.1 302 Found\r\nLocation: http://169.254.0.1/\r\nContent-Length: 0\r\n\r\n",), "status 302", False),
        ((b"HTTP/1.1 401 No\r\nContent-Length: 24\r\n\r\n", b'{"message": "wrong key"}'), "status 401: wrong key", False),
        ((HEAD[:-2] + b"X: " + b"y" * 100_000 + b"\r\n\r\n",), "not HTTP", True),
    ],
)  # fmt: skip
async def test_connections_that_give_out(
    pieces: tuple[bytes, ...], message: str, retryable: bool
) -> None:
    async with client_of(saying(*pieces)) as client:
        with pytest.raises(EngineError, match=f"^engine x .*({message})") as caught:
            await taken(client)
    assert isinstance(caught.value, Disconnected) == retryable
    assert "127.0.0.1" not in caught.value.message


async def test_nobody_listens() -> None:
    client = OpenAIClient(
        name="engine x", base_url="http://127.0.0.1:9/v1", model="m", dialect=IDS, connector=aiohttp.TCPConnector()
    )  # fmt: skip
    with pytest.raises(Disconnected, match="could not be reached"):
        await taken(client)
    await client.close()


async def test_hanging_up_is_seen_by_the_server_at_once() -> None:
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + event([7]))
        await reader.read()  # the body, then the end
        gone.set()

    async with client_of(answer) as client:
        async with aclosing(client.generate(engine_request())) as chunks:
            assert (await anext(chunks)).ids == (7,)
        await asyncio.wait_for(gone.wait(), 1.0)
        assert client.open == 0


async def test_abort_reaches_a_request_that_was_never_answered() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        gone.set()

    async with client_of(answer) as client:
        waiting = asyncio.create_task(taken(client))
        await asked.wait()
        await client.abort("r")
        assert await asyncio.wait_for(waiting, 1.0) == [Chunk((), "abort")]
        await asyncio.wait_for(gone.wait(), 1.0)


async def test_a_server_faster_than_its_reader_has_to_wait() -> None:
    blocked = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=1 << 16)
        writer.write(HEAD)
        for _ in range(2000):
            writer.write(event([7] * 1000))
            try:
                await asyncio.wait_for(writer.drain(), 0.3)
            except TimeoutError:
                blocked.set()
                return

    async with client_of(answer) as client, aclosing(client.generate(engine_request())) as chunks:
        await anext(chunks)
        await asyncio.wait_for(blocked.wait(), 10.0)


async def test_an_endless_page_is_not_kept() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with pytest.raises(OSError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

    async with client_of(answer) as client:
        with pytest.raises(EngineError, match="more than 8388608 bytes"):
            await client.get(client._base_url, 10.0)


async def test_a_list_of_models_in_an_unknown_form() -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
    async with client_of(saying(page)) as client:
        with pytest.raises(EngineError, match="unknown form"):
            await client.models(1.0)
