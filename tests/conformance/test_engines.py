"""What every engine keeps of `actors.engine`, whichever side of a process border it runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from support.engines import engine_config, engine_request, generated

from actors.engine import Engine
from actors.errors import EngineError
from actors.plugins import make_engine
from actors.worker import WorkerEngine

ENGINES = {
    "emulated": lambda: make_engine("emulated"),
    "worker": lambda: WorkerEngine("worker", "support.engines:BatchStepper"),
}


@pytest.fixture(params=sorted(ENGINES))
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    engine = ENGINES[request.param]()
    progress: list[float] = []
    assert not engine.alive()
    await engine.load(engine_config(max_sequences=4, window=512), progress.append)
    assert engine.alive()
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    yield engine
    await engine.close()
    assert not engine.alive()


async def test_a_text_ends_without_its_end_id(engine: Engine) -> None:
    ids, finish = await generated(engine, engine_request())
    assert finish == "stop"
    assert ids
    assert 2 not in ids


async def test_the_same_prompt_gives_the_same_text_alone_and_in_a_batch(engine: Engine) -> None:
    alone = await generated(engine, engine_request())
    others = [engine_request((n, 40, 50)) for n in range(7)]
    together = await asyncio.gather(*[generated(engine, r) for r in (engine_request(), *others)])
    assert together[0] == alone


async def test_a_text_goes_on_exactly(engine: Engine) -> None:
    whole, finish = await generated(engine, engine_request())
    for cut in (1, 2, len(whole) // 2, len(whole) - 1, len(whole)):
        resumed = engine_request((11, 12, 13, *whole[:cut]))
        assert await generated(engine, resumed) == (whole[cut:], finish)


async def test_most_tokens_are_respected(engine: Engine) -> None:
    for most in (1, 2, 17):
        ids, finish = await generated(engine, engine_request(max_tokens=most, ignore_eos=True))
        assert (len(ids), finish) == (most, "length")


async def test_an_absurd_number_of_tokens_ends_with_the_window(engine: Engine) -> None:
    ids, finish = await generated(engine, engine_request(max_tokens=10**9, ignore_eos=True))
    assert (len(ids), finish) == (512 - 3, "length")


async def test_a_prompt_beyond_the_window_is_an_error_of_its_own(engine: Engine) -> None:
    with pytest.raises(EngineError, match="do not fit"):
        await generated(engine, engine_request(tuple(range(512))))
    assert (await generated(engine, engine_request()))[1] == "stop"


async def test_leaving_a_stream_frees_its_place(engine: Engine) -> None:
    for _ in range(3):
        streams = [engine.generate(engine_request((n,), ignore_eos=True)) for n in range(4)]
        for stream in streams:
            await anext(stream)
        for stream in streams:
            await stream.aclose()
    assert (await generated(engine, engine_request()))[1] == "stop"
    stats = await engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)


async def test_cancelling_the_task_frees_its_place(engine: Engine) -> None:
    started = asyncio.Event()

    async def take() -> None:
        async with aclosing(engine.generate(engine_request(ignore_eos=True))) as chunks:
            async for _ in chunks:
                started.set()

    tasks = [asyncio.create_task(take()) for _ in range(4)]
    await started.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await generated(engine, engine_request()))[1] == "stop"


async def test_more_than_fit_are_all_served(engine: Engine) -> None:
    requests = [engine_request((n, 9), max_tokens=20) for n in range(12)]
    results = await asyncio.gather(*[generated(engine, r) for r in requests])
    assert all(1 <= len(ids) <= 20 for ids, _ in results)
