"""The worker process: frames, its life, and every way in which it can end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import venv
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from support.engines import CRASH_ID, engine_config, engine_request, generated

from actors.engine import Capabilities, EngineStats, Pace, Sampling, StagePlace
from actors.errors import EngineCrashed, EngineError, LoadFailed
from actors.vendors import visibility
from actors.worker.engine import QUIET, WorkerEngine
from actors.worker.frames import (
    FrameReader,
    Kind,
    abort_frame,
    aborted,
    add_frame,
    added,
    capabilities_of,
    config_of,
    load_frame,
    loaded_frame,
    progress_frame,
    progressed,
    step_frame,
    stepped,
    trouble,
    trouble_frame,
)
from actors.worker.stepper import Row
from placement.tuning import Tuning


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
    config = engine_config(
        pace=pace,
        dtype="int4",
        cores=(0, 2),
        handles=("GPU-1",),
        stages=(StagePlace(host="h", handles=("0", "1"), layers=(0, 9)),),
        tuning=Tuning(kv_dtype="fp8", lora=(("a", "/b"),)),
        environment=(("A", "b"),),
        unset=("C",),
    )
    sampling = Sampling(
        max_tokens=2**40, temperature=0.7, top_p=0.9, seed=2**64 - 1, ignore_eos=True,
        frequency_penalty=-1.5, presence_penalty=0.5, json_schema='{"title": "\u00e9"}',
    )  # fmt: skip
    can = Capabilities(window=9, batch_buckets=(1, 4), lora=("a",), continuation="seeded")
    rows = [Row(1, (5, 6)), Row(2**32 - 1, (), "stop"), Row(3, (7,), "length")]
    stats = EngineStats(running=3, waiting=9, kv_used_ratio=0.25)
    sent = [
        load_frame(config), add_frame(4, (1, 2**32 - 1), sampling), abort_frame(4), progress_frame(0.5),
        step_frame(rows, stats), step_frame([], stats), trouble_frame(Kind.FAILED, "é", "h", 9),
        loaded_frame(can),
    ]  # fmt: skip
    for size in (1, 3, 1000):
        reader, data = FrameReader(), b"".join(sent)
        got = [f for at in range(0, len(data), size) for f in reader.feed(data[at : at + size])]
        payloads = [payload for _, payload in got]
        assert [kind for kind, _ in got] == [1, 2, 3, 5, 8, 8, 9, 6]
        assert config_of(payloads[0]) == config
        assert added(payloads[1]) == (4, (1, 2**32 - 1), sampling)
        assert aborted(payloads[2]) == 4
        assert progressed(payloads[3]) == 0.5
        assert stepped(payloads[4]) == (rows, stats)
        assert stepped(payloads[5]) == ([], stats)
        assert trouble(payloads[6]) == (9, "é", "h")
        assert capabilities_of(payloads[7]) == can


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
        (
            "DyingLoadStepper",
            "ended while it loaded with status 3: terminate called",
            "see the log of its replica",
        ),
        (
            "NoSuchStepper",
            "ended while it loaded with status 1: .*NoSuch",
            "see the log of its replica",
        ),
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
        "from actors.worker.engine import WorkerEngine\n"
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


async def test_it_says_what_it_can_and_which_processes_it_has() -> None:
    engine = worker()
    assert (engine.capabilities, engine.processes()) == (Capabilities(), ())
    assert "not loaded" in engine.health()
    await engine.load(engine_config(max_sequences=4), lambda _: None)
    assert (engine.capabilities.sequences, engine.capabilities.continuation) == (4, "exact")
    assert engine.processes() == (engine.pid,)
    assert engine.health() == ""
    await engine.close()
    assert engine.processes() == ()


async def test_an_abort_by_request_ends_its_text_and_no_other() -> None:
    engine = await loaded("EndlessStepper")
    requests = [replace(engine_request(), id=name) for name in ("a", "b")]
    first, other = (engine.generate(request) for request in requests)
    await anext(first)
    await anext(other)
    await engine.abort("a")
    await engine.abort("nobody")
    assert [chunk.finish async for chunk in first][-1] == "abort"
    assert (await anext(other)).finish is None
    await other.aclose()
    await engine.close()


async def test_an_abort_by_request_frees_its_place() -> None:
    engine = await loaded(max_sequences=1)
    async with aclosing(engine.generate(engine_request(ignore_eos=True))) as chunks:
        await anext(chunks)
        await engine.abort("r")
        assert [chunk.finish async for chunk in chunks][-1] == "abort"
    assert (await generated(engine, engine_request()))[1] == "stop"
    await engine.close()


async def test_a_place_is_told_free_before_the_step_after_an_abort(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    engine = await loaded("GatedStepper", model_path=str(tmp_path / "gate"))
    try:
        first, other = (engine.generate(engine_request()) for _ in range(2))
        started = asyncio.gather(anext(first), anext(other))
        os.write(gate, b"12")  # a step for each, then the third is under way
        await started
        await first.aclose()
        os.write(gate, b"3")
        async with asyncio.timeout(20):
            while (await engine.stats()).running != 1:  # noqa: ASYNC110 - another process tells it
                await asyncio.sleep(0.005)
        await other.aclose()
    finally:
        os.write(gate, b"4" * 100)
        await engine.close()
        os.close(gate)


async def test_idle_threads_sleep_and_their_number_is_the_planned_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    core = min(os.sched_getaffinity(0))
    engine = await loaded(threads=3, cores=(core,))
    try:
        assert engine.pid is not None
        text = environ_of(engine.pid)
        seen = dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
        assert seen["OMP_NUM_THREADS"] == "3"
        assert QUIET.items() <= seen.items()
        assert os.sched_getaffinity(engine.pid) == {core}
    finally:
        await engine.close()


async def test_cores_that_are_not_there_do_not_keep_it_from_running(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "engine.log"
    engine = await loaded(cores=(4000,), log_path=str(log))
    assert (await generated(engine, engine_request()))[1] == "stop"
    await engine.close()
    assert "cores 4000 cannot be used" in log.read_text()


FOREIGN = """
import sys
from actors.engine import Capabilities, EngineStats
from actors.errors import LoadFailed
class Foreign:
    def load(self, config, progress):
        roots = {name.partition(".")[0] for name in sys.modules}
        wrong = {"structlog", "ray", "numpy", "click"} & roots
        raise LoadFailed(f"prefix={sys.prefix} path={sys.path} seen={sorted(wrong)}")
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment without any of our packages, but with an engine."""
    folder = tmp_path_factory.mktemp("foreign") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    (packages / "foreign_engine.py").write_text(FOREIGN)
    return folder


async def test_an_engine_in_another_environment_sees_our_packages_and_nothing_else_of_ours(
    foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDYARD_ENV_FOREIGN", str(foreign))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    engine = WorkerEngine("test", "foreign_engine:Foreign", environment="foreign")
    with pytest.raises(LoadFailed, match=f"prefix={foreign} ") as failed:
        await engine.load(engine_config(), lambda _: None)
    assert "seen=[]" in failed.value.message
    assert str(Path(__file__).parents[2]) not in failed.value.message


async def test_a_missing_environment_is_said_with_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDYARD_ENVS", str(tmp_path))
    engine = WorkerEngine("test", "actors.engines.torch:TorchStepper", environment="torch")
    with pytest.raises(LoadFailed, match="environment torch is not built") as failed:
        await engine.load(engine_config(), lambda _: None)
    assert failed.value.hint == "shardyard env create torch"
    assert engine.processes() == ()


def _interpreter(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> WorkerEngine:
    """An engine of an environment whose Python is that script."""
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(script)
    python.chmod(0o755)
    monkeypatch.setenv("SHARDYARD_ENV_FOREIGN", str(folder))
    return WorkerEngine("test", "foreign_engine:Foreign", environment="foreign")


@pytest.mark.parametrize("script", ["\x7fELF of another machine", "#!/nonexistent/python\n"])
async def test_an_interpreter_that_cannot_be_run(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _interpreter(tmp_path, script, monkeypatch)
    with pytest.raises(LoadFailed, match="could not be started") as failed:
        await engine.load(engine_config(), lambda _: None)
    assert "env create foreign" in failed.value.hint
    await engine.close()


async def test_who_holds_its_pipes_does_not_hide_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "pid"
    engine = _interpreter(
        tmp_path, f"#!/bin/sh\nsleep 60 &\necho $! > {told}\nexit 3\n", monkeypatch
    )
    try:
        async with asyncio.timeout(5):
            with pytest.raises(LoadFailed, match="status 3"):
                await engine.load(engine_config(), lambda _: None)
    finally:
        os.kill(int(told.read_text()), signal.SIGKILL)


async def test_secrets_of_its_environment_are_not_in_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_TOKEN", "plain-word-99")
    script = '#!/bin/sh\necho "refused: $HUB_TOKEN" >&2\nexit 3\n'
    engine = _interpreter(tmp_path, script, monkeypatch)
    with pytest.raises(LoadFailed, match="refused: hidden"):
        await engine.load(engine_config(), lambda _: None)


async def test_a_flood_of_words_does_not_keep_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "#!/bin/sh\nhead -c 200000000 /dev/zero >&2\nexit 3\n"
    engine = _interpreter(tmp_path, script, monkeypatch)
    async with asyncio.timeout(5):
        with pytest.raises(LoadFailed, match="status 3"):
            await engine.load(engine_config(), lambda _: None)
