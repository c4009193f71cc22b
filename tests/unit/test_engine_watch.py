"""An engine whose process lives and that does not answer is found, busy or idle, and its replica ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.dataplane import PACE, ByteText, ScriptedEngine

from actors.engine import Capabilities, Chunk, EngineRequest
from actors.engine_watch import EngineWatch, prove
from actors.errors import EngineError, LoadFailed
from actors.memory_watch import MemoryWatch
from actors.pulse import LEAST_S, Pulse


class GreyEngine(ScriptedEngine):
    """Accepts and never answers."""

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        await asyncio.Event().wait()
        yield Chunk(())


class SilentEngine(ScriptedEngine):
    """Ends every text before it begins."""

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        yield Chunk((), "stop")


def a_watch(
    engine: ScriptedEngine, pulse: Pulse, **changes: float
) -> tuple[EngineWatch, list[str]]:
    told: list[str] = []
    watch = EngineWatch(
        engine,
        ByteText(),
        pulse,
        MemoryWatch(lambda: (), 0),
        on_sick=told.append,
        on_detail=lambda _: None,
        look_s=0.001,
        **changes,
    )
    return watch, told


async def test_an_engine_that_generates_nothing_is_not_proved() -> None:
    await prove(ScriptedEngine(), ByteText())
    with pytest.raises(LoadFailed, match="no token"):
        await prove(SilentEngine(), ByteText())
    with pytest.raises(LoadFailed, match="no token after"):
        await prove(GreyEngine(), ByteText(), 0.01)


class EndlessEngine(ScriptedEngine):
    """Ends no text, whatever was asked."""

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        while True:
            await asyncio.sleep(0)
            yield Chunk((65,))


async def test_an_engine_that_ends_no_text_is_not_proved() -> None:
    with pytest.raises(LoadFailed, match="does not end its text"):
        await prove(EndlessEngine(), ByteText(), 5)


async def test_an_engine_that_stalls_at_work_is_sick() -> None:
    pulse = Pulse(PACE)
    watch, told = a_watch(ScriptedEngine(), pulse)
    pulse.begins("a", 10, asyncio.get_running_loop().time() - LEAST_S - 1)
    await asyncio.wait_for(watch.run(), 5)
    assert "has not moved" in told[0]


async def test_an_idle_engine_that_does_not_answer_is_sick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.engine_watch.IDLE_PROOF_TIMEOUT_S", 0.01)
    watch, told = a_watch(GreyEngine(), Pulse(PACE), idle_proof_s=0.0)
    await asyncio.wait_for(watch.run(), 5)
    assert "does not answer any more" in told[0]


async def test_an_idle_engine_that_answers_stays() -> None:
    engine = ScriptedEngine()
    watch, told = a_watch(engine, Pulse(PACE), idle_proof_s=0.0)
    running = asyncio.create_task(watch.run())
    done, _ = await asyncio.wait({running}, timeout=0.1)
    assert not done
    assert told == []
    running.cancel()


async def test_nothing_is_bought_just_to_see_that_an_endpoint_is_well() -> None:
    engine = GreyEngine(capabilities=Capabilities(metered=True))
    watch, _ = a_watch(engine, Pulse(PACE), idle_proof_s=0.0)
    running = asyncio.create_task(watch.run())
    await asyncio.wait({running}, timeout=0.05)
    assert engine.requests == []
    running.cancel()


async def test_a_failing_proof_of_an_idle_engine_is_told() -> None:
    class Failing(ScriptedEngine):
        async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
            raise EngineError("out of memory")
            yield Chunk(())

    watch, told = a_watch(Failing(), Pulse(PACE), idle_proof_s=0.0)
    await asyncio.wait_for(watch.run(), 5)
    assert "out of memory" in told[0]


class Odd(ScriptedEngine):
    """Raises what no engine should."""

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        raise KeyError("no such slot")
        yield Chunk(())


async def test_a_proof_that_ends_in_any_other_error_is_told_too() -> None:
    watch, told = a_watch(Odd(), Pulse(PACE), idle_proof_s=0.0)
    await asyncio.wait_for(watch.run(), 5)
    assert "KeyError" in told[0]


async def test_an_engine_that_cannot_name_its_processes_is_watched_nonetheless() -> None:
    def processes() -> tuple[int, ...]:
        raise PermissionError("/proc")

    pulse, told = Pulse(PACE), list[str]()
    watch = EngineWatch(
        ScriptedEngine(),
        ByteText(),
        pulse,
        MemoryWatch(processes, 1),
        on_sick=told.append,
        on_detail=lambda _: None,
        look_s=0.001,
    )
    running = asyncio.create_task(watch.run())
    await asyncio.wait({running}, timeout=0.05)
    pulse.begins("a", 10, asyncio.get_running_loop().time() - LEAST_S - 1)
    await asyncio.wait_for(running, 5)
    assert "has not moved" in told[0]
