"""The OpenAI contract of the gateway, over real sockets on loopback, with a scripted engine."""

from __future__ import annotations

import asyncio

import pytest
from support.dataplane import (
    MODEL,
    WINDOW,
    ScriptedEngine,
    a_table,
    chat_body,
    dataplane,
    events_of,
    text_of,
    until,
)


@pytest.fixture
async def plane():
    async with dataplane(ScriptedEngine("Hi “there”\nfriend")) as plane:
        yield plane


async def test_a_chat_has_every_required_field(plane) -> None:
    response = await plane.chat()
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == MODEL
    assert body["system_fingerprint"] == "scripted-CPU"
    [choice] = body["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Hi “there”\nfriend",
        "refusal": None,
    }
    assert (choice["finish_reason"], choice["index"], choice["logprobs"]) == ("stop", 0, None)
    assert body["usage"] == {"prompt_tokens": 9, "completion_tokens": 21, "total_tokens": 30}


async def test_deltas_equal_the_whole_text_and_the_stream_ends_once(plane) -> None:
    whole = (await plane.chat()).json()["choices"][0]["message"]["content"]
    response = await plane.chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    events = events_of(response.text)
    assert text_of(events) == whole
    assert response.text.count("[DONE]") == 1
    assert response.text.endswith("data: [DONE]\n\n")
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert len({event["id"] for event in events[:-1]}) == 1


async def test_usage_comes_when_it_is_asked_for(plane) -> None:
    events = events_of((await plane.chat(stream=True, stream_options={"include_usage": True})).text)
    assert events[-2]["usage"]["completion_tokens"] == 21
    assert events[-2]["choices"] == []
    assert all(event["usage"] is None for event in events[:-2])


