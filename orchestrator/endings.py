"""When a run ends: with its command, because its spec was refused, or only when somebody says so."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from placement.errors import SpecError

from .deploying import SpecInfeasible
from .errors import ControlError
from .journal import JOURNAL
from .launcher import launch
from .processes import reap
from .settings import Settings
from .state_dir import RunRecord, StateDir

TERM_S = 3.0
"""Streams end with the cluster anyway, so its processes get little time before they are killed."""

Say = Callable[[str], None]


@contextmanager
def ends_here(run: RunRecord, state: StateDir, settings: Settings, say: Say) -> Iterator[None]:
    """A foreground run ends with this command, whatever happened."""
    try:
        yield
    finally:
        with suppress(OSError):  # whoever read our output may be gone
            say("stopping ...")
        with state.lock():
            end(run, state, settings, TERM_S)
        with suppress(OSError):
            say("stopped: no process, port or temporary folder is left")


@contextmanager
def ends_if_refused(
    run: RunRecord, state: StateDir, settings: Settings, say: Say
) -> Iterator[None]:
    """A run that was started for a spec which cannot be served ends again; otherwise it stays for `down`."""
    try:
        yield
    except (SpecInfeasible, SpecError):
        with state.lock():
            end(run, state, settings, TERM_S)
        say("ended again: the cluster was started for a spec that cannot be served")
        raise


@contextmanager
def stays(_run: RunRecord, _state: StateDir, _settings: Settings, _say: Say) -> Iterator[None]:
    """A cluster that was up before stays up, whatever becomes of the spec."""
    yield


def end(run: RunRecord, state: StateDir, settings: Settings, term_s: float) -> None:
    """Call it with the state folder locked."""
    if run.mode == "joined":
        launch({"action": "stop", "address": run.address}, env=os.environ, folder=state.path)
    reaped = reap(state, force=True, term_s=term_s)
    settings.control_file.unlink(missing_ok=True)
    # Who ends a cluster on purpose wants nothing back; after a crash the journal is still there.
    (state.path / JOURNAL).unlink(missing_ok=True)
    if reaped is not None and reaped.remaining:
        raise ControlError(
            f"the kernel still holds processes {reaped.remaining}", hint="shardyard down"
        )


@contextmanager
def signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM interrupt the work once; a background job of a shell ignores SIGINT unless told."""

    def interrupt(_number: int, _frame: object) -> None:
        if not stop.is_set():
            stop.set()
            raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
