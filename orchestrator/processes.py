"""Processes that we own: started with a mark, found again by it, ended whole, also when their owner was killed.

Decides how processes start and end, when a run is abandoned, and which folders may be removed with it. Which processes
are ours is `families`' word, and nothing else is ever signalled. It must not know Ray or what the processes are for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from actors.names import RUN_ENV

from . import proc_fs
from .errors import ControlError
from .families import ROLE_ENV, Family, processes_of_run, running
from .proc_fs import Process
from .state_dir import ProcessRecord, RunRecord, StateDir

log = structlog.get_logger()

PROCESS_STARTED = "process.started"
PROCESS_SIGNALLED = "process.signalled"
RUN_REAPED = "run.reaped"
FOLDER_KEPT = "folder.kept"

TEMP_NAME = "shardyard"
"""First letters of every temporary folder of ours; no other folder is ever removed."""

SCAN_PERIOD_S = 0.2
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log_path: Path,
    role: str,
    run_id: str,
    die_with_parent: bool,
) -> ProcessRecord:
    """Starts a process in a session of its own, its output appended to a log.

    Args:
        role: unique in the run.
        die_with_parent: the kernel sends it SIGTERM when the *thread* that called `spawn` ends, so call it from the
            main thread.

    Raises:
        ControlError: the program cannot be started.
    """
    log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    parent = os.getpid()
    with os.fdopen(_private(log_path), "ab") as output:
        try:
            child = subprocess.Popen(  # noqa: S603 - our own command lines, no shell
                list(argv),
                env=dict(env) | marks(run_id, role),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=(lambda: _die_with(parent)) if die_with_parent else None,  # noqa: PLW1509 - prctl only
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ControlError(f"cannot start {argv[0]} ({role}): {error}") from error
    row = proc_fs.process(child.pid)
    assert row is not None, "a child that nobody has waited for is in /proc"
    record = ProcessRecord(
        pid=child.pid,
        start_ticks=row.start_ticks,
        pgid=child.pid,
        role=role,
        argv0=argv[0],
        run_id=run_id,
    )
    log.info(PROCESS_STARTED, role=role, pid=child.pid, log=str(log_path))
    return record


def _private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def marks(run_id: str, role: str) -> dict[str, str]:
    """The environment by which a process and its descendants are found again.

    `SPT_NOENV` keeps programs that rewrite their title (Ray's workers) from overwriting these very marks.
    """
    return {RUN_ENV: run_id, ROLE_ENV: role, "SPT_NOENV": "1"}


def _die_with(parent: int) -> None:
    """Runs in the child between fork and exec; the parent may have ended before the kernel was asked."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def alive(record: ProcessRecord) -> bool:
    """True while that very process runs; another one with its number does not count."""
    return running(record.pid, record.start_ticks)


def owner_alive(run: RunRecord) -> bool:
    """True while the process that started the run runs."""
    return running(run.owner_pid, run.owner_start_ticks)


def own_start_ticks() -> int:
    """When this process started, for the record of what it owns."""
    row = proc_fs.process(os.getpid())
    assert row is not None
    return row.start_ticks


def end(
    records: Iterable[ProcessRecord], *, term_s: float = 10.0, kill_s: float = 5.0
) -> tuple[int, ...]:
    """Ends processes with their whole families: SIGTERM to all, after `term_s` SIGKILL to what is left.

    A family is the process' session and group, its descendants, and what carries the marks of its run and role.

    Returns:
        Numbers of processes that are still there `kill_s` after SIGKILL (the kernel holds them); usually none.
    """
    return _end(Family(tuple(records)), term_s, kill_s)


def end_run(
    run_id: str, records: Iterable[ProcessRecord] = (), *, term_s: float = 10.0, kill_s: float = 5.0
) -> tuple[int, ...]:
    """Ends everything of a run, recorded or only marked. Returns as `end`."""
    return _end(Family(tuple(records), run_id=run_id), term_s, kill_s)


def _end(family: Family, term_s: float, kill_s: float) -> tuple[int, ...]:
    _signal_until_gone(family, signal.SIGTERM, term_s)
    left = _signal_until_gone(family, signal.SIGKILL, kill_s)
    family.collect()
    return tuple(row.pid for row in left)


def _signal_until_gone(family: Family, number: signal.Signals, limit_s: float) -> list[Process]:
    """Signals each process once, also those that appear meanwhile; what is left at the limit."""
    deadline = time.monotonic() + limit_s
    signalled: set[tuple[int, int]] = set()
    while left := family.scan():
        for row in left:
            if (row.pid, row.start_ticks) not in signalled:
                signalled.add((row.pid, row.start_ticks))
                _signal(row, number)
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            return left
        _wait_for_any(left, min(remaining_s, SCAN_PERIOD_S))
    return []


@contextlib.contextmanager
def _pinned(row: Process) -> Generator[int | None]:
    """A descriptor that means this very process, whatever happens to its number; None when it has ended."""
    try:
        descriptor = os.pidfd_open(row.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor if running(row.pid, row.start_ticks) else None
    finally:
        os.close(descriptor)


def _signal(row: Process, number: signal.Signals) -> None:
    with _pinned(row) as descriptor, contextlib.suppress(ProcessLookupError):
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, number)
            log.info(PROCESS_SIGNALLED, pid=row.pid, signal=number.name)


def _wait_for_any(rows: Sequence[Process], limit_s: float) -> None:
    """Returns when one of the processes has ended, or at the limit."""
    poller = select.poll()
    with contextlib.ExitStack() as stack:
        for row in rows:
            descriptor = stack.enter_context(_pinned(row))
            if descriptor is None:
                return
            poller.register(descriptor, select.POLLIN)
        poller.poll(limit_s * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaped:
    """What a killed owner had left. `remaining` are processes that even SIGKILL did not end."""

    run_id: str
    processes: tuple[ProcessRecord, ...]
    folders: tuple[str, ...]
    remaining: tuple[int, ...]


def abandoned(run: RunRecord) -> bool:
    """True when nobody will end the run any more: its owner is gone and, if it may outlive its owner, so is the rest."""
    if owner_alive(run):
        return False
    outlives = run.mode in ("detached", "node", "joined")
    return not (outlives and any(alive(record) for record in run.processes))


def reap(
    state: StateDir, *, force: bool = False, term_s: float = 10.0, kill_s: float = 5.0
) -> Reaped | None:
    """Undoes what an abandoned run left; call it with the state folder locked.

    Args:
        force: also when the run is not abandoned (`down`).

    Returns:
        None when there is nothing to undo. The record stays while processes remain.
    """
    run = state.read_run()
    if run is None or not (force or abandoned(run)):
        return None
    marked = processes_of_run(run.run_id)
    recorded = [r for r in run.processes if alive(r) and r.pid not in {m.pid for m in marked}]
    remaining = end_run(run.run_id, run.processes, term_s=term_s, kill_s=kill_s)
    folders = () if remaining else _remove_folders(run)
    if not remaining:
        state.clear_run()
    reaped = Reaped(
        run_id=run.run_id,
        processes=(*recorded, *marked),
        folders=folders,
        remaining=remaining,
    )
    log.info(RUN_REAPED, run=run.run_id, processes=len(reaped.processes), folders=list(folders))
    return reaped


def _remove_folders(run: RunRecord) -> tuple[str, ...]:
    return tuple(
        folder for folder in run.temp_dirs if _remove_folder(Path(folder), run.temp_prefix)
    )


def _remove_folder(folder: Path, prefix: str) -> bool:
    """Removes a real folder of ours at or below the prefix; anything else stays, with an event."""
    if not folder.exists():
        return False
    top = Path(prefix).resolve()
    inside = folder.resolve() == top or top in folder.resolve().parents
    ours = not folder.is_symlink() and folder.stat().st_uid == os.geteuid()
    if not (prefix and top.name.startswith(TEMP_NAME) and inside and ours):
        log.warning(FOLDER_KEPT, folder=str(folder), prefix=prefix)
        return False
    shutil.rmtree(folder, onerror=_kept)
    return not folder.exists()


def _kept(_function: Callable[..., object], path: str, error: object) -> None:
    log.warning(FOLDER_KEPT, folder=path, error=repr(error))
