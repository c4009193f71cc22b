"""What every engine keeps of `actors.engine`, whichever side of a process border it runs on."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from actors.conformance.subject import Subject, generated, ids_of, said, until
from actors.engine import Chunk, Engine, EngineRequest
from actors.errors import EngineError, LoadFailed

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA = '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}'


def streaming(engine: Engine, request: EngineRequest) -> AsyncGenerator[Chunk, None]:
    return cast("AsyncGenerator[Chunk, None]", engine.generate(request))


async def test_it_says_what_it_can_do_and_is_well(subject: Subject, engine: Engine) -> None:
    can = engine.capabilities
    assert engine.health() == ""
    assert engine.name
    assert can.continuation in ("exact", "seeded", "coherent", "none")
    assert not (can.exact and not can.ids_out), "exact text that tells no ids cannot be continued"
    if can.window:
        assert can.window >= subject.config.window
    for process in engine.processes():
        assert Path(f"/proc/{process}").exists()


async def test_a_stream_ends_with_a_reason_and_only_its_last_chunk_has_one(
    subject: Subject, engine: Engine
) -> None:
    chunks = await generated(engine, subject.asked(engine, subject.request()))
    assert all(chunk.finish is None for chunk in chunks[:-1])
    assert chunks[-1].finish in ("stop", "length")
    assert said(chunks)
    assert not set(ids_of(chunks)) & set(subject.config.eos_ids)


async def test_tokens_come_one_after_another(subject: Subject, engine: Engine) -> None:
    request = subject.asked(engine, subject.request(max_tokens=64, ignore_eos=True))
    chunks = await generated(engine, request)
    assert len(chunks) > 2, "a stream that comes in one piece is none"


async def test_most_tokens_are_respected(subject: Subject, engine: Engine) -> None:
    for most in (1, 2, 17):
        request = subject.asked(engine, subject.request(max_tokens=most, ignore_eos=True))
        chunks = await generated(engine, request)
        if engine.capabilities.ids_out:
            assert len(ids_of(chunks)) == most
        assert chunks[-1].finish == "length"


async def test_usage_is_counted(subject: Subject, engine: Engine) -> None:
    if engine.capabilities.ids_out:
        pytest.skip("it tells ids, so the replica counts")
    chunks = await generated(engine, subject.asked(engine, subject.request(max_tokens=5)))
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens > 0
    assert 1 <= usage.completion_tokens <= 5


async def test_an_absurd_number_of_tokens_ends_with_the_window(
    subject: Subject, engine: Engine
) -> None:
    if not engine.capabilities.ids_in:
        pytest.skip("it takes no ids, so its server counts")
    prompt = subject.prompts[0]
    room = 8
    filled = prompt + prompt[-1:] * (subject.config.window - room - len(prompt))
    request = replace(subject.request(max_tokens=10**9, ignore_eos=True), prompt_ids=filled)
    chunks = await generated(engine, request)
    assert (len(ids_of(chunks)), chunks[-1].finish) == (room, "length")


async def test_a_prompt_beyond_the_window_is_an_error_of_its_own(
    subject: Subject, engine: Engine
) -> None:
    if not engine.capabilities.ids_in:
        pytest.skip("it takes no ids, so its server counts")
    prompt = subject.prompts[0]
    too_long = prompt + prompt[-1:] * subject.config.window
    with pytest.raises(EngineError):
        await generated(engine, replace(subject.request(), prompt_ids=too_long))
    assert said(await generated(engine, subject.asked(engine, subject.request())))
    assert engine.health() == ""


async def test_the_same_prompt_gives_the_same_text_alone_and_in_a_batch(
    subject: Subject, engine: Engine
) -> None:
    if not engine.capabilities.exact:
        pytest.skip("its arithmetic is not exact")
    alone = await generated(engine, subject.request())
    requests = [subject.request(n) for n in range(8)]
    together = await asyncio.gather(*[generated(engine, r) for r in requests])
    assert said(together[0]) == said(alone)


async def test_a_text_goes_on_exactly(subject: Subject, engine: Engine) -> None:
    if engine.capabilities.continuation != "exact":
        pytest.skip(f"it continues {engine.capabilities.continuation}")
    whole = ids_of(await generated(engine, subject.request(max_tokens=24)))
    for cut in (1, len(whole) // 2, len(whole) - 1):
        resumed = subject.request(more=whole[:cut], max_tokens=24 - cut)
        assert ids_of(await generated(engine, resumed)) == whole[cut:]


async def test_a_seed_repeats_a_text(subject: Subject, engine: Engine) -> None:
    if not engine.capabilities.seed:
        pytest.skip("it has no seed")
    requests = [
        subject.asked(engine, subject.request(temperature=0.9, seed=7, max_tokens=16))
        for _ in range(2)
    ]
    first, second = [said(await generated(engine, r)) for r in requests]
    assert first == second


async def test_a_schema_is_kept_to(subject: Subject, engine: Engine) -> None:
    if not engine.capabilities.json_schema:
        pytest.skip("it cannot be held to a schema")
    request = subject.asked(engine, subject.request(json_schema=SCHEMA, max_tokens=40))
    chunks = await generated(engine, request)
    text = "".join(chunk.text or "" for chunk in chunks)
    if not text and not subject.texts:
        pytest.skip("nothing here turns its ids into text")
    if not text:
        from actors.text import TextModel

        detokenizer = TextModel.load(subject.config.model_path).detokenizer()
        text = detokenizer.push(ids_of(chunks)) + detokenizer.finish()
    if chunks[-1].finish == "stop":
        assert isinstance(json.loads(text)["n"], int)
    else:
        assert text.lstrip().startswith("{")


async def test_leaving_a_stream_frees_its_place(subject: Subject, engine: Engine) -> None:
    for turn in range(2):
        streams = [
            streaming(
                engine,
                subject.asked(
                    engine, subject.request(4 * turn + n, max_tokens=200, ignore_eos=True)
                ),
            )
            for n in range(4)
        ]
        for stream in streams:
            await anext(stream)
        for stream in streams:
            await stream.aclose()
    assert said(await generated(engine, subject.asked(engine, subject.request())))
    await _comes_to_rest(engine)


async def test_cancelling_the_task_frees_its_place(subject: Subject, engine: Engine) -> None:
    started = asyncio.Event()

    async def take(number: int) -> None:
        request = subject.asked(engine, subject.request(number, max_tokens=200, ignore_eos=True))
        async with aclosing(streaming(engine, request)) as chunks:
            async for _ in chunks:
                started.set()

    tasks = [asyncio.create_task(take(n)) for n in range(4)]
    await started.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await _comes_to_rest(engine)


async def test_an_abort_ends_its_own_sequence_only(subject: Subject, engine: Engine) -> None:
    first = replace(subject.request(max_tokens=200, ignore_eos=True), id="first")
    second = replace(subject.request(1, max_tokens=12, ignore_eos=True), id="second")
    one = streaming(engine, subject.asked(engine, first))
    other = asyncio.create_task(generated(engine, subject.asked(engine, second, 1)))
    await anext(one)
    await engine.abort("nobody")
    await engine.abort("first")
    async with asyncio.timeout(30):
        rest = [chunk async for chunk in one]
    assert rest[-1].finish == "abort"
    assert (await other)[-1].finish == "length"
    await _comes_to_rest(engine)


async def test_more_than_fit_are_all_served(subject: Subject, engine: Engine) -> None:
    requests = [
        subject.asked(engine, subject.request(n, max_tokens=8), n)
        for n in range(3 * subject.config.max_sequences)
    ]
    results = await asyncio.gather(*[generated(engine, r) for r in requests])
    assert all(chunks[-1].finish in ("stop", "length") for chunks in results)


async def test_close_leaves_no_process_and_no_descriptor(subject: Subject, engine: Engine) -> None:
    """With the engine of the other tests loaded beside it, as two replicas of one node are."""
    del engine
    before = len(os.listdir("/proc/self/fd"))
    made = subject.make()
    async with asyncio.timeout(subject.load_s):
        await made.load(subject.config, lambda _: None)
    processes = made.processes()
    running = streaming(made, subject.asked(made, subject.request(max_tokens=200, ignore_eos=True)))
    await anext(running)
    async with asyncio.timeout(30):
        await made.close()
        await made.close()
    await running.aclose()
    assert made.health()
    await until(lambda: not any(Path(f"/proc/{n}").exists() for n in processes))
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_model_that_is_not_there_is_refused_with_a_hint(subject: Subject) -> None:
    if not subject.config.model_path:
        pytest.skip("it reads no model")
    made = subject.make()
    try:
        with pytest.raises(LoadFailed) as refused:
            async with asyncio.timeout(subject.load_s):
                await made.load(
                    replace(subject.config, model_path="/nonexistent/model"), lambda _: None
                )
        assert refused.value.hint
        assert not any(Path(f"/proc/{n}").exists() for n in made.processes())
    finally:
        await made.close()


async def _comes_to_rest(engine: Engine) -> None:
    async def load() -> Any:
        stats = await engine.stats()
        return stats.running, stats.waiting

    async with asyncio.timeout(10):
        while await load() != (0, 0):
            await asyncio.sleep(0.05)
