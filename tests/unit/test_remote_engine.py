"""The remote engine against servers on the loopback: what is sent, what comes back, and every way in which one misbehaves."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.endpoints import (
    DONE,
    STREAM_HEAD,
    Answer,
    Asked,
    Endpoint,
    delta,
    event,
    piece,
    raw,
    says,
    serving,
    streams,
    usage,
)
from support.engines import engine_config

from actors.engine import Chunk, EngineRequest, Sampling
from actors.engines.remote import RemoteEngine
from actors.errors import EngineError, LoadFailed
from actors.plugins import make_engine
from actors.remote.dialects import amend, offered
from actors.remote.record import FAILURES_IN_A_ROW, RemoteFailed
from actors.remote_gate import Gate, objection

KEY = "sk-very-secret-0123456789"
MESSAGES = ({"role": "user", "content": "Where is the treasure of the old captain?"},)
VLLM = {"id": "chat", "owned_by": "vllm", "max_model_len": 512}


def named(endpoint: Endpoint, **changes: Any) -> dict[str, str]:
    """An environment with this endpoint."""
    entry = {"url": endpoint.url, "name": "lab", "allow_private": True} | changes
    return {"SHARDYARD_REMOTE": json.dumps([entry]), "LAB_KEY": KEY}


def chat(**sampling: Any) -> EngineRequest:
    given = Sampling(**{"max_tokens": 20} | sampling)
    return EngineRequest(id="r", prompt_ids=(), sampling=given, messages=MESSAGES)


def in_ids(*ids: int, **sampling: Any) -> EngineRequest:
    given = Sampling(**{"max_tokens": 20} | sampling)
    return EngineRequest(id="r", prompt_ids=ids, sampling=given)


@asynccontextmanager
async def loaded(
    endpoint: Endpoint,
    *,
    first_s: float = 5.0,
    idle_s: float = 5.0,
    config: dict[str, Any] | None = None,
    **entry: Any,
) -> AsyncIterator[RemoteEngine]:
    async with serving(endpoint):
        variables = named(endpoint, **entry)
        engine = RemoteEngine(first_s=first_s, idle_s=idle_s, variables=variables)
        fields = {"model": "chat", "endpoint": f"{endpoint.url}/v1"} | (config or {})
        done: list[float] = []
        await engine.load(engine_config(**fields), done.append)
        assert done == sorted(done)
        assert done[-1] == 1.0
        try:
            yield engine
        finally:
            await engine.close()


async def answer(engine: RemoteEngine, request: EngineRequest | None = None) -> list[Chunk]:
    chunks = [chunk async for chunk in engine.generate(request or chat())]
    assert all(chunk.finish is None for chunk in chunks[:-1])
    return chunks


async def failure(engine: RemoteEngine, request: EngineRequest | None = None) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await answer(engine, request)
    return caught.value


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text or "" for chunk in chunks)


# -- a sound endpoint ----------------------------------------------------------------------------------------------


def test_it_is_found_by_its_name() -> None:
    assert isinstance(make_engine("remote"), RemoteEngine)


async def test_a_chat_is_sent_as_written_and_comes_back_as_text_with_counts() -> None:
    endpoint = Endpoint(
        answer=streams(delta("Under "), delta("the tree"), delta(finish="stop"), usage(17, 5))
    )
    async with loaded(endpoint) as engine:
        chunks = await answer(engine, chat(temperature=0.7))
    assert text(chunks) == "Under the tree"
    assert chunks[-1].finish == "stop"
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (17, 5)
    (asked,) = endpoint.posted
    assert asked.path == "/v1/chat/completions"
    assert asked.body["messages"] == list(MESSAGES)
    assert (asked.body["model"], asked.body["max_tokens"], asked.body["stream"]) == (
        "chat",
        20,
        True,
    )
    assert "top_p" not in asked.body, "what the client did not ask for is not sent"


async def test_a_plain_text_goes_to_the_plain_route() -> None:
    endpoint = Endpoint(answer=streams(piece(" Paris"), piece(finish="length")))
    async with loaded(endpoint) as engine:
        request = EngineRequest(
            id="r",
            prompt_ids=(),
            sampling=Sampling(max_tokens=1),
            prompt="The capital of France is",
        )
        chunks = await answer(engine, request)
    assert (text(chunks), chunks[-1].finish) == (" Paris", "length")
    assert endpoint.posted[0].path == "/v1/completions"
    assert endpoint.posted[0].body["prompt"] == "The capital of France is"


async def test_the_key_goes_into_the_header_and_nowhere_else() -> None:
    def refused(asked: Asked) -> Answer:
        return says(401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}))

    endpoint = Endpoint()
    with structlog.testing.capture_logs() as logs:
        async with loaded(endpoint, api_key_env="LAB_KEY") as engine:
            await answer(engine)
            endpoint.answer = refused(endpoint.asked[0])
            error = await failure(engine)
    assert {one.headers["authorization"] for one in endpoint.asked} == {f"Bearer {KEY}"}
    assert "LAB_KEY" in error.hint
    assert KEY not in f"{error.message} {error.hint} {error.fields} {logs} {engine.health()}"


async def test_a_model_is_asked_for_under_the_name_that_it_has_there() -> None:
    endpoint = Endpoint(models=[{"id": "org/chat-8b"}])
    async with loaded(endpoint, names={"chat": "org/chat-8b"}) as engine:
        await answer(engine)
    assert endpoint.posted[0].body["model"] == "org/chat-8b"


async def test_a_model_may_stand_in_the_address() -> None:
    endpoint = Endpoint(models=[{"id": "org/chat-8b"}])
    async with serving(endpoint):
        engine = RemoteEngine(variables=named(endpoint))
        address = f"openai+{endpoint.url}/v1/org/chat-8b"
        await engine.load(engine_config(model="ours", endpoint=address), lambda _: None)
        await answer(engine)
        await engine.close()
    assert endpoint.posted[0].body["model"] == "org/chat-8b"


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with loaded(Endpoint()) as engine:
        assert text(await answer(engine)) == "hello"


async def test_a_client_that_names_no_limit_gets_what_the_endpoint_gives() -> None:
    endpoint = Endpoint()
    async with loaded(endpoint, config={"window": 1024}) as engine:
        await answer(engine, chat(max_tokens=1024))
    assert "max_tokens" not in endpoint.posted[0].body


def test_a_plain_text_without_a_limit_leaves_room_for_the_prompt() -> None:
    body: dict[str, Any] = {"prompt": "x" * 100, "max_tokens": 128}
    amend("/completions", body, window=128, hosted=False)
    assert body["max_tokens"] == 28
    body = {"prompt": "x" * 200, "max_tokens": 128}
    amend("/completions", body, window=128, hosted=False)
    assert body["max_tokens"] == 16


def test_openai_itself_gets_its_own_name_of_the_limit() -> None:
    body: dict[str, Any] = {"messages": [], "max_tokens": 7}
    amend("/chat/completions", body, window=128, hosted=True)
    assert body == {"messages": [], "max_completion_tokens": 7}


async def test_what_was_seen_is_told() -> None:
    endpoint = Endpoint(answer=streams(delta("a"), delta("b", "stop"), usage(3, 2)))
    async with loaded(endpoint, price_per_million_tokens=500_000.0) as engine:
        assert engine.observed().answers == 0
        await answer(engine)
        await answer(engine)
        seen = engine.observed()
        assert engine.capabilities.metered
    assert (seen.answers, seen.tokens, seen.cost) == (2, 4, 2.0)
    assert 0 < seen.ttft_s < 5


# -- kinds of servers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "kind"),
    [
        ("vllm", "vllm"), ("llamacpp", "llamacpp"), ("sglang", "sglang"), ("tensorrt_llm", "trtllm"), ("OVMS", "ovms"),
        ("shardyard", "shardyard"), ("openai", "openai"), ("system", "openai"), ("somebody", "openai"), (7, "openai"),
    ],
)  # fmt: skip
def test_a_server_is_recognised_by_its_list_of_models(owner: object, kind: str) -> None:
    assert offered({"data": [{"id": "m", "owned_by": owner}]})["m"].kind == kind


@pytest.mark.parametrize(
    "document", [None, [], {}, {"data": 7}, {"data": [7, {"id": 3}, {"id": ""}]}]
)
def test_what_is_no_list_of_models_offers_none(document: object) -> None:
    assert offered(document) == {}


def told_ids(asked: Asked, writer: asyncio.StreamWriter) -> Any:
    told = asked.body.get("return_token_ids") is True
    most = min(asked.body["max_tokens"], 3)
    ids = [41, 42, 43][:most]
    finish = "length" if most < 3 else "stop"
    events = [piece("x", finish if n == ids[-1] else None, [n] if told else None) for n in ids]
    return streams(*events)(asked, writer)


async def test_vllm_takes_and_tells_ids() -> None:
    endpoint = Endpoint(models=[VLLM], answer=told_ids)
    async with loaded(endpoint) as engine:
        can = engine.capabilities
        chunks = await answer(engine, in_ids(5, 6, 7, temperature=0.5, seed=11))
        error = await failure(engine, in_ids(*range(512)))
    assert (can.ids_in, can.ids_out, can.seed, can.metered) == (True, True, True, False)
    assert (can.window, can.continuation) == (512, "coherent")
    assert [n for chunk in chunks for n in chunk.ids] == [41, 42, 43]
    asked = endpoint.posted[-1]
    assert asked.path == "/v1/completions"
    assert (asked.body["prompt"], asked.body["seed"]) == ([5, 6, 7], 11)
    assert "do not fit" in error.message


async def test_a_vllm_that_tells_no_ids_is_asked_in_words() -> None:
    endpoint = Endpoint(models=[VLLM], answer=streams(piece("x", "length")))
    async with loaded(endpoint) as engine:
        assert not engine.capabilities.ids_in
        assert engine.capabilities.continuation == "none"


async def test_nothing_is_generated_where_it_costs_just_to_see() -> None:
    endpoint = Endpoint(models=[VLLM], answer=told_ids)
    async with loaded(endpoint, price_per_million_tokens=1.0) as engine:
        assert not engine.capabilities.ids_in
    assert endpoint.posted == []


async def test_what_the_operator_declares_counts() -> None:
    endpoint = Endpoint(answer=told_ids)
    async with loaded(endpoint, dialect="vllm", price_per_million_tokens=1.0) as engine:
        assert engine.capabilities.ids_in
    async with loaded(Endpoint(models=[VLLM]), dialect="openai") as engine:
        assert not engine.capabilities.ids_in
        assert not engine.capabilities.seed


async def test_without_a_tokenizer_there_are_no_ids() -> None:
    endpoint = Endpoint(models=[VLLM], answer=told_ids)
    async with loaded(endpoint, config={"eos_ids": ()}) as engine:
        assert not engine.capabilities.ids_in


async def test_a_schema_is_sent_in_the_words_of_the_server() -> None:
    schema = {"type": "object"}
    endpoint = Endpoint(models=[{"id": "chat", "owned_by": "llamacpp"}])
    async with loaded(endpoint) as engine:
        await answer(engine, chat(json_schema=json.dumps(schema)))
    assert endpoint.posted[0].body["json_schema"] == schema
    async with loaded(Endpoint(models=[{"id": "chat", "owned_by": "ovms"}])) as engine:
        assert not engine.capabilities.json_schema
        error = await failure(engine, chat(json_schema=json.dumps(schema)))
        assert not error.retryable
        assert engine.health() == ""


# -- loading -------------------------------------------------------------------------------------------------------


async def refusal(endpoint: Endpoint, *, model: str = "chat", **entry: Any) -> LoadFailed:
    engine = RemoteEngine(variables=named(endpoint, **entry))
    config = engine_config(model=model, endpoint=f"{endpoint.url}/v1")
    with pytest.raises(LoadFailed) as caught:
        await engine.load(config, lambda _: None)
    assert engine.health()
    await engine.close()
    return caught.value


@pytest.mark.parametrize(
    ("models", "says_", "mends"),
    [
        (says(200, "<html>"), "something else", "OpenAI address"),
        (says(200, '{"data": 7}'), "something else", "OpenAI address"),
        (says(401, ""), "status 401", "LAB_KEY"),
        (says(404, ""), "status 404", "address"),
        (says(503, ""), "status 503", ""),
        (says(302, "", location="http://127.0.0.1:9/v1/models"), "status 302", "where it leads"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "not HTTP", ""),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"), "", ""),
        (raw(b""), "", ""),
        ([{"id": "other"}], "does not offer chat", "it offers other"),
    ],
)
async def test_an_endpoint_that_cannot_be_used_says_why(
    models: Any, says_: str, mends: str
) -> None:
    async with serving(Endpoint(models=models)) as endpoint:
        error = await refusal(endpoint, api_key_env="LAB_KEY")
    assert error.message.startswith("lab")
    assert says_ in error.message
    assert mends in error.hint


async def test_nobody_listens() -> None:
    async with serving(Endpoint()) as endpoint:
        pass
    assert "could not be reached" in (await refusal(endpoint)).message


async def test_an_endpoint_that_nobody_named_is_refused_with_the_variable() -> None:
    engine = RemoteEngine(variables={"SHARDYARD_REMOTE": '[{"url": "https://a.example"}]'})
    with pytest.raises(LoadFailed, match=r"names no endpoint https://b\.example/v1") as caught:
        await engine.load(engine_config(endpoint="https://b.example/v1"), lambda _: None)
    assert "SHARDYARD_REMOTE" in caught.value.hint
    with pytest.raises(LoadFailed, match=r"names no endpoint http://a\.example"):
        await engine.load(engine_config(endpoint="http://a.example/v1"), lambda _: None)


async def test_a_password_in_an_address_is_not_repeated() -> None:
    engine = RemoteEngine(variables={"SHARDYARD_REMOTE": "[]"})
    with pytest.raises(LoadFailed, match="names no endpoint") as caught:
        await engine.load(engine_config(endpoint="https://me:hunter2@b.example/v1"), lambda _: None)
    assert "hunter2" not in caught.value.message


async def test_where_nothing_is_ever_served_no_leave_is_suggested() -> None:
    url = "http://169.254.169.254"
    entry = {"url": url, "name": "lab", "allow_private": True}
    engine = RemoteEngine(variables={"SHARDYARD_REMOTE": json.dumps([entry])})
    with pytest.raises(LoadFailed, match="cloud tells its secrets") as caught:
        await engine.load(engine_config(model="chat", endpoint=f"{url}/v1"), lambda _: None)
    assert "allow_private" not in caught.value.hint


async def test_a_key_that_is_missing_is_named_by_its_variable() -> None:
    async with serving(Endpoint()) as endpoint:
        error = await refusal(endpoint, api_key_env="OTHER_KEY")
    assert "OTHER_KEY holds no key" in error.message
    assert endpoint.asked == []


async def test_an_engine_that_is_not_loaded_says_so() -> None:
    engine = RemoteEngine(variables={})
    assert "not loaded" in engine.health()
    assert "not loaded" in (await failure(engine)).message
    await engine.close()
    await engine.close()


# -- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_an_address_of_this_machine_is_refused_by_number_and_by_name(host: str) -> None:
    async with serving(Endpoint()) as endpoint:
        url = endpoint.url.replace("127.0.0.1", host)
        entry = {"url": url, "name": "lab"}
        engine = RemoteEngine(variables={"SHARDYARD_REMOTE": json.dumps([entry])})
        with pytest.raises(LoadFailed, match="loopback") as caught:
            await engine.load(engine_config(model="chat", endpoint=f"{url}/v1"), lambda _: None)
    assert "allow_private" in caught.value.hint
    assert endpoint.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "169.254.7.7", "0.1.2.3", "198.18.0.1",
        "240.0.0.1", "::1", "fe80::1%eth0", "fd12::1", "fec0::1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:0a00:0001::",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_needs_leave(address: str) -> None:
    assert objection(address, allow_private=False)
    assert objection(address, allow_private=True) == ""


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "224.0.0.1", "ff02::1", "0.0.0.0", "::"],
)  # fmt: skip
def test_some_addresses_are_never_a_server(address: str) -> None:
    assert objection(address, allow_private=True)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8"])
def test_a_public_address_needs_none(address: str) -> None:
    assert objection(address, allow_private=False) == ""


def test_a_name_that_leads_elsewhere_later_makes_no_socket() -> None:
    def found(address: str) -> tuple[Any, ...]:
        return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))

    gate = Gate(allow_private=False)
    gate.socket(found("1.1.1.1")).close()
    assert not gate.private
    with pytest.raises(OSError, match=r"10\.0\.0\.1 is a private address"):
        gate.socket(found("10.0.0.1"))


def self_signed(folder: Path) -> ssl.SSLContext:
    """TLS with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.now(UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(today).not_valid_after(today + timedelta(days=1))
    certificate = made.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    place = folder / "server.pem"
    place.write_bytes(certificate.public_bytes(pem) + plain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place)
    return context


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    async with serving(Endpoint(), tls=self_signed(tmp_path)) as endpoint:
        assert "TLS failed" in (await refusal(endpoint, api_key_env="LAB_KEY")).message
    assert endpoint.asked == []


# -- a broken endpoint ---------------------------------------------------------------------------------------------


LINE = b"data: " + b"x" * 11_000_000
GZIP = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\n\x1f\x8b\x08"
SHORT = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 900\r\n\r\ndata: {"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (raw(b""), ""),
        (raw(b"garbage\r\n\r\n"), "not HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\n"), ""),
        (says(200, "<html></html>", content_type="text/html"), "text/html"),
        (says(200, '{"choices": []}'), "application/json"),
        (raw(STREAM_HEAD), "no finish reason"),
        (raw(STREAM_HEAD + b'data: {"choi'), "no finish reason"),
        (raw(STREAM_HEAD + b"data: <html>\n\n"), "not JSON"),
        (raw(STREAM_HEAD + b"data: " + b"[" * 100_000 + b"\n\n"), "not JSON"),
        (raw(STREAM_HEAD + b"data: [1]\n\n"), "list"),
        (raw(STREAM_HEAD + LINE), "bytes"),
        (raw(STREAM_HEAD + event(delta("x", "stop"))), "no [DONE]"),
        (raw(STREAM_HEAD + event(delta("x")) + event(DONE)), "without a finish reason"),
        (raw(GZIP), "compressed"),
        (raw(SHORT), "broke off"),
        (streams({"error": {"message": "out of memory", "code": 500}}), "out of memory"),
        (streams(delta("x", "tired")), "tired"),
        (says(307, "", location="http://127.0.0.1:9/"), "307"),
        (says(401, ""), "401"),
        (says(403, ""), "403"),
        (says(404, '{"error": {"message": "no such model"}}'), "no such model"),
        (says(500, "<html>"), "500"),
        (says(503, ""), "503"),
    ],
)
async def test_each_misbehaviour_fails_one_request_with_its_cause(
    given: Answer, expected: str
) -> None:
    endpoint = Endpoint(answer=given)
    async with loaded(endpoint) as engine:
        error = await failure(engine)
        assert engine.health() == "", "one failure is no illness"
        endpoint.answer = Endpoint().answer
        assert text(await answer(engine)) == "hello"
    assert error.message.startswith("lab")
    assert expected in error.message
    assert isinstance(error, RemoteFailed)
    assert error.retryable, "another replica may answer"
    assert MESSAGES[0]["content"] not in error.message


