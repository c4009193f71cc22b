"""The state folder: private, crash-safe, one owner at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import ControlError
from orchestrator.state_dir import ProcessRecord, RunRecord, StateDir, new_run_id

RUN = RunRecord(
    run_id="abc",
    mode="lab",
    owner_pid=7,
    owner_start_ticks=42,
    address="127.0.0.1:6379",
    ports=(8000, 6379),
    temp_prefix="/tmp/shardyard-x",
    temp_dirs=("/tmp/shardyard-x/a",),
    processes=(
        ProcessRecord(pid=8, start_ticks=43, pgid=8, role="ray-head", argv0="ray", run_id="abc"),
    ),
)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def state(tmp_path) -> StateDir:
    return StateDir(tmp_path / "deep" / "state")


def test_the_folder_is_private_also_when_it_was_not(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    assert mode(StateDir(tmp_path / "open").path) == 0o700
    assert mode(StateDir(tmp_path / "new").path) == 0o700


def test_a_path_that_cannot_be_a_folder_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ControlError) as caught:
        StateDir(tmp_path / "file")
    assert "SHARDYARD_STATE" in caught.value.hint


def test_a_record_is_read_as_it_was_written_and_can_be_forgotten(state):
    assert state.read_run() is None
    state.write_run(RUN)
    assert state.read_run() == RUN
    assert mode(state.path / "run.json") == 0o600
    state.clear_run()
    assert state.read_run() is None
    state.clear_run()


def test_a_crash_while_writing_keeps_the_old_record(state, monkeypatch):
    state.write_run(RUN)

    def crash(_descriptor):
        raise OSError("power is gone")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="power"):
        state.write_run(RunRecord(run_id="new", mode="node", owner_pid=1, owner_start_ticks=1))
    monkeypatch.undo()
    assert state.read_run() == RUN
    state.write_run(RUN)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"run_id": 1}', '{"run_id": "a", "mode": "odd"}', "\x00"]
)
def test_a_damaged_record_is_kept_aside_and_said_aloud(state, text):
    (state.path / "run.json").write_text(text)
    with pytest.raises(ControlError) as caught:
        state.read_run()
    assert caught.value.hint
    assert (state.path / "run.json.corrupt").read_text() == text
    assert state.read_run() is None


def test_secrets_are_made_once_and_are_private(state):
    first = state.secrets()
    again = StateDir(state.path).secrets()
    assert first == again
    assert len({first.frame_secret, first.control_token, first.ray_token}) == 3
    assert min(map(len, (first.frame_secret, first.control_token, first.ray_token))) >= 32
    assert mode(state.path / "secrets.json") == 0o600
    assert mode(state.ray_token_path) == 0o600
    assert state.ray_token_path.read_text() == first.ray_token
    assert first.ray_token not in repr(first)


def test_secrets_that_others_can_read_are_refused(state):
    state.secrets()
    (state.path / "secrets.json").chmod(0o644)
    with pytest.raises(ControlError) as caught:
        state.secrets()
    assert "rm " in caught.value.hint


def test_only_one_owner_at_a_time(state):
    with state.lock(), pytest.raises(ControlError, match=f"pid {os.getpid()}"), state.lock():
        pass
    with state.lock():
        pass


def test_a_killed_owner_frees_the_lock(state):
    code = (
        "import sys; from pathlib import Path; from orchestrator.state_dir import StateDir\n"
        "with StateDir(Path(sys.argv[1])).lock():\n    print('held', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(state.path)],
        env=dict(os.environ) | {"PYTHONPATH": str(Path.cwd())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(ControlError, match=f"pid {owner.pid}"), state.lock():
            pass
        owner.kill()
    with state.lock():
        pass


def test_run_ids_differ():
    assert len({new_run_id() for _ in range(100)}) == 100
