"""Death, disconnects, full queues, slow clients: nothing is lost silently, nobody else is disturbed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from support.dataplane import (
    MODEL,
    SECRET,
    ScriptedEngine,
    a_replica,
    a_slot,
    a_table,
    an_entry,
    chat_body,
    dataplane,
    events_of,
    text_of,
    until,
)

from actors.wire import Welcome, encode
from orchestrator.errors import ControlError, PortTaken
from orchestrator.gateway.app import Gateway, GatewayConfig
from orchestrator.gateway.upstream import ReplicaUpstreams
from orchestrator.http_server import HttpServer, bind
from orchestrator.routing.registry import StaticRegistry


def asked(*engines: ScriptedEngine) -> list[int]:
    return [len(engine.requests) for engine in engines]


def raw_request(stream: bool = True, **fields) -> bytes:
    body = json.dumps(chat_body(stream=stream, **fields)).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def begin(plane, **fields):
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
    writer.write(raw_request(**fields))
    return reader, writer


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_aborts_the_generation(stream) -> None:
    engine = ScriptedEngine(paced=True)
    async with dataplane(engine) as plane:
        reader, writer = await begin(plane, stream=stream)
        await engine.until(lambda e: len(e.requests) == 1)
        if stream:
            await engine.step()
            await reader.readuntil(b'"content":"H"')
        writer.close()
        await engine.until(lambda e: len(e.aborted) == 1)
        await until(lambda: plane.metric("shardyard_clients_gone_total") == 1)
        assert plane.metric("shardyard_requests_running") == 0


async def test_a_replica_that_dies_mid_stream_gives_an_error_event_and_new_requests_go_elsewhere() -> (
    None
):
    first, second = ScriptedEngine("abc", paced=True), ScriptedEngine("xyz")
    async with dataplane(first, second) as plane:
        plane.registry.update(a_table(plane.entries[0], version=2))
        reader, writer = await begin(plane)
        await first.until(lambda e: len(e.requests) == 1)
        plane.registry.update(a_table(*plane.entries, version=3))
        await until(lambda: [u.state for u in plane.upstreams.loads().values()] == ["ready"] * 2)
        await first.step()
        await reader.readuntil(b'"content":"a"')
        await plane.replicas[0].close()
        rest = (await reader.readuntil(b"0\r\n\r\n")).decode()
        assert '"code": "replica_lost"' in rest
        assert "[DONE]" not in rest
        assert '"finish_reason":"' not in rest
        writer.close()
        answers = [await plane.chat() for _ in range(4)]
        assert [a.json()["choices"][0]["message"]["content"] for a in answers] == ["xyz"] * 4
        assert plane.metric("shardyard_broken_streams_total") == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_replica_that_dies_before_the_first_byte_is_replaced_unseen(stream) -> None:
    engines = ScriptedEngine("abc", paced=True), ScriptedEngine("abc", paced=True)
    async with dataplane(*engines) as plane:
        answer = asyncio.create_task(plane.chat(stream=stream))
        await until(lambda: sum(asked(*engines)) == 1)
        victim = 0 if engines[0].requests else 1
        if not stream:
            await engines[victim].step()
        await engines[victim].crash()
        await engines[1 - victim].until(lambda e: len(e.requests) == 1)
        await engines[1 - victim].step(3)
        response = await answer
        assert response.status_code == 200
        text = (
            text_of(events_of(response.text))
            if stream
            else response.json()["choices"][0]["message"]["content"]
        )
        assert text == "abc"
        assert response.headers["x-shardyard-replica"] == f"{MODEL}/r{1 - victim}"
        assert plane.metric("shardyard_retries_total", reason="replica_lost") == 1


async def test_without_another_replica_the_client_is_told_to_come_back() -> None:
    engine = ScriptedEngine(paced=True)
    async with dataplane(engine) as plane:
        answer = asyncio.create_task(plane.chat())
        await engine.until(lambda e: len(e.requests) == 1)
        await engine.crash()
        response = await answer
        assert (response.status_code, response.json()["error"]["code"]) == (503, "replica_lost")
        await until(lambda: [u.state for u in plane.upstreams.loads().values()] == ["failed"])
        again = await plane.chat()
        assert again.json()["error"]["code"] == "no_healthy_replica"
        assert again.headers["retry-after"]


async def test_two_replicas_share_the_load() -> None:
    engines = ScriptedEngine(paced=True), ScriptedEngine(paced=True)
    async with dataplane(*engines) as plane:
        answers = [asyncio.create_task(plane.chat()) for _ in range(6)]
        await until(lambda: sum(asked(*engines)) == 6)
        assert asked(*engines) == [3, 3]
        for engine in engines:
            await engine.step(6)
        assert {response.status_code for response in await asyncio.gather(*answers)} == {200}


async def test_full_replicas_answer_429_with_retry_after() -> None:
    engine = ScriptedEngine("a", paced=True)
    async with dataplane(engine, slot={"concurrency": 1, "queue": 1}) as plane:
        answers = [asyncio.create_task(plane.chat()) for _ in range(2)]
        await until(lambda: plane.replicas[0].status().waiting == 1)
        refused = await plane.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
        await engine.step()
        assert {response.status_code for response in await asyncio.gather(*answers)} == {200}


async def test_a_gateway_bounds_its_own_requests() -> None:
    engine = ScriptedEngine("a", paced=True)
    async with dataplane(engine, most_requests=1) as plane:
        answer = asyncio.create_task(plane.chat())
        await engine.until(lambda e: len(e.requests) == 1)
        assert (await plane.chat()).json()["error"]["code"] == "overloaded"
        await engine.step()
        assert (await answer).status_code == 200


async def test_a_draining_replica_finishes_and_the_other_takes_over() -> None:
    engines = ScriptedEngine("ab", paced=True), ScriptedEngine("xy")
    async with dataplane(*engines) as plane:
        plane.registry.update(a_table(plane.entries[0], version=2))
        answer = asyncio.create_task(plane.chat())
        await engines[0].until(lambda e: len(e.requests) == 1)
        plane.registry.update(a_table(*plane.entries, version=3))
        drained = asyncio.create_task(plane.replicas[0].drain(5))
        await until(
            lambda: (
                sorted(u.state for u in plane.upstreams.loads().values()) == ["draining", "ready"]
            )
        )
        assert (await plane.chat()).json()["choices"][0]["message"]["content"] == "xy"
        await engines[0].step(2)
        assert (await answer).json()["choices"][0]["message"]["content"] == "ab"
        await drained


async def test_a_replica_that_leaves_the_registry_finishes_its_streams() -> None:
    engine = ScriptedEngine("ab", paced=True)
    async with dataplane(engine) as plane:
        answer = asyncio.create_task(plane.chat())
        await engine.until(lambda e: len(e.requests) == 1)
        plane.registry.update(a_table(version=2))
        assert (await plane.chat()).json()["error"]["code"] == "model_loading"
        await engine.step(2)
        assert (await answer).json()["choices"][0]["message"]["content"] == "ab"


async def test_an_overdue_answer_is_a_504_that_is_not_retried() -> None:
    async with dataplane(ScriptedEngine(paced=True), deadline_s=0.05) as plane:
        response = await plane.chat()
        assert (response.status_code, response.json()["error"]["code"]) == (
            504,
            "deadline_exceeded",
        )
        assert response.headers["x-should-retry"] == "false"


async def test_an_overdue_stream_ends_with_an_error_event() -> None:
    engine = ScriptedEngine(paced=True)
    async with dataplane(engine, deadline_s=0.2) as plane:
        answer = asyncio.create_task(plane.chat(stream=True))
        await engine.until(lambda e: len(e.requests) == 1)
        await engine.step()
        events = events_of((await answer).text)
        assert events[-1]["error"]["code"] == "deadline_exceeded"
        await engine.until(lambda e: len(e.aborted) == 1)


async def test_a_slow_client_stalls_nobody_and_loses_nothing() -> None:
    reply = "0123456789" * 400
    async with dataplane(ScriptedEngine(reply)) as plane:
        reader, writer = await begin(plane)
        await reader.readuntil(b'"content":"0"')
        answers = [await plane.chat(stream=True) for _ in range(3)]
        assert [text_of(events_of(answer.text)) for answer in answers] == [reply] * 3
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += await reader.read(65536)
        texts = [
            json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            for line in rest.decode().split("\n")
            if line.startswith("data: {")
        ]
        assert rest.count(b"data: [DONE]") == 1
        assert "0" + "".join(texts) == reply
        writer.close()


async def test_a_gateway_with_the_wrong_secret_gets_nothing() -> None:
    replica = a_replica(a_slot(), ScriptedEngine())
    port = await replica.start()
    registry = StaticRegistry(a_table(an_entry(a_slot(), port)))
    upstreams = ReplicaUpstreams(registry, secret=SECRET + "x", gateway="g")
    upstreams.start()
    await until(lambda: replica.status().state == "ready")
    assert {upstream.state for upstream in upstreams.loads().values()} == {"down"}
    await upstreams.close()
    await replica.close()


async def test_a_replica_that_answers_no_ping_is_cut_off() -> None:
    hung_up = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(0, Welcome(slot="tiny/r0", incarnation="tiny/r0#1", state="ready")))
        while await reader.read(1000):
            pass
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    registry = StaticRegistry(a_table(an_entry(a_slot(), server.sockets[0].getsockname()[1])))
    upstreams = ReplicaUpstreams(registry, secret=SECRET, gateway="g", ping_period_s=0.01)
    upstreams.start()
    [upstream] = upstreams.loads().values()
    await until(lambda: upstream.state == "ready")
    async with asyncio.timeout(5):
        await hung_up.wait()
    await upstreams.close()
    server.close()
    await server.wait_closed()


async def test_a_restarted_replica_is_found_again() -> None:
    engine = ScriptedEngine("new")
    async with dataplane(ScriptedEngine("old")) as plane:
        assert "old" in (await plane.chat()).text
        await plane.replicas[0].close()
        second = a_replica(a_slot(), engine)
        entry = replace(plane.entries[0], port=await second.start())
        plane.registry.update(a_table(version=2))
        plane.registry.update(a_table(entry, version=3))
        await until(lambda: [u.state for u in plane.upstreams.loads().values()] == ["ready"])
        assert "new" in (await plane.chat()).text
        await second.close()


def test_a_taken_port_is_named_with_a_way_out() -> None:
    taken = bind("127.0.0.1", 0, reuse_port=True)
    port = taken.getsockname()[1]
    with pytest.raises(PortTaken, match=str(port)) as caught:
        bind("127.0.0.1", port, reuse_port=False)
    assert "--port" in caught.value.hint
    sibling = bind("127.0.0.1", port, reuse_port=True)
    sibling.close()
    taken.close()
    with pytest.raises(ControlError, match="cannot listen"):
        bind("203.0.113.1", 0, reuse_port=False)


async def test_a_stopping_server_finishes_what_runs_and_refuses_new_work() -> None:
    engine = ScriptedEngine("ab", paced=True)
    async with dataplane(engine) as plane:
        gateway = Gateway(GatewayConfig(), plane.upstreams)
        listener = bind("127.0.0.1", 0, reuse_port=False)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/chat/completions"
        server = HttpServer(gateway.app, [listener])
        await server.start()
        server.check()
        answer = asyncio.create_task(plane.client.post(address, json=chat_body()))
        await engine.until(lambda e: len(e.requests) == 1)
        stopping = asyncio.create_task(server.stop(5))
        await engine.step(2)
        assert (await answer).status_code == 200
        await stopping
        with pytest.raises(ControlError):
            server.check()


async def test_a_draining_gateway_says_so() -> None:
    async with dataplane(ScriptedEngine()) as plane:
        plane.gateway.drain()
        assert (await plane.chat()).json()["error"]["code"] == "draining"
        health = await plane.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        assert (await plane.client.get("/live")).status_code == 200
