"""The worker process: frames, its life, and every way in which it can end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
import uvloop
from support.engines import CRASH_ID, engine_config, engine_request, generated

from actors.engine import EngineStats, Pace, Sampling
from actors.errors import EngineCrashed, EngineError, LoadFailed
from actors.stepper import Row
from actors.vendors import visibility
from actors.worker import WorkerEngine
from actors.worker_frames import (
    FrameReader,
    Kind,
    abort_frame,
    aborted,
    add_frame,
    added,
    config_of,
    load_frame,
    progress_frame,
    progressed,
    step_frame,
    stepped,
    trouble,
    trouble_frame,
)


def worker(stepper: str = "BatchStepper", **options: float) -> WorkerEngine:
    return WorkerEngine("test", f"support.engines:{stepper}", **options)


async def loaded(stepper: str = "BatchStepper", **changes: object) -> WorkerEngine:
    engine = worker(stepper)
    await engine.load(engine_config(**changes), lambda _: None)
    return engine


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def environ_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


def test_frames_survive_any_cut() -> None:
    pace = Pace(fixed_s=0.1, per_sequence_s=0.2, prefill_tokens_per_s=3.0, load_s=4.0)
    config = engine_config(pace=pace)
    sampling = Sampling(
        max_tokens=2**40, temperature=0.7, top_p=0.9, seed=2**64 - 1, ignore_eos=True
    )
    rows = [Row(1, (5, 6)), Row(2**32 - 1, (), "stop"), Row(3, (7,), "length")]
    stats = EngineStats(running=3, waiting=9, kv_used_ratio=0.25)
    sent = [
        load_frame(config), add_frame(4, (1, 2**32 - 1), sampling), abort_frame(4), progress_frame(0.5),
        step_frame(rows, stats), step_frame([], stats), trouble_frame(Kind.FAILED, "é", "h", 9),
    ]  # fmt: skip
    for size in (1, 3, 1000):
        reader, data = FrameReader(), b"".join(sent)
        got = [f for at in range(0, len(data), size) for f in reader.feed(data[at : at + size])]
        payloads = [payload for _, payload in got]
        assert [kind for kind, _ in got] == [1, 2, 3, 5, 8, 8, 9]
        assert config_of(payloads[0]) == config
        assert added(payloads[1]) == (4, (1, 2**32 - 1), sampling)
        assert aborted(payloads[2]) == 4
        assert progressed(payloads[3]) == 0.5
        assert stepped(payloads[4]) == (rows, stats)
        assert stepped(payloads[5]) == ([], stats)
        assert trouble(payloads[6]) == (9, "é", "h")


async def test_load_reports_progress_and_close_leaves_nothing() -> None:
    engine, seen = worker(), []
    assert engine.health()
    await engine.load(engine_config(), seen.append)
    assert seen == [0.5, 1.0]
    assert not engine.health()
    pid = engine.pid
    assert pid is not None
    assert os.getpgid(pid) == os.getpgid(0)
    await engine.close()
    await engine.close()
    assert gone(pid)
    assert engine.health()


@pytest.mark.parametrize(
    ("stepper", "message", "hint"),
    [
        ("BrokenLoadStepper", "the weights are torn", "fetch them again"),
        ("RaisingLoadStepper", "RuntimeError: device is on fire", ""),
        ("DyingLoadStepper", "ended while it loaded", ""),
        ("NoSuchStepper", "ended while it loaded", ""),
    ],
)
async def test_a_failed_load_says_why_and_leaves_nothing(
    stepper: str, message: str, hint: str
) -> None:
    engine = worker(stepper)
    with pytest.raises(LoadFailed, match=message) as failed:
        await engine.load(engine_config(), lambda _: None)
    assert failed.value.hint == hint
    assert engine.pid is not None
    assert gone(engine.pid)
    assert engine.health()


async def test_a_load_that_never_ends_is_killed() -> None:
    engine = worker("StuckLoadStepper", load_deadline_s=1.0)
    with pytest.raises(LoadFailed, match="did not load within 1 s"):
        await engine.load(engine_config(), lambda _: None)
    assert engine.pid is not None
    assert gone(engine.pid)


async def test_a_killed_process_fails_every_sequence_and_every_later_one() -> None:
    engine = await loaded("EndlessStepper")
    try:
        chunks = [engine.generate(engine_request()) for _ in range(3)]
        for iterator in chunks:
            await anext(iterator)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        for iterator in chunks:
            with pytest.raises(EngineCrashed, match="ended"):
                async for _ in iterator:
                    pass
        assert engine.health()
        with pytest.raises(EngineCrashed):
            await anext(engine.generate(engine_request()))
    finally:
        await engine.close()
    assert gone(engine.pid)


async def test_a_process_that_crashes_by_itself() -> None:
    engine = await loaded()
    with pytest.raises(EngineCrashed):
        await generated(engine, engine_request((CRASH_ID, 1)))
    await engine.close()


async def test_a_failure_of_one_sequence_is_its_own() -> None:
    engine = await loaded("FailingRowStepper")
    with pytest.raises(EngineError, match="out of KV memory") as failed:
        await generated(engine, engine_request())
    assert not isinstance(failed.value, EngineCrashed)
    assert not engine.health()
    await engine.close()


async def test_an_abort_reaches_the_process() -> None:
    engine = await loaded(max_sequences=1)
    for _ in range(5):
        async with aclosing(
            engine.generate(engine_request(ignore_eos=True, max_tokens=900))
        ) as chunks:
            await anext(chunks)
    assert (await generated(engine, engine_request()))[1] == "stop"
    assert await engine.stats() == EngineStats()
    await engine.close()


def test_the_replicas_event_loop_serves_it_too() -> None:
    async def once() -> None:
        engine = await loaded()
        assert (await generated(engine, engine_request()))[1] == "stop"
        await engine.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(once())


async def test_a_slow_taker_gets_everything() -> None:
    engine = await loaded(window=4096)
    request = engine_request(ignore_eos=True, max_tokens=3000)
    expected = await generated(engine, request)
    async with aclosing(engine.generate(request)) as slow:
        first = await anext(slow)
        await generated(engine, request)
        rest = [chunk async for chunk in slow]
    assert len(rest) < 50
    assert (first.ids + tuple(n for c in rest for n in c.ids), "length") == expected
    await engine.close()


async def test_a_foreign_folder_called_actors_does_not_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "__init__.py").write_text("raise RuntimeError('somebody else')")
    monkeypatch.chdir(tmp_path)
    engine = await loaded()
    assert (await generated(engine, engine_request()))[1] == "stop"
    await engine.close()


async def test_the_process_dies_with_its_parent() -> None:
    code = (
        "import asyncio\n"
        "from actors.worker import WorkerEngine\n"
        "from support.engines import engine_config\n"
        "async def main():\n"
        "    engine = WorkerEngine('test', 'support.engines:EndlessStepper')\n"
        "    await engine.load(engine_config(), lambda _: None)\n"
        "    print(engine.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert parent.stdout is not None
    lines = [(await parent.stdout.readline()).decode() for _ in range(2)]
    child = next(int(line) for line in lines if line.strip().isdigit())
    descriptor = os.pidfd_open(child)
    parent.kill()
    await parent.wait()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(5):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def test_an_engine_sees_its_own_devices_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RBLN_DEVICES", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    given, unset = visibility("rebellions", ("0", "3"))
    engine = await loaded(environment=tuple(given.items()), unset=tuple(unset))
    try:
        assert engine.pid is not None
        text = environ_of(engine.pid)
        seen = dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
        assert seen["RBLN_VISIBLE_DEVICES"] == "0,3"
        assert seen["CUDA_VISIBLE_DEVICES"] == ""
        assert "RBLN_DEVICES" not in seen
        assert seen["PATH"] == os.environ["PATH"]
    finally:
        await engine.close()
