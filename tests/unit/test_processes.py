"""Owned processes, with real children: the whole family ends, and nothing else is ever touched."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.hosts import gone

from orchestrator import proc_fs
from orchestrator.errors import ControlError
from orchestrator.families import ROLE_ENV, processes_of_run
from orchestrator.processes import (
    abandoned,
    alive,
    end,
    end_run,
    marks,
    own_start_ticks,
    owner_alive,
    reap,
    spawn,
)
from orchestrator.state_dir import ProcessRecord, RunRecord, StateDir, new_run_id

PLAIN = {"PATH": os.environ["PATH"]}

SLEEP = ["sleep", "60"]
STUBBORN = ["sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 60; done']
# A child of the first process that leaves its session and group; then the first one goes on.
RUNAWAY = ["sh", "-c", "setsid sleep 60 & echo ready; wait"]
# The same, but the parent ends, so that the runaway is an orphan that only its mark gives away.
ORPHAN = ["sh", "-c", "setsid sleep 60 & echo ready"]
# A child that cleans its environment but stays in the session.
UNMARKED = ["sh", "-c", "env -i sleep 60 & echo ready; wait"]
# One that left the session without any mark, and one that lost its parent without any mark.
UNMARKED_RUNAWAY = ["sh", "-c", "env -i setsid sleep 60 & echo ready; wait"]
UNMARKED_ORPHAN = ["sh", "-c", "(env -i sleep 60 &); echo ready; exec sleep 60"]


@pytest.fixture
def run():
    run_id = new_run_id()
    yield run_id
    assert end_run(run_id, term_s=0, kill_s=5) == ()


@pytest.fixture
def start(run, tmp_path):
    """Starts a process of the run; waits for `ready` in its log where it says so."""

    def _start(argv, role="worker", *, run_id=run, die_with_parent=False) -> ProcessRecord:
        log_path = tmp_path / "logs" / f"{role}.log"
        record = spawn(
            argv,
            env=PLAIN,
            log_path=log_path,
            role=role,
            run_id=run_id,
            die_with_parent=die_with_parent,
        )
        if "echo ready" in argv[-1]:
            wait_for_text(log_path, "ready", record)
        return record

    return _start


def wait_for_text(path: Path, text: str, record: ProcessRecord) -> None:
    """`tail` follows the log and ends with the process, so nobody polls."""
    command = ["tail", "-n", "+1", "-f", f"--pid={record.pid}", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        assert any(text in line for line in tail.stdout)
        tail.kill()


def members(run_id: str) -> set[str]:
    return {record.argv0 for record in processes_of_run(run_id)}


def test_a_process_starts_with_session_mark_and_private_log(start, run, tmp_path):
    record = start(["sh", "-c", "echo $SHARDYARD_RUN $SHARDYARD_ROLE; echo ready; exec sleep 60"])
    row = proc_fs.process(record.pid)
    assert row is not None
    assert (row.session, row.pgid) == (record.pid, record.pid) == (record.pgid, record.pid)
    assert alive(record)
    log_path = tmp_path / "logs" / "worker.log"
    assert log_path.read_text() == f"{run} worker\nready\n"
    assert log_path.stat().st_mode & 0o077 == 0
    assert [r.pid for r in processes_of_run(run)] == [record.pid]


def test_a_program_that_does_not_exist_is_one_clear_sentence(start):
    with pytest.raises(ControlError, match=r"cannot start /no/such \(worker\)"):
        start(["/no/such"])


@pytest.mark.parametrize(
    "argv",
    [SLEEP, RUNAWAY, ORPHAN, UNMARKED, UNMARKED_RUNAWAY, UNMARKED_ORPHAN],
    ids=["alone", "runaway", "orphan", "unmarked", "unmarked_runaway", "unmarked_orphan"],
)
def test_the_whole_family_ends_on_sigterm(start, run, argv):
    record = start(argv)
    family = {record.pid} | {
        row.pid
        for row in proc_fs.processes().values()
        if record.pid in (row.session, row.ppid)
        or proc_fs.environment(row.pid).get("SHARDYARD_RUN") == run
    }
    assert len(family) == (1 if argv is SLEEP else 2)
    assert end([record], term_s=10, kill_s=5) == ()
    assert all(gone(pid, 0) for pid in family)
    assert not alive(record)


def test_who_ignores_sigterm_is_killed(start, run):
    record = start(STUBBORN)
    assert end([record], term_s=0.1, kill_s=5) == ()
    assert members(run) == set()


def test_a_stopped_process_is_killed(start):
    record = start(SLEEP)
    os.kill(record.pid, signal.SIGSTOP)
    assert end([record], term_s=0.1, kill_s=5) == ()
    assert gone(record.pid, 0)


def test_our_own_ended_children_do_not_stay_as_zombies(start):
    record = start(SLEEP)
    end([record])
    assert proc_fs.process(record.pid) is None


def test_ending_one_role_leaves_the_others_of_the_run(start, run):
    first, second = start(SLEEP, "first"), start(RUNAWAY, "second")
    end([first])
    assert not alive(first)
    assert alive(second)
    assert {record.role for record in processes_of_run(run)} == {"second"}


def test_another_process_with_the_number_of_a_record_is_not_touched(start):
    record = start(SLEEP)
    older = dataclasses.replace(record, start_ticks=record.start_ticks - 1, run_id="x", role="x")
    assert not alive(older)
    assert end([older], term_s=0.1, kill_s=0.1) == ()
    assert alive(record)


def test_ending_twice_is_harmless(start):
    record = start(SLEEP)
    assert end([record]) == ()
    assert end([record]) == ()
    assert end([]) == ()


def test_an_empty_mark_matches_nobody():
    assert processes_of_run("") == ()


def test_ourselves_and_our_parents_are_never_ours_to_end(run):
    code = (
        "import sys; from orchestrator.families import processes_of_run as p; print(p(sys.argv[1]))"
    )
    env = dict(os.environ) | marks(run, "self") | {"PYTHONPATH": str(Path.cwd())}
    command = ["sh", "-c", '"$0" -c "$1" "$2"; :', sys.executable, code, run]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "()\n"


def test_a_child_ends_with_its_parent(start, run, tmp_path):
    code = (
        "import sys; from pathlib import Path; from orchestrator.processes import spawn;"
        "r = spawn(['sleep', '60'], env={'PATH': '/usr/bin:/bin'}, log_path=Path(sys.argv[1]),"
        "          role='child', run_id=sys.argv[2], die_with_parent=True);"
        "print('ready', r.pid, flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "child.log"), run],
        env=dict(os.environ) | {"PYTHONPATH": str(Path.cwd())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        ready = next(line for line in owner.stdout if line.startswith("ready "))
        owner.kill()
    assert gone(int(ready.split()[1]))


def abandoned_run(run: str, temp: Path, *records: ProcessRecord, mode="foreground") -> RunRecord:
    """A run whose owner's number belongs to another process by now."""
    return RunRecord(
        run_id=run,
        mode=mode,
        owner_pid=os.getpid(),
        owner_start_ticks=own_start_ticks() - 1,
        temp_prefix=str(temp),
        temp_dirs=(str(temp),),
        processes=records,
    )


