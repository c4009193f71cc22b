"""One process of an engine's group on another node: started with what its node knows, watched, and ended whole."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from support.engines import engine_config
from support.servers import alive, folders, until

from actors.errors import LoadFailed
from actors.server.node_group import Peer
from actors.server.peer import PeerOrder, PeerProcess, command
from actors.server.spec import Ending

SLEEPS = "import os, sys, time; print(os.environ['MEETS'], flush=True); time.sleep(60)"


def an_order(code: str = SLEEPS, **changes: object) -> PeerOrder:
    peer = Peer(
        host="10.0.0.2",
        handles=("GPU-7",),
        argv=("{python}", "-c", code, "{model}"),
        variables={"MEETS": "10.0.0.1:99", "EMPTY": ""},
    )
    config = engine_config(model_path="/models/m", family="nvidia", owner="peers")
    fields = {"engine": "e", "environment": "", "peer": peer, "config": config} | changes
    return PeerOrder(**fields)


def test_its_command_gets_what_only_its_node_knows() -> None:
    words = command(an_order(), Path("/envs/e/bin/python"))
    assert words == ("/envs/e/bin/python", "-c", SLEEPS, "/models/m")


async def started(process: PeerProcess) -> tuple[int, ...]:
    await until(lambda: process.server_pid is not None)
    return process.processes()


async def test_it_sees_its_own_devices_and_ends_whole() -> None:
    before = folders()
    process = PeerProcess(an_order())
    pids = await started(process)
    rows = Path(f"/proc/{process.server_pid}/environ").read_bytes().decode().split("\0")
    got = dict(row.split("=", 1) for row in rows if row)
    assert got["CUDA_VISIBLE_DEVICES"] == "GPU-7"
    assert got["MEETS"] == "10.0.0.1:99"
    assert "EMPTY" not in got
    await process.end()
    await process.end()
    assert alive(pids) == []
    assert folders() == before


async def test_its_end_is_told_with_what_it_means() -> None:
    endings = (Ending(status=-9, reason="somebody killed it", hint="look who"),)
    process = PeerProcess(an_order(endings=endings))
    await started(process)
    assert process.server_pid is not None
    os.kill(process.server_pid, signal.SIGKILL)
    why = await asyncio.wait_for(process.ended(), 20)
    assert "10.0.0.2" in why
    assert "somebody killed it" in why


async def test_one_that_dies_at_once_says_what_it_said() -> None:
    process = PeerProcess(an_order("raise SystemExit('no such fabric')"))
    assert "no such fabric" in await asyncio.wait_for(process.ended(), 20)


async def test_a_node_without_the_environment_says_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDYARD_ENVS", str(tmp_path))
    with pytest.raises(LoadFailed) as refused:
        PeerProcess(an_order(environment="vllm"))
    assert refused.value.hint == "shardyard env create vllm"


def test_this_interpreter_is_the_one_of_no_environment() -> None:
    assert command(an_order(), Path(sys.executable))[0] == sys.executable
