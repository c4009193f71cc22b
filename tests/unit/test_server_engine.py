"""A supervised server as an engine: starts that fail, faults while it serves, and ends that leave nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.engines import engine_config, engine_request, generated
from support.servers import (
    StandIn,
    ToldInText,
    alive,
    directory_of,
    entries,
    environment_of,
    folders,
    segment_of,
    server_engine,
    status_kib,
    until,
)

from actors import orphans
from actors.engine import Chunk, Engine, EngineRequest, Sampling
from actors.errors import EngineCrashed, EngineError, LoadFailed
from actors.openai.events import Unreachable
from actors.process_tree import below, everybody
from actors.server.engine import UNREACHED_IN_A_ROW, ServerEngine
from actors.server.listeners import listeners


@asynccontextmanager
async def serving(fault: str = "", **options: Any) -> AsyncIterator[ServerEngine]:
    others = folders()
    engine = server_engine(fault, **options)
    await engine.load(engine_config(window=512, max_sequences=4), lambda _: None)
    pids, own = engine.processes(), folders() - others
    assert own
    try:
        yield engine
    finally:
        await engine.close()
        assert alive(pids) == []
        assert not folders() & own


async def refused(fault: str, **options: Any) -> LoadFailed:
    """Why a load failed; nothing may be left."""
    before = set(everybody())
    engine = server_engine(fault, **options)
    with pytest.raises(LoadFailed) as caught:
        await engine.load(engine_config(window=512), lambda _: None)
    assert [pid for pid in below([os.getpid()], everybody()) if pid not in before] == []
    assert folders() == set()
    assert engine.processes() == ()
    assert engine.health()
    return caught.value


# -- starts ---------------------------------------------------------------------------------------------------------


async def test_a_missing_environment_names_the_command_that_builds_it() -> None:
    engine = ServerEngine(StandIn(), find=lambda _: None)
    with pytest.raises(LoadFailed, match=r"'stand-in' .* is not built") as caught:
        await engine.load(engine_config(), lambda _: None)
    assert caught.value.hint == "shardyard env create stand-in"


@pytest.mark.parametrize(
    ("fault", "message", "hint"),
    [
        (
            "die-at-start",
            r"the weights are torn \(status 3\): ValueError: the weights",
            "fetch them",
        ),
        ("die-at-first", r"a worker died \(status 70\): worker 0", "look at the worker"),
        ("out-of-memory", r"killed, most likely for want of memory \(signal SIGKILL\)", "memory"),
        ("wrong-name", r"serves 'other' in place of 'model-\w+'", "{served}"),
        ("exposed", r"listens on 0\.0\.0\.0:\d+, which other machines may reach", "loopback"),
    ],
)
async def test_a_start_that_fails_says_why_at_once(fault: str, message: str, hint: str) -> None:
    started = time.monotonic()
    error = await refused(fault, load_deadline_s=60.0)
    assert time.monotonic() - started < 10
    assert error.message.startswith("engine stand-in ")
    assert re.search(message, error.message), error.message
    assert hint in error.hint


async def test_a_program_that_is_not_there() -> None:
    class Missing(StandIn):
        argv = ("/nonexistent/serve",)

    error = await refused("", server=Missing)
    assert "could not be started" in error.message
    assert "/nonexistent/serve" in error.message


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        ("hang-at-start", "it did not answer; it printed last: waiting for the device"),
        ("no-tokens", "it lists the model, but generated no token; it printed last: listening"),
        ("empty-text", "it lists the model, but generated no token; it printed last: listening"),
    ],
)
async def test_a_start_that_hangs_ends_with_the_deadline(fault: str, stage: str) -> None:
    error = await refused(fault, load_deadline_s=2.0)
    assert error.message == f"engine stand-in was not ready within 2 s: {stage}"


@pytest.mark.parametrize("fault", ["slow-start", "error-503-once"])
async def test_a_start_that_takes_its_time_succeeds(fault: str) -> None:
    async with serving(fault) as engine:
        assert engine.health() == ""
        assert (await generated(engine, engine_request()))[1] == "stop"


async def test_a_cancelled_load_leaves_nothing() -> None:
    engine = server_engine("hang-at-start")
    loading = asyncio.create_task(engine.load(engine_config(), lambda _: None))
    await until(lambda: len(engine.processes()) == 2)
    pids = engine.processes()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert alive(pids) == []
    assert folders() == set()


async def test_a_port_that_somebody_else_answers_on_is_not_ours() -> None:
    class Stolen(StandIn):
        def values(self, config: Any) -> Any:
            return {**self._values, "port": str(port)}

    async with serving(door="port") as other:
        port = listeners(other.processes())[0].port
        engine = server_engine("hang-at-start", server=Stolen, door="port", load_deadline_s=2.0)
        with pytest.raises(LoadFailed, match=f"another process answers on its port {port}"):
            await engine.load(engine_config(), lambda _: None)


# -- what the process gets ------------------------------------------------------------------------------------------


async def test_the_environment_is_cleaned_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDYARD_TOKEN", "cluster-secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ray-secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("WRONG_DEVICES", "0")
    monkeypatch.setenv("EMPTY", "inherited")
    engine = server_engine()
    config = engine_config(
        threads=3, unset=("WRONG_DEVICES",), environment=(("RIGHT_DEVICES", "1"),), owner="demo/0"
    )
    await engine.load(config, lambda _: None)
    try:
        supervisor, server = engine.processes()
        got = environment_of(server)
        assert not {
            "SHARDYARD_TOKEN",
            "RAY_AUTH_TOKEN",
            "PYTHONPATH",
            "WRONG_DEVICES",
            "EMPTY",
        } & set(got)
        assert (got["RIGHT_DEVICES"], got["OMP_NUM_THREADS"]) == ("1", "3")
        assert got[orphans.MARK].startswith("demo_0.")
        assert got[orphans.MARK].split(":")[1] == str(os.getpid())
        for pid in (supervisor, server):
            assert os.getpgid(pid) == os.getpgid(0)
        folder = Path(got["TMPDIR"]).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert directory_of(server) == folder / "w"
        assert "SHARDYARD_TOKEN" not in environment_of(supervisor)
    finally:
        await engine.close()
    assert folders() == set()


async def test_secrets_are_not_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "engine.log"
    engine = server_engine("secrets")
    await engine.load(engine_config(log_path=str(path)), lambda _: None)
    await engine.close()
    assert path.read_text() == "token is hidden and HF_TOKEN=hidden\nlistening\n"
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_flood_costs_neither_disk_nor_memory_nor_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    engine = server_engine("flood")
    await engine.load(engine_config(log_path=str(path)), lambda _: None)
    supervisor = engine.processes()[0]
    latest = time.monotonic()
    longest = 0.0
    while b"the flood is over" not in _tail(path):
        await asyncio.sleep(0.01)
        longest, latest = max(longest, time.monotonic() - latest), time.monotonic()
        await generated(engine, engine_request(max_tokens=2))
    peak_kib = status_kib(supervisor, "VmHWM")
    await engine.close()
    assert peak_kib < 64 << 10
    assert _size(tmp_path) < 9 << 20
    assert "lines left out" in path.read_text()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _tail(path: Path) -> bytes:
    return path.read_bytes()[-200:] if path.exists() else b""


# -- faults of single requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("garbage-json", "sent an event that is not JSON"),
        ("bad-utf8", "sent an event that is not JSON"),
        ("half-frame", "broke off in the middle of its answer"),
        ("no-finish", "ended its stream without a finish reason"),
        ("no-done", r"ended its stream with no \[DONE\]"),
        ("odd-finish", "finish reason 'content_filter'"),
        ("in-band-error", "answered with status 500: out of KV memory"),
        ("error-500", "answered with status 500: internal trouble"),
        ("bad-ids", "none of its vocabulary"),
        ("bool-ids", "none of its vocabulary"),
        ("float-ids", "none of its vocabulary"),
        ("foreign-ids", "none of its vocabulary"),
        ("no-ids", "told text without its token ids"),
        ("long-line", "sent a line of more than 1048576 bytes"),
        ("html", "answered with text/html instead of a stream"),
        ("echo-prompt", r"answered with status 400: cannot read \[…\]"),
    ],
)
async def test_a_broken_answer_fails_one_request(fault: str, message: str) -> None:
    async with serving(fault) as engine:
        with pytest.raises(EngineError, match=f"^engine stand-in .*{message}") as caught:
            await generated(
                engine, engine_request((11, 12, 13, 14), max_tokens=20, ignore_eos=True)
            )
        assert not isinstance(caught.value, EngineCrashed)
        assert engine.health() == ""
        assert "11, 12" not in caught.value.message


async def test_what_came_before_a_fault_is_given_out() -> None:
    async with serving("in-band-error") as engine:
        ids: list[int] = []
        with pytest.raises(EngineError, match="out of KV memory"):
            async for chunk in engine.generate(engine_request()):
                ids += chunk.ids
        assert len(ids) == 3


async def test_a_server_that_says_that_it_is_dead_has_crashed() -> None:
    async with serving("dead-engine") as engine:
        with pytest.raises(EngineCrashed, match="EngineDeadError"):
            await generated(engine, engine_request())
        assert "EngineDeadError" in engine.health()
        with pytest.raises(EngineCrashed):
            await generated(engine, engine_request())


async def test_more_than_was_asked_for_is_not_taken() -> None:
    async with serving("endless") as engine:
        ids, finish = await generated(engine, engine_request(max_tokens=5))
        assert (len(ids), finish) == (5, "length")


async def test_a_grey_server_keeps_the_request_until_somebody_gives_up() -> None:
    async with serving("grey") as engine:
        waiting = asyncio.create_task(generated(engine, engine_request()))
        await until(lambda: engine._client is not None and engine._client.open == 1)
        await engine.abort("r")
        assert await asyncio.wait_for(waiting, 1.0) == ((), "abort")
        assert engine.health() == ""


# -- serving --------------------------------------------------------------------------------------------------------


async def test_text_alone_comes_with_its_usage() -> None:
    async with serving(server=ToldInText) as engine:
        request = EngineRequest(id="t", prompt_ids=(11, 12, 13), sampling=Sampling(max_tokens=4))
        chunks = [chunk async for chunk in engine.generate(request)]
        assert "".join(chunk.text or "" for chunk in chunks).count(" w") == 4
        assert all(chunk.ids == () for chunk in chunks)
        last = chunks[-1]
        assert last.finish == "length"
        assert last.usage is not None
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 4)


async def test_a_port_of_the_loopback_serves_as_well() -> None:
    async with serving() as one, serving(door="port") as two:
        assert await generated(one, engine_request()) == await generated(two, engine_request())


async def test_abort_frees_the_place_at_once() -> None:
    async with serving(pace=30.0) as engine:
        streams = [engine.generate(engine_request((n, 9))) for n in range(4)]
        for stream in streams:
            assert (await anext(stream)).ids
        fifth = asyncio.ensure_future(anext(engine.generate(engine_request((50, 9)))))
        await until(lambda: engine._client is not None and engine._client.open == 5)
        assert not fifth.done()
        started = time.monotonic()
        await streams[0].aclose()
        assert (await fifth).ids
        assert time.monotonic() - started < 0.1
        for stream in streams[1:]:
            await stream.aclose()


async def test_abort_by_id_ends_the_stream_with_abort() -> None:
    async with serving(pace=30.0) as engine:
        stream = engine.generate(engine_request())
        assert (await anext(stream)).ids
        rest = asyncio.create_task(_rest(stream))
        await engine.abort("unknown")
        await engine.abort("r")
        assert (await asyncio.wait_for(rest, 1.0))[-1] == Chunk((), "abort")


async def _rest(stream: AsyncIterator[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in stream]


async def test_stats_follow_the_server() -> None:
    async with serving(pace=30.0) as engine:
        async with aclosing(engine.generate(engine_request())) as stream:
            await anext(stream)
            stats = await engine.stats()
            assert (stats.running, stats.waiting, stats.kv_used_ratio) == (1, 0, 0.25)
        assert (await engine.stats()).running == 0


# -- ends -----------------------------------------------------------------------------------------------------------


async def test_a_server_that_dies_while_it_serves_is_a_crash() -> None:
    async with serving(pace=30.0) as engine:
        stream = engine.generate(engine_request())
        await anext(stream)
        os.kill(engine.processes()[1], signal.SIGKILL)
        with pytest.raises(EngineCrashed, match="SIGKILL") as caught:
            await anext(stream)
        assert "memory" in caught.value.hint
        assert "SIGKILL" in engine.health()
        with pytest.raises(EngineCrashed):
            await generated(engine, engine_request())


async def test_a_server_that_lives_behind_a_shut_door_is_a_crash() -> None:
    async with serving() as engine:
        (directory_of(engine.processes()[1]).parent / "s").unlink()
        for _ in range(UNREACHED_IN_A_ROW - 1):
            with pytest.raises(Unreachable):
                await generated(engine, engine_request())
            assert engine.health() == ""
        with pytest.raises(EngineCrashed, match="nobody listens"):
            await generated(engine, engine_request())
        assert "nobody listens" in engine.health()


async def test_a_server_that_exits_with_a_known_status_says_what_it_means() -> None:
    async with serving("die-later") as engine:
        with pytest.raises(EngineCrashed, match=r"a worker died \(status 70\)") as caught:
            await generated(engine, engine_request())
        assert caught.value.hint == "look at the worker"


async def test_a_killed_supervisor_is_a_crash_that_leaves_nothing() -> None:
    for fault in ("detached", "overwrites-environment"):
        async with serving(fault) as engine:
            pids = engine.processes()
            assert len(pids) == 3
            os.kill(pids[0], signal.SIGKILL)
            await until(lambda: engine.health() != "")
            with pytest.raises(EngineCrashed, match="its supervisor was killed"):
                await generated(engine, engine_request())
            await until(lambda pids=pids: alive(pids) == [], 2.0)


async def test_a_detached_grandchild_ends_with_the_engine() -> None:
    async with serving("detached") as engine:
        pids = engine.processes()
        assert len(pids) == 3
        assert os.getsid(pids[2]) != os.getsid(0)


async def test_a_server_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    async with serving("stubborn", grace_s=0.3) as engine:
        started = time.monotonic()
        await engine.close()
        assert 0.3 <= time.monotonic() - started < 2.0


async def test_temporary_files_and_shared_memory_go_with_the_server() -> None:
    async with serving("temporary-files"):
        pass
    async with serving("segments") as engine:
        segment = segment_of(engine.processes()[1])
        assert os.path.lexists(segment)
    assert not os.path.lexists(segment)


OWNER = """
import asyncio, json, sys
from support.engines import engine_config
from support.servers import server_engine

