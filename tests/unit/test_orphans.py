"""Engine processes whose owner is gone are found and ended, and nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import alive, folders, until

from actors import orphans
from actors.orphans import MARK, Mark
from actors.process_tree import started

SLEEP = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
BLOT = (
    "import ctypes, time; f = open('/proc/self/stat').read().rpartition(')')[2].split();"
    " ctypes.memset(int(f[47]), 0, int(f[48]) - int(f[47])); print('up', flush=True); time.sleep(600)"
)


@pytest.fixture
def started_here() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def sleeper(
    processes: list[subprocess.Popen[bytes]], marked: Mark | None = None, *, argv: list[str] = SLEEP, cwd: Path | None = None
) -> subprocess.Popen[bytes]:  # fmt: skip
    env = {**os.environ, **({MARK: marked.text} if marked else {})}
    process = subprocess.Popen(argv, env=env, cwd=cwd, stdout=subprocess.PIPE)
    processes.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def dead_owner() -> Mark:
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    found = Mark("demo", process.pid, started(process.pid) or 0, "abcd1234")
    process.communicate(b"\n")
    return found


def test_only_processes_of_dead_owners_are_ended(
    started_here: list[subprocess.Popen[bytes]],
) -> None:
    mine = orphans.mark("demo", "feed0001")
    gone = dead_owner()
    reborn = Mark("demo", os.getpid(), mine.since - 1, "feed0002")
    kept = [sleeper(started_here), sleeper(started_here, mine)]
    ended = [sleeper(started_here, gone), sleeper(started_here, reborn)]
    reaped = orphans.reap()
    assert {r.pid for r in reaped} == {p.pid for p in ended}
    assert {r.owner for r in reaped} == {"demo"}
    assert all("time.sleep" in r.name for r in reaped)
    assert [p.wait() for p in ended] == [-signal.SIGKILL] * 2
    assert [p.poll() for p in kept] == [None, None]
    assert orphans.reap() == ()


def test_a_private_folder_is_a_mark_too(started_here: list[subprocess.Popen[bytes]]) -> None:
    gone = dead_owner()
    folder = Path(tempfile.gettempdir()) / gone.folder
    folder.mkdir()
    argv = [sys.executable, "-S", "-c", BLOT]
    process = sleeper(started_here, gone, argv=argv, cwd=folder)
    assert MARK.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()
    assert [r.pid for r in orphans.reap()] == [process.pid]
    assert process.wait() == -signal.SIGKILL
    assert not folder.exists()


def test_descendants_belong_to_the_family_unless_marked_otherwise(
    started_here: list[subprocess.Popen[bytes]],
) -> None:
    mine = orphans.mark("demo", "feed0001")
    code = (
        "import os, subprocess, sys; env = {**os.environ}; env.pop(sys.argv[2]);"
        " a = subprocess.Popen(sys.argv[3:], env=env, stdout=subprocess.PIPE);"
        " b = subprocess.Popen(sys.argv[3:], env={**env, sys.argv[2]: sys.argv[1]}, stdout=subprocess.PIPE);"
        " a.stdout.readline(); b.stdout.readline(); print('up', flush=True); print(a.pid, b.pid, flush=True); a.wait()"
    )
    process = sleeper(
        started_here, dead_owner(), argv=[sys.executable, "-S", "-c", code, mine.text, MARK, *SLEEP]
    )
    assert process.stdout is not None
    unmarked, other = map(int, process.stdout.readline().split())
    try:
        assert {r.pid for r in orphans.reap()} == {process.pid, unmarked}
        assert alive([other]) == [other]
    finally:
        os.kill(other, signal.SIGKILL)


def test_one_engine_is_ended_without_the_other(started_here: list[subprocess.Popen[bytes]]) -> None:
    one, two = orphans.mark("demo", "feed0001"), orphans.mark("demo", "feed0002")
    first, second = sleeper(started_here, one), sleeper(started_here, two)
    assert set(orphans.marked(one)) == {first.pid}
    assert orphans.end(one)
    assert first.wait() == -signal.SIGKILL
    assert second.poll() is None


def test_this_process_and_its_ancestors_are_spared(
    started_here: list[subprocess.Popen[bytes]],
) -> None:
    code = (
        "from actors import orphans; print('up', flush=True);"
        " print([r.pid for r in orphans.reap()], flush=True); input()"
    )
    env = {"PYTHONPATH": os.pathsep.join(sys.path), MARK: dead_owner().text}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    answer, _ = process.communicate(b"\n", timeout=20)
    assert answer == b"up\n[]\n"
    assert process.returncode == 0


def test_folders_of_the_dead_go_and_those_of_the_living_stay() -> None:
    gone, mine = dead_owner(), orphans.mark("demo", "feed0001")
    place = Path(tempfile.gettempdir())
    for found in (gone, mine):
        (place / found.folder / "t").mkdir(parents=True)
    orphans.reap()
    assert not (place / gone.folder).exists()
    assert (place / mine.folder).exists()
    orphans.end(mine)
    assert not (place / mine.folder).exists()


def test_a_mark_survives_an_owner_with_any_name() -> None:
    text = orphans.mark("a:b c\n\0=ü" * 30, "feed0001").text
    assert "\0" not in text
    assert text.count(":") == 2
    assert len(text) < 120
    assert orphans.mark("x", "feed0001").alive
    assert not dead_owner().alive


OWNER = """
import asyncio, json, sys
from support.engines import engine_config
from support.servers import server_engine

async def main():
    engine = server_engine(sys.argv[1])
    await engine.load(engine_config(), lambda _: None)
    print(json.dumps(engine.processes()), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def lost(fault: str) -> tuple[int, list[int]]:
    """An owner and a supervisor that were killed in one moment; the owner's id and what they had started."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, fault, env=env, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    pids = json.loads((await owner.stdout.readuntil(b"]\n")).splitlines()[-1])
    assert len(pids) == 3
    owner.send_signal(signal.SIGSTOP)  # so that it cannot clean up after its supervisor
    os.kill(pids[0], signal.SIGKILL)
    owner.kill()
    await owner.wait()
    return owner.pid, pids


async def test_what_a_killed_owner_and_a_killed_supervisor_left_is_reaped() -> None:
    owner, pids = await lost("overwrites-environment")
    await until(lambda: alive(pids) == [pids[2]])
    started_at = time.monotonic()
    assert [r.pid for r in orphans.reap()] == [pids[2]]
    assert time.monotonic() - started_at < 2
    assert alive(pids) == []
    assert folders(owner) == set()


async def test_python_may_unlink_its_shared_memory_first() -> None:
    before = set(Path("/dev/shm").iterdir())
    _, pids = await lost("tracked-segments")
    await until(lambda: alive(pids[:2]) == [])
    orphans.reap()
    await until(lambda: alive(pids) == [])
    left = set(Path("/dev/shm").iterdir()) - before
    assert not [
        path for path in left if path.name.startswith("psm_") and path.stat().st_size == 1 << 20
    ]