@pytest.mark.parametrize("prompt", ["hi", [104, 105], ["hi"], [[104, 105]]])
async def test_completions_take_text_and_token_ids(plane, prompt) -> None:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 2}
    response = await plane.client.post("/v1/completions", json=body)
    assert response.json()["choices"][0] == {
        "index": 0,
        "text": "Hi",
        "logprobs": None,
        "finish_reason": "length",
    }
    assert plane.engines[0].requests[0].prompt_ids == (104, 105)
    streamed = await plane.client.post("/v1/completions", json=body | {"stream": True})
    *chunks, done = events_of(streamed.text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hi"
    assert done == "[DONE]"


async def test_sampling_reaches_the_engine_with_openais_defaults(plane) -> None:
    await plane.chat()
    await plane.chat(
        temperature=0, top_p=0.5, seed=7, max_tokens=9, max_completion_tokens=4, ignore_eos=True
    )
    default, asked = (request.sampling for request in plane.engines[0].requests)
    assert (default.temperature, default.top_p, default.ignore_eos) == (1.0, 1.0, False)
    assert (asked.temperature, asked.top_p, asked.seed) == (0, 0.5, 7)
    assert (asked.max_tokens, asked.ignore_eos) == (4, True)


@pytest.mark.parametrize("stop", ["\n", ["zzz", "\nfr"]])
async def test_stop_strings_end_the_text_streamed_or_not(plane, stop) -> None:
    whole = (await plane.chat(stop=stop)).json()["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == ("Hi “there”", "stop")
    assert text_of(events_of((await plane.chat(stop=stop, stream=True)).text)) == "Hi “there”"


async def test_what_newer_clients_send_is_accepted(plane) -> None:
    response = await plane.chat(
        n=1,
        user="u",
        metadata={"a": "b"},
        store=False,
        logprobs=False,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        modalities=["text"],
        frequency_penalty=0,
        logit_bias={},
        a_field_of_next_year={"deep": [1]},
        stop=None,
        max_tokens=None,
    )
    assert response.status_code == 200


async def test_content_may_be_a_list_of_text_parts(plane) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": parts}]}
    assert (await plane.client.post("/v1/chat/completions", json=body)).status_code == 200
    assert bytes(plane.engines[0].requests[0].prompt_ids) == b"user: ab\n"


async def test_every_response_has_a_request_id_and_a_sane_one_is_kept(plane) -> None:
    kept = await plane.client.get("/live", headers={"x-request-id": "mine-1"})
    assert kept.headers["x-request-id"] == "mine-1"
    for given in ["a b", "x" * 300, "é"]:
        made = await plane.client.get("/nowhere", headers={"x-request-id": given.encode()})
        assert made.headers["x-request-id"].startswith("req-")


async def test_an_answer_says_where_it_came_from(plane) -> None:
    headers = (await plane.chat(stream=True)).headers
    assert headers["x-shardyard-replica"] == "tiny/r0"
    assert headers["x-shardyard-device-class"] == "CPU"
    assert headers["x-shardyard-engine"] == "scripted"
    assert "x-shardyard-emulated" not in headers


async def test_an_emulated_answer_says_so() -> None:
    async with dataplane(ScriptedEngine(), slot={"emulated": True}) as plane:
        assert (await plane.chat()).headers["x-shardyard-emulated"] == "true"


async def test_models_are_listed_with_their_state(plane) -> None:
    [model] = (await plane.client.get("/v1/models")).json()["data"]
    assert model == {
        "id": MODEL,
        "object": "model",
        "created": 1,
        "owned_by": "shardyard",
        "shardyard": {
            "emulated": False,
            "window": WINDOW,
            "state": "ready",
            "replicas_ready": 1,
        },
    }
    assert (await plane.client.get(f"/v1/models/{MODEL}")).json() == model
    missing = await plane.client.get("/v1/models/org/none")
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "model")


async def test_a_loading_model_is_not_listed_and_answers_when_to_come_back() -> None:
    engine = ScriptedEngine()
    engine.loadable.clear()
    async with dataplane(engine, wait=False) as plane:
        await until(lambda: all(u.state == "loading" for u in plane.upstreams.loads().values()))
        response = await plane.chat()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_loading")
        assert int(response.headers["retry-after"]) >= 1
        assert (await plane.client.get("/v1/models")).json()["data"] == []
        one = (await plane.client.get(f"/v1/models/{MODEL}")).json()
        assert one["shardyard"]["state"] == "loading"
        assert (await plane.client.get("/health")).status_code == 503
        assert (await plane.client.get("/ready")).status_code == 503
        assert (await plane.client.get("/live")).status_code == 200
        engine.loadable.set()
        await until(lambda: all(u.state == "ready" for u in plane.upstreams.loads().values()))
        assert (await plane.chat()).status_code == 200
        assert (await plane.client.get("/health")).json()["models"] == {MODEL: "ready"}


async def test_metrics_count_requests_and_tokens(plane) -> None:
    await plane.chat()
    await plane.chat(model="unknown")
    text = (await plane.client.get("/metrics")).text
    route = "/v1/chat/completions"
    assert plane.metric("shardyard_requests_total", route=route, model=MODEL, status="200") == 1
    assert plane.metric("shardyard_requests_total", route=route, model="", status="404") == 1
    assert plane.metric("shardyard_completion_tokens_total", model=MODEL) == 21
    assert 'shardyard_replica_ready{slot="tiny/r0"} 1.0' in text
    assert "unknown" not in text


async def test_version_and_cors_are_off_unless_set(plane) -> None:
    assert (await plane.client.get("/version")).json() == {"version": "1"}
    crossing = await plane.client.get("/live", headers={"origin": "http://page"})
    assert "access-control-allow-origin" not in crossing.headers


async def test_cors_by_setting_also_on_errors() -> None:
    async with dataplane(ScriptedEngine(), cors_origins=("http://page",)) as plane:
        response = await plane.client.post(
            "/v1/chat/completions", headers={"origin": "http://page"}, content=b"{"
        )
        assert response.status_code == 415
        assert response.headers["access-control-allow-origin"] == "http://page"


async def test_silence_is_filled_with_comments_once_headers_are_due() -> None:
    engine = ScriptedEngine("ab", paced=True)
    async with dataplane(engine, silence_s=0.02) as plane:
        async with plane.client.stream(
            "POST", "/v1/chat/completions", json=chat_body(stream=True)
        ) as response:
            chunks = response.aiter_text()
            assert (await anext(chunks)).startswith(": keep-alive\n\n")
            await engine.step(2)
            rest = "".join([chunk async for chunk in chunks])
        assert text_of(events_of(rest)) == "ab"
        assert rest.endswith("data: [DONE]\n\n")


async def test_headers_wait_for_the_first_token() -> None:
    engine = ScriptedEngine("ab", paced=True)
    async with dataplane(engine) as plane:
        sent = plane.client.build_request(
            "POST", "/v1/chat/completions", json=chat_body(stream=True)
        )
        asked = asyncio.create_task(plane.client.send(sent, stream=True))
        await engine.until(lambda e: len(e.requests) == 1)
        assert not asked.done()
        await engine.crash()
        response = await asked
        assert response.status_code == 503
        assert (await response.aread()).startswith(b'{"error"')
        assert "retry-after" in response.headers


async def test_a_model_that_leaves_the_registry_is_unknown(plane) -> None:
    table = a_table(version=2)
    plane.registry.update(type(table)(version=2))
    assert (await plane.chat()).status_code == 404