@pytest.fixture
def temp(tmp_path) -> Path:
    folder = tmp_path / "shardyard-abc"
    (folder / "session" / "logs").mkdir(parents=True)
    (folder / "session" / "logs" / "x.log").write_text("x")
    return folder


def test_reaping_undoes_what_a_killed_owner_left(start, run, temp, tmp_path):
    state = StateDir(tmp_path / "state")
    recorded, unrecorded = start(SLEEP, "recorded"), start(ORPHAN, "unrecorded")
    state.write_run(abandoned_run(run, temp, recorded))
    reaped = reap(state, term_s=5)
    assert reaped is not None
    assert {record.role for record in reaped.processes} == {"recorded", "unrecorded"}
    assert reaped.folders == (str(temp),)
    assert reaped.remaining == ()
    assert gone(recorded.pid, 0)
    assert gone(unrecorded.pid, 0)
    assert not temp.exists()
    assert state.read_run() is None
    assert reap(state) is None


def test_a_run_whose_owner_lives_is_left_alone(start, run, temp, tmp_path):
    state = StateDir(tmp_path / "state")
    record = start(SLEEP)
    mine = dataclasses.replace(
        abandoned_run(run, temp, record), owner_start_ticks=own_start_ticks()
    )
    state.write_run(mine)
    assert owner_alive(mine)
    assert reap(state) is None
    assert alive(record)
    assert temp.exists()
    forced = reap(state, force=True)
    assert forced is not None
    assert not alive(record)


def test_a_detached_run_outlives_its_owner_until_its_processes_are_gone(start, run, temp):
    record = start(SLEEP)
    detached = abandoned_run(run, temp, record, mode="detached")
    assert not abandoned(detached)
    end([record])
    assert abandoned(detached)
    assert abandoned(abandoned_run(run, temp, mode="lab"))


def test_only_our_folders_below_the_prefix_are_removed(run, temp, tmp_path):
    outside = tmp_path / "shardyard-other"
    outside.mkdir()
    link = tmp_path / "shardyard-link"
    link.symlink_to(outside)
    kept = tmp_path / "precious"
    kept.mkdir()
    state = StateDir(tmp_path / "state")
    left = abandoned_run(run, temp)
    below = str(temp / "session")
    state.write_run(
        dataclasses.replace(
            left, temp_dirs=(below, str(outside), str(link), str(temp / ".." / "precious"))
        )
    )
    reaped = reap(state)
    assert reaped is not None
    assert reaped.folders == (below,)
    assert all(folder.exists() for folder in (temp, outside, link, kept))


@pytest.mark.parametrize("prefix", ["", "/", "precious"])
def test_a_prefix_that_is_not_ours_removes_nothing(run, temp, tmp_path, prefix):
    state = StateDir(tmp_path / "state")
    folder = tmp_path / "precious" / "shardyard"
    folder.mkdir(parents=True)
    named = str(tmp_path / prefix) if prefix == "precious" else prefix
    state.write_run(
        dataclasses.replace(abandoned_run(run, temp), temp_prefix=named, temp_dirs=(str(folder),))
    )
    reap(state)
    assert folder.exists()


def test_marks_survive_programs_that_rewrite_their_title():
    given = marks("r", "head")
    assert given["SHARDYARD_RUN"] == "r"
    assert given[ROLE_ENV] == "head"
    assert given["SPT_NOENV"] == "1"


def test_odd_process_names_are_read(tmp_path):
    odd = tmp_path / ") S 1 (x"
    odd.write_bytes(Path("/bin/sleep").resolve().read_bytes())
    odd.chmod(0o755)
    with subprocess.Popen([str(odd), "60"]) as child:
        row = proc_fs.process(child.pid)
        child.kill()
    assert row is not None
    assert (row.pid, row.ppid) == (child.pid, os.getpid())
