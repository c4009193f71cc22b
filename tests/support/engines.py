"""Engines for tests: a clock that never waits, a configuration, and steppers that a worker process can host."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any, ClassVar

from actors.engine import (
    Capabilities,
    Chunk,
    Engine,
    EngineConfig,
    EngineRequest,
    EngineStats,
    Sampling,
)
from actors.engines.emulated import Batch
from actors.errors import LoadFailed
from actors.worker.stepper import Row
from placement.modelspec import ModelFacts

FACTS = ModelFacts(
    parameters=1e6, layers=2, hidden=8, heads=4, kv_heads=2, head_dim=2, ffn=16, vocab=4000,
    window=4096, architecture="llama",
)  # fmt: skip
CRASH_ID = 3999
"""A prompt that begins with this id makes `BatchStepper` kill its own process in the next step."""


def engine_config(**changes: Any) -> EngineConfig:
    """A small configuration; `changes` are fields of `EngineConfig`."""
    fields: dict[str, Any] = {
        "model_path": "", "facts": FACTS, "device_class": "CPU_X", "arithmetic": "exact",
        "window": 1024, "max_sequences": 8, "kv_bytes": 1 << 20, "threads": 1, "eos_ids": (2,),
        "word_ids": tuple(range(300, 1800)),
    }  # fmt: skip
    return EngineConfig(**fields | changes)


def engine_request(prompt_ids: tuple[int, ...] = (11, 12, 13), **sampling: Any) -> EngineRequest:
    """A request; `sampling` are fields of `Sampling`."""
    return EngineRequest(
        id="r", prompt_ids=prompt_ids, sampling=Sampling(**{"max_tokens": 1000} | sampling)
    )


async def generated(engine: Engine, request: EngineRequest) -> tuple[tuple[int, ...], str | None]:
    """All ids of a request and how it ended."""
    chunks: list[Chunk] = [chunk async for chunk in engine.generate(request)]
    assert all(chunk.finish is None for chunk in chunks[:-1])
    return tuple(n for chunk in chunks for n in chunk.ids), chunks[-1].finish


class VirtualClock:
    """Time that passes only when somebody sleeps, and then at once."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep_until(self, when: float) -> None:
        for _ in range(4):  # whoever was given something sees the time at which it was given
            await asyncio.sleep(0)
        self.time = max(self.time, when)


class BatchStepper:
    """The emulated engine's batch without its pace, as a native engine would be hosted."""

    name: ClassVar[str] = "batch"
    requires: ClassVar[tuple[str, ...]] = ()
    environment: ClassVar[str] = ""

    def __init__(self) -> None:
        self._batch: Batch | None = None

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        progress(0.5)
        self._batch = Batch(config)
        self._can = Capabilities(
            window=config.window, sequences=config.max_sequences, exact=True, continuation="exact"
        )
        progress(1.0)

    def capabilities(self) -> Capabilities:
        return self._can

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        assert self._batch is not None
        if prompt_ids[:1] == (CRASH_ID,):
            os.kill(os.getpid(), signal.SIGKILL)
        self._batch.add(sequence, prompt_ids, sampling)

    def abort(self, sequence: int) -> None:
        assert self._batch is not None
        self._batch.abort(sequence)

    def busy(self) -> bool:
        return self._batch is not None and self._batch.busy()

    def step(self) -> list[Row]:
        assert self._batch is not None
        return self._batch.step().rows

    def stats(self) -> EngineStats:
        assert self._batch is not None
        return self._batch.stats()


class PacedStepper(BatchStepper):
    """Its steps take a moment, as those of every real engine do."""

    def step(self) -> list[Row]:
        time.sleep(0.001)
        return super().step()


class BrokenLoadStepper(BatchStepper):
    """A native engine that cannot load."""

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        raise LoadFailed("the weights are torn", hint="fetch them again")


class RaisingLoadStepper(BatchStepper):
    """A native engine whose library raises something of its own."""

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        raise RuntimeError("device is on fire\nwith details")


class DyingLoadStepper(BatchStepper):
    """A native engine that takes its process down while it loads."""

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        os.write(2, b"terminate called after throwing\n")
        os._exit(3)


class StuckLoadStepper(BatchStepper):
    """A native engine that never finishes loading and does not listen."""

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        progress(0.5)
        signal.pause()


class EndlessStepper(BatchStepper):
    """Gives every sequence one id per step for ever, whatever was asked."""

    def __init__(self) -> None:
        super().__init__()
        self._sequences: set[int] = set()

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        self._sequences.add(sequence)

    def abort(self, sequence: int) -> None:
        self._sequences.discard(sequence)

    def busy(self) -> bool:
        return bool(self._sequences)

    def step(self) -> list[Row]:
        return [Row(n, (5,)) for n in self._sequences]

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self._sequences))


class FailingRowStepper(EndlessStepper):
    """Fails the sequence itself in its first step and goes on."""

    def step(self) -> list[Row]:
        rows = [Row(n, (), error="out of KV memory") for n in self._sequences]
        self._sequences.clear()
        return rows


class GatedStepper(EndlessStepper):
    """Each step waits for a byte from the pipe at the path of the model."""

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        self._gate = os.open(config.model_path, os.O_RDWR)
        super().load(config, progress)

    def step(self) -> list[Row]:
        os.read(self._gate, 1)
        return super().step()
