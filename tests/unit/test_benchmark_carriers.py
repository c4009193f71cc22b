"""The benchmark of the carriers sees what is left behind, and judges by its targets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engines import engine_config
from support.servers import server_engine

from actors.engine import Chunk, EngineRequest
from benchmarks.carrier_cases import door_of
from benchmarks.carrier_cycles import MARK, cycles
from benchmarks.carriers import judged


class Leaky:
    """Leaves a process, a descriptor and a file behind at each life."""

    name = "leaky"

    def __init__(self, kept: list[Any], folder: Path) -> None:
        self._kept = kept
        self._folder = folder

    async def load(self, *_: object) -> None:
        pass

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        command = [sys.executable, "-S", "-c", "input()"]
        left = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: ASYNC220 - starts at once
        self._kept.append(left)
        Path(tempfile.mkstemp(dir=self._folder)[1]).write_text("left")
        yield Chunk((1,), "length")

    def processes(self) -> tuple[int, ...]:
        return ()

    async def close(self) -> None:
        pass


@pytest.fixture
def kept() -> Iterator[list[Any]]:
    started: list[Any] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


async def test_what_an_engine_leaves_behind_is_counted(
    kept: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, "leaky")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = await cycles(lambda: Leaky(kept, tmp_path), engine_config(), 3, 1)  # type: ignore[arg-type]
    assert found["grown"]["processes"] == 3
    assert found["grown"]["descriptors"] >= 3
    assert found["grown"]["files"] == 3
    assert not found["clean"]


async def test_the_door_of_a_running_server_is_found() -> None:
    engine = server_engine()
    await engine.load(engine_config(model="m"), lambda _: None)
    try:
        door, served = door_of(engine.processes())
        assert served.startswith("m-")
        _, writer = await asyncio.open_unix_connection(door)
        writer.close()
    finally:
        await engine.close()
    with pytest.raises(RuntimeError, match="no server among"):
        door_of(())


def an_outcome(worker: float, server: float, freed_ms: float) -> dict[str, Any]:
    def engine(ratio: float) -> dict[str, Any]:
        return {
            "streams": {"1": {"ratio": {"median": ratio}}},
            "abort": {"8": {"median": freed_ms}},
        }

    return {"engines": {"openvino": engine(worker), "vllm": engine(server)}}


@pytest.mark.parametrize(
    ("worker", "server", "freed_ms", "met"),
    [(0.95, 0.92, 100, True), (0.94, 0.92, 100, False), (0.95, 0.91, 9, False), (1, 1, 101, False)],
)
def test_each_target_counts(worker: float, server: float, freed_ms: float, met: bool) -> None:
    assert judged(an_outcome(worker, server, freed_ms))["met"] is met
