"""A request goes to a replica that can do what it asks; where none can, it is refused once, by the field."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from support.dataplane import (
    MODEL,
    ScriptedEngine,
    a_table,
    chat_body,
    dataplane,
    events_of,
    text_of,
    until,
)

from actors.engine import Capabilities, Chunk, EngineRequest, Usage

PLAIN = Capabilities()
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
WANTED = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


class WritingEngine(ScriptedEngine):
    """A server that takes what clients wrote and answers with text, in words."""

    def __init__(self, reply: str) -> None:
        super().__init__(
            reply, capabilities=Capabilities(ids_in=False, ids_out=False, continuation="none")
        )

        self.pieces = tuple(f"{word} " for word in reply.split(" "))
        self.last = Chunk((), "stop", text="", usage=Usage(31, 7))

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        if request.id == "proof":
            yield Chunk((), "stop", text="x")
            return
        self.requests.append(request)
        for piece in self.pieces:
            yield Chunk((), text=piece)
        yield self.last


async def test_only_replicas_that_can_are_asked() -> None:
    plain, able = ScriptedEngine(capabilities=PLAIN), ScriptedEngine()
    async with dataplane(plain, able) as plane:
        for _ in range(6):
            response = await plane.chat(seed=7)
            assert response.headers["x-shardyard-replica"] == f"{MODEL}/r1"
    assert (len(plain.requests), len(able.requests)) == (0, 6)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seed": 7}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"response_format": WANTED}, "response_format"),
        ({"model": f"{MODEL}:fr"}, "model"),
    ],
)
async def test_what_no_replica_can_do_is_one_clear_400(fields: dict[str, Any], param: str) -> None:
    engines = ScriptedEngine(capabilities=PLAIN), ScriptedEngine(capabilities=PLAIN)
    async with dataplane(*engines) as plane:
        response = await plane.chat(**fields)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", param)
        assert "no replica" in error["message"]
        assert (await plane.chat()).status_code == 200
    assert all(len(engine.requests) <= 1 for engine in engines)


@pytest.mark.parametrize("state", ["loading", "failed"])
async def test_a_replica_that_has_not_said_what_it_can_may_be_able(state: str) -> None:
    engines = ScriptedEngine(capabilities=PLAIN), ScriptedEngine(capabilities=PLAIN)
    async with dataplane(*engines) as plane:
        silent = replace(plane.entries[1], state=state)
        plane.registry.update(a_table(plane.entries[0], silent, version=2))
        response = await plane.chat(seed=7)
    assert response.status_code == 503


async def test_what_is_asked_reaches_the_engine() -> None:
    can = Capabilities(seed=True, penalties=True, json_schema=True, lora=("fr",))
    engine = ScriptedEngine(capabilities=can)
    async with dataplane(engine) as plane:
        body = {"response_format": WANTED, "presence_penalty": 0.5, "frequency_penalty": -0.5}
        response = await plane.chat(model=f"{MODEL}:fr", **body)
        assert response.status_code == 200
    [request] = engine.requests
    assert json.loads(request.sampling.json_schema) == SCHEMA
    assert request.sampling.presence_penalty == 0.5
    assert request.sampling.frequency_penalty == -0.5
    assert request.lora == "fr"


async def test_a_prompt_that_one_window_is_too_small_for_goes_to_a_larger_one() -> None:
    small, large = ScriptedEngine(window=32), ScriptedEngine(window=4096)
    async with dataplane(small, large) as plane:
        for _ in range(5):
            response = await plane.chat("x" * 60)
            assert response.status_code == 200
            assert response.headers["x-shardyard-replica"] == f"{MODEL}/r1"
        response = await plane.chat("x" * 5000)
        assert response.json()["error"]["code"] == "context_length_exceeded"
    assert small.requests == []


async def test_while_the_larger_window_is_full_the_prompt_is_not_too_long() -> None:
    small, large = ScriptedEngine(window=32), ScriptedEngine(window=4096, paced=True)
    async with dataplane(small, large, slot={"concurrency": 1, "queue": 0}) as plane:
        running = asyncio.create_task(plane.chat("x" * 60))
        await large.until(lambda engine: len(engine.requests) == 1)
        response = await plane.chat("x" * 60)
        assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
        await large.step(10)
        assert (await running).status_code == 200


async def test_while_the_larger_window_loads_the_prompt_is_not_too_long() -> None:
    small, large = ScriptedEngine(window=32), ScriptedEngine(window=4096)
    large.loadable.clear()
    async with dataplane(small, large, wait=False) as plane:
        loads = plane.upstreams.loads()
        await until(lambda: {load.state for load in loads.values()} == {"ready", "loading"})
        response = await plane.chat("x" * 60)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_loading")
        large.loadable.set()


async def test_a_larger_window_that_cannot_what_is_asked_is_none() -> None:
    small, large = ScriptedEngine(window=32), ScriptedEngine(window=4096, capabilities=PLAIN)
    async with dataplane(small, large) as plane:
        response = await plane.chat("x" * 60, seed=7)
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_a_character_that_comes_in_two_halves_is_whole() -> None:
    engine = WritingEngine("")
    engine.pieces = ("so \ud83d", "\ude00 ", "\ud83d")
    async with dataplane(engine) as plane:
        streamed = await plane.chat("Smile", stream=True)
    assert text_of(events_of(streamed.text)) == "so \U0001f600 \ufffd"


@pytest.mark.parametrize("last", [Chunk((), "stop", "", Usage(2**40, 1)), Chunk((), "done", "")])  # type: ignore[arg-type]
async def test_an_end_that_is_none_is_an_error_at_once(last: Chunk) -> None:
    engine = WritingEngine("")
    engine.last = last
    async with dataplane(engine) as plane, asyncio.timeout(5):
        response = await plane.chat("hi")
    assert response.json()["error"]["code"] == "engine_error"


async def test_a_schema_that_json_cannot_say_is_refused() -> None:
    engine = ScriptedEngine(capabilities=Capabilities(json_schema=True))
    body = json.dumps(chat_body(response_format=WANTED)).replace('"integer"', "1e999")
    async with dataplane(engine) as plane:
        response = await plane.client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_format.json_schema.schema"
    assert engine.requests == []


async def test_a_prompt_is_tried_on_one_window_that_is_too_small_and_no_other() -> None:
    engines = [ScriptedEngine(window=w) for w in (32, 32, 32, 4096)]
    async with dataplane(*engines) as plane:
        for _ in range(8):
            before = sum(replica.status().rejected for replica in plane.replicas)
            assert (await plane.chat("x" * 60)).status_code == 200
            after = sum(replica.status().rejected for replica in plane.replicas)
            assert after - before <= 1


async def test_an_engine_without_ids_reads_what_the_client_wrote() -> None:
    engine = WritingEngine("Paris of course")
    async with dataplane(engine) as plane:
        body = (await plane.chat("Which city?")).json()
        streamed = events_of((await plane.chat("Which city?", stream=True)).text)
        completion = await plane.client.post(
            "/v1/completions", json={"model": MODEL, "prompt": "Once"}
        )
    assert body["choices"][0]["message"]["content"] == "Paris of course "
    assert body["usage"] == {"prompt_tokens": 31, "completion_tokens": 7, "total_tokens": 38}
    assert text_of(streamed) == "Paris of course "
    assert completion.status_code == 200
    chat, _, text = engine.requests
    assert chat.messages == ({"role": "user", "content": "Which city?"},)
    assert (chat.prompt_ids, text.prompt) == ((), "Once")


async def test_ids_go_to_no_engine_that_takes_none() -> None:
    writing, able = WritingEngine("no"), ScriptedEngine("yes")
    async with dataplane(writing, able) as plane:
        for _ in range(4):
            response = await plane.client.post(
                "/v1/completions", json={"model": MODEL, "prompt": [65, 66]}
            )
            assert response.json()["choices"][0]["text"] == "yes"
    assert writing.requests == []


async def test_a_stop_string_cuts_the_text_of_an_engine_without_ids() -> None:
    async with dataplane(WritingEngine("one two three")) as plane:
        body = (await plane.chat(stop=["two"])).json()
    assert body["choices"][0]["message"]["content"] == "one "
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_the_receipt_says_how_a_text_would_go_on() -> None:
    exact = ScriptedEngine(capabilities=Capabilities(exact=True, continuation="exact"))
    async with dataplane(exact) as plane:
        assert (await plane.chat()).headers["x-shardyard-continuation"] == "exact"


@pytest.mark.parametrize(
    "wanted",
    [
        "json",
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": [1]}},
        {"type": "json_schema", "json_schema": {"schema": {"x": "y" * 200_000}}},
    ],
)
async def test_a_response_format_that_is_none_is_named(wanted: Any) -> None:
    can = Capabilities(json_schema=True)
    async with dataplane(ScriptedEngine(capabilities=can)) as plane:
        response = await plane.client.post(
            "/v1/chat/completions", json=chat_body(response_format=wanted)
        )
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("response_format")