async def test_a_request_that_it_refuses_is_the_clients_fault() -> None:
    endpoint = Endpoint(answer=says(400, '{"error": {"message": "maximum context length"}}'))
    async with loaded(endpoint) as engine:
        for _ in range(FAILURES_IN_A_ROW):
            error = await failure(engine)
        assert engine.health() == ""
    assert "maximum context length" in error.message
    assert not error.retryable


async def test_many_failures_in_a_row_are_an_illness_and_one_answer_heals() -> None:
    endpoint = Endpoint(answer=says(500, ""))
    async with loaded(endpoint) as engine:
        for _ in range(FAILURES_IN_A_ROW):
            assert engine.health() == ""
            await failure(engine)
        assert "5 requests in a row failed" in engine.health()
        assert "500" in engine.health()
        endpoint.answer = Endpoint().answer
        await answer(engine)
        assert engine.health() == ""


async def test_an_endpoint_that_asks_for_a_pause_gets_one_and_is_not_ill() -> None:
    endpoint = Endpoint(answer=says(429, "", retry_after="30"))
    async with loaded(endpoint) as engine:
        first = await failure(engine)
        for _ in range(FAILURES_IN_A_ROW):
            later = await failure(engine)
        assert engine.health() == ""
    assert len(endpoint.posted) == 1
    assert first.retryable
    assert "takes no more requests for 30 s" in later.message