async def main():
    engine = server_engine(sys.argv[1], grace_s=30.0)
    await engine.load(engine_config(), lambda _: None)
    print(json.dumps(engine.processes()), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("fault", ["", "stubborn", "detached"])
async def test_a_killed_owner_leaves_nothing_within_two_seconds(fault: str) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, fault,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert owner.stdout is not None
    pids = json.loads((await owner.stdout.readuntil(b"]\n")).splitlines()[-1])
    assert len(pids) == (3 if fault == "detached" else 2)
    owner.kill()
    await until(lambda: alive(pids) == [], 2.0)
    await owner.wait()
    assert folders(owner.pid) == set()


async def test_twenty_lives_leave_nothing_behind() -> None:
    async def life() -> None:
        async with serving() as engine:
            await generated(engine, engine_request(max_tokens=3))

    await life()
    gc.collect()
    before, resident = entries("/proc/self/fd"), status_kib("self", "VmRSS")
    threads = entries("/proc/self/task")
    for _ in range(20):
        await life()
    gc.collect()
    assert entries("/proc/self/fd") == before
    assert entries("/proc/self/task") <= threads
    assert below([os.getpid()], everybody()) == []
    assert status_kib("self", "VmRSS") - resident < 8 << 10


async def test_close_is_idempotent_and_ends_streams() -> None:
    engine: Engine = server_engine(pace=30.0)
    await engine.load(engine_config(), lambda _: None)
    stream = engine.generate(engine_request())
    await anext(stream)
    rest = asyncio.create_task(_rest(stream))
    await asyncio.sleep(0)
    await asyncio.gather(engine.close(), engine.close())
    await engine.close()
    assert (await rest)[-1].finish == "abort"
    with pytest.raises(EngineError, match="not loaded"):
        await generated(engine, engine_request())
    assert (await engine.stats()).running == 0
