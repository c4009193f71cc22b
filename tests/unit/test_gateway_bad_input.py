"""Every bad input gets its status, its code and the field concerned; the engine never sees it."""

from __future__ import annotations

import asyncio
import json

import pytest
import pytest_asyncio
from support.dataplane import MODEL, WINDOW, ScriptedEngine, chat_body, dataplane

JSON = {"content-type": "application/json"}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane():
    async with dataplane(ScriptedEngine(), largest_body=200_000) as plane:
        yield plane
        assert plane.engines[0].requests == []


async def expect(plane, response, status: int, code: str, param: str | None = None) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"42",
        b"null",
        b'"x"',
        b'{"temperature": NaN}',
        b'{"anything": Infinity}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 30_000,
    ],
)
async def test_what_is_no_json_object_is_400(plane, raw: bytes) -> None:
    response = await plane.client.post("/v1/chat/completions", content=raw, headers=JSON)
    await expect(plane, response, 400, "invalid_json")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ""}, "stop[0]"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ["x" * 5000]}, "stop[0]"),
        ({"stop": 5}, "stop"),
        ({"n": 0}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}] * 10_001}, "messages"),
    ],
)
async def test_a_bad_value_names_its_field(plane, fields, param) -> None:
    response = await plane.client.post("/v1/chat/completions", json=chat_body() | fields)
    await expect(plane, response, 400, "invalid_value", param)


@pytest.mark.parametrize("missing", ["model", "messages"])
async def test_a_missing_field_is_named(plane, missing) -> None:
    body = chat_body()
    del body[missing]
    response = await plane.client.post("/v1/chat/completions", json=body)
    await expect(plane, response, 400, "missing_required_parameter", missing)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"tools": [{"type": "function"}]},
        {"functions": [{}]},
        {"tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        {"logit_bias": {"1": 5}},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -1},
        {"modalities": ["text", "audio"]},
    ],
)
async def test_what_is_not_supported_yet_is_named(plane, fields) -> None:
    response = await plane.chat(**fields)
    await expect(plane, response, 400, "unsupported_parameter", next(iter(fields)))


@pytest.mark.parametrize(
    "fields",
    [{"echo": True}, {"suffix": "x"}, {"best_of": 2}, {"logprobs": 0}, {"prompt": ["a", "b"]}],
)
async def test_completions_name_theirs(plane, fields) -> None:
    body = {"model": MODEL, "prompt": "x"} | fields
    response = await plane.client.post("/v1/completions", json=body)
    await expect(plane, response, 400, "unsupported_parameter", next(iter(fields)))


@pytest.mark.parametrize("prompt", ["", [], [999], [-1], None, 5, [1.5], [True], [[1], ["a"]]])
async def test_prompts_that_are_none_are_refused(plane, prompt) -> None:
    response = await plane.client.post("/v1/completions", json={"model": MODEL, "prompt": prompt})
    await expect(plane, response, 400, "invalid_value", "prompt")


async def test_images_are_refused_by_the_message_that_has_them(plane) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    body = chat_body() | {"messages": [{"role": "user", "content": [image]}]}
    response = await plane.client.post("/v1/chat/completions", json=body)
    await expect(plane, response, 400, "unsupported_parameter", "messages[0].content")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_beyond_the_window_says_both_numbers(plane, stream) -> None:
    response = await plane.chat("x" * 5000, stream=stream)
    await expect(plane, response, 400, "context_length_exceeded", "messages")
    assert str(WINDOW) in response.text
    assert "5007" in response.text


@pytest.mark.parametrize("model", ["tinny", "../../etc/passwd", "x" * 10_000])
async def test_an_unknown_model_is_404(plane, model) -> None:
    response = await plane.chat(model=model)
    await expect(plane, response, 404, "model_not_found", "model")
    assert len(response.text) < 500


async def test_transport_level_mistakes_have_openai_bodies(plane) -> None:
    post = plane.client.post
    form = await post("/v1/chat/completions", data={"model": MODEL})
    await expect(plane, form, 415, "unsupported_media_type")
    zipped = await post(
        "/v1/chat/completions", content=b"x", headers=JSON | {"content-encoding": "gzip"}
    )
    await expect(plane, zipped, 415, "unsupported_media_type")
    big = await post("/v1/chat/completions", content=b" " * 300_000, headers=JSON)
    await expect(plane, big, 413, "body_too_large")
    await expect(plane, await plane.client.get("/v1/chat/completions"), 405, "method_not_supported")
    for path in ("/", "/v2", "/v1/../admin", "//v1/models", "/v1/chat/completions/"):
        await expect(plane, await plane.client.get(path), 404, "unknown_url")
    allowed = await plane.client.get("/v1/completions")
    assert allowed.headers["allow"] == "POST"


async def test_a_body_that_grows_too_large_is_stopped_while_it_is_read(plane) -> None:
    async def endless():
        for _ in range(1000):
            yield b" " * 10_000

    response = await plane.client.post("/v1/chat/completions", content=endless(), headers=JSON)
    await expect(plane, response, 413, "body_too_large")


async def test_error_texts_repeat_no_prompt(plane) -> None:
    response = await plane.chat("a secret", temperature="a secret")
    assert "secret" not in response.text


async def test_control_characters_in_header_and_prompt_do_no_harm() -> None:
    async with dataplane(ScriptedEngine()) as plane:
        assert (await plane.chat("a\0b")).status_code == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        writer.write(b"NONSENSE\r\n\r\n")
        assert (await reader.read(100)).startswith(b"HTTP/1.1 400")
        writer.close()


@pytest.mark.parametrize("absurd", [10**30, 1e30])
async def test_an_absurd_max_tokens_is_clamped_and_never_allocated(absurd: float) -> None:
    async with dataplane(ScriptedEngine()) as plane:
        assert (await plane.chat(max_tokens=absurd)).status_code == 200
        assert plane.engines[0].requests[0].sampling.max_tokens == WINDOW - 9
        digits = json.dumps(chat_body()).replace("{", '{"max_tokens": 1' + "0" * 5000 + ", ", 1)
        response = await plane.client.post("/v1/chat/completions", content=digits, headers=JSON)
        assert response.status_code in (200, 400)


async def test_duplicate_keys_count_last() -> None:
    async with dataplane(ScriptedEngine()) as plane:
        raw = b'{"model": "none", "messages": [{"role": "user", "content": "x"}], "model": "tiny"}'
        response = await plane.client.post("/v1/chat/completions", content=raw, headers=JSON)
        assert response.status_code == 200