async def test_a_redirect_is_not_followed() -> None:
    async with serving(Endpoint()) as elsewhere:
        there = says(307, "", location=f"{elsewhere.url}/v1/chat/completions")
        async with loaded(Endpoint(answer=there)) as engine:
            error = await failure(engine)
        assert elsewhere.asked == []
    assert "where it leads" in error.hint


def silent(endpoint: Endpoint, before: bytes) -> Answer:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        await writer.drain()
        await endpoint.hold(asked)

    return answer


@pytest.mark.parametrize(
    "before",
    [
        b"", b"HTTP/1.1 200 OK\r\n", STREAM_HEAD, STREAM_HEAD + b": waiting\n\n" * 3, STREAM_HEAD + event(delta("x")),
    ],
)  # fmt: skip
async def test_silence_is_an_error_after_a_while(before: bytes) -> None:
    endpoint = Endpoint()
    endpoint.answer = silent(endpoint, before)
    async with loaded(endpoint, first_s=0.1, idle_s=0.1) as engine:
        error = await failure(engine)
        assert (await engine.stats()).running == 0
    assert "nothing came for 0.1 s" in error.message
    assert error.retryable


def flood(endpoint: Endpoint, unit: bytes) -> Answer:
    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for _ in range(100_000):
            writer.write(unit)
            await writer.drain()

    return answer


