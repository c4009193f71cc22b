"""The official client, unchanged, against the gateway."""

from __future__ import annotations

import openai
import pytest
from support.dataplane import MODEL, ScriptedEngine, dataplane

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def pair():
    async with (
        dataplane(ScriptedEngine("Hello!")) as plane,
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{plane.port}/v1", api_key="x", max_retries=0
        ) as client,
    ):
        yield plane, client


async def test_chat_streams_completions_and_models(pair) -> None:
    _, client = pair
    whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert whole.choices[0].message.content == "Hello!"
    assert whole._request_id
    stream = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello!"
    assert chunks[-1].usage.completion_tokens == 6
    text = await client.completions.create(model=MODEL, prompt="hi", max_tokens=3)
    assert (text.choices[0].text, text.choices[0].finish_reason) == ("Hel", "length")
    assert [model.id async for model in await client.models.list()] == [MODEL]


async def test_errors_are_the_clients_own_classes(pair) -> None:
    _, client = pair
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="none", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=9)
    assert bad.value.param == "temperature"


async def test_a_broken_stream_raises_and_is_no_success() -> None:
    engine = ScriptedEngine("Hello!", paced=True)
    async with (
        dataplane(engine) as plane,
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{plane.port}/v1", api_key="x", max_retries=0
        ) as client,
    ):
        await engine.step()
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        chunks = aiter(stream)
        await anext(chunks)
        await engine.crash()
        with pytest.raises(openai.APIError):
            async for _ in chunks:
                pass