async def test_a_text_without_end_is_given_up() -> None:
    endpoint = Endpoint()
    endpoint.answer = flood(endpoint, event(delta("x" * 1000)))
    async with loaded(endpoint) as engine:
        assert "characters" in (await failure(engine)).message


async def test_signs_of_life_without_text_are_no_progress() -> None:
    endpoint = Endpoint()
    endpoint.answer = flood(endpoint, b": alive\n\n")
    async with loaded(endpoint, first_s=0.2) as engine:
        assert (await failure(engine)).retryable


# -- ends ----------------------------------------------------------------------------------------------------------


async def begun(endpoint: Endpoint) -> None:
    endpoint.answer = silent(endpoint, STREAM_HEAD + event(delta("x")))


async def test_leaving_a_stream_hangs_up() -> None:
    endpoint = Endpoint()
    await begun(endpoint)
    async with loaded(endpoint) as engine:
        async with aclosing(engine.generate(chat())) as chunks:
            assert (await anext(chunks)).text == "x"
            assert (await engine.stats()).running == 1
        await asyncio.wait_for(endpoint.left.wait(), 5)
        assert (await engine.stats()).running == 0
        assert engine.health() == ""


async def test_an_abort_ends_the_stream_and_hangs_up() -> None:
    endpoint = Endpoint()
    await begun(endpoint)
    async with loaded(endpoint) as engine:
        chunks = engine.generate(chat())
        await anext(chunks)
        await engine.abort("somebody else's")
        await engine.abort("r")
        assert [chunk.finish async for chunk in chunks] == ["abort"]
        await asyncio.wait_for(endpoint.left.wait(), 5)
        assert engine.observed().answers == 0


async def test_close_ends_what_runs() -> None:
    endpoint = Endpoint()
    await begun(endpoint)
    async with loaded(endpoint) as engine:
        chunks = engine.generate(chat())
        await anext(chunks)
        await engine.close()
        assert [chunk.finish async for chunk in chunks] == ["abort"]
        assert engine.processes() == ()
        assert engine.health()


async def test_many_at_once_do_not_mix() -> None:
    async def echo(asked: Asked, writer: asyncio.StreamWriter) -> None:
        words = asked.body["messages"][0]["content"].split()
        await streams(*map(delta, words), delta(finish="stop"))(asked, writer)

    async with loaded(Endpoint(answer=echo)) as engine:
        requests = [
            EngineRequest(
                id=f"r{n}", prompt_ids=(), sampling=Sampling(max_tokens=9), messages=({"role": "user", "content": f"a b{n} c"},)
            )
            for n in range(32)
        ]  # fmt: skip
        texts = await asyncio.gather(*[answer(engine, request) for request in requests])
    assert [text(chunks) for chunks in texts] == [f"ab{n}c" for n in range(32)]
