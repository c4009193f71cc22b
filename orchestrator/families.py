"""Which processes belong to us: recorded ones with their families, and whatever carries the mark of a run.

Decides by number *and* start time, session, descent and environment; never by name. It must not signal anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from actors.names import RUN_ENV

from . import proc_fs
from .proc_fs import Process
from .state_dir import ProcessRecord

ROLE_ENV = "SHARDYARD_ROLE"


def running(pid: int, start_ticks: int) -> bool:
    """True while the process with that number and that start time runs."""
    row = proc_fs.process(pid)
    return row is not None and row.running and row.start_ticks == start_ticks


def processes_of_run(run_id: str) -> tuple[ProcessRecord, ...]:
    """Every process that carries the mark of a run, except ourselves and those that started us."""
    return tuple(_record(row, env) for row, env in _marked(proc_fs.processes(), run_id))


def _marked(
    rows: Mapping[int, Process], run_id: str
) -> Iterator[tuple[Process, Mapping[str, str]]]:
    if not run_id:
        return
    spared = _ancestry(rows)
    for row in rows.values():
        if row.pid not in spared and (env := proc_fs.environment(row.pid)).get(RUN_ENV) == run_id:
            yield row, env


def _record(row: Process, env: Mapping[str, str]) -> ProcessRecord:
    return ProcessRecord(
        pid=row.pid,
        start_ticks=row.start_ticks,
        pgid=row.pgid,
        role=env.get(ROLE_ENV, ""),
        argv0=proc_fs.command(row.pid),
        run_id=env.get(RUN_ENV, ""),
    )


def _ancestry(rows: Mapping[int, Process]) -> set[int]:
    """Ourselves and our ancestors, which are never ours to end."""
    pids: set[int] = set()
    pid = os.getpid()
    while pid and pid not in pids:
        pids.add(pid)
        pid = rows[pid].ppid if pid in rows else 0
    return pids


class Family:
    """Finds, scan after scan, what belongs to the records; a process once found stays found until it ends."""

    def __init__(self, records: tuple[ProcessRecord, ...], run_id: str = "") -> None:
        self._roles = {(r.run_id, r.role) for r in records if r.run_id and r.role}
        self._run_id = run_id
        self._known = {r.pid: r.start_ticks for r in records}
        self._seen = dict(self._known)

    def scan(self) -> list[Process]:
        """What of it runs now, by number."""
        rows = proc_fs.processes()
        spared = _ancestry(rows)
        mine = {p for p, t in self._known.items() if p in rows and rows[p].start_ticks == t}
        mine -= spared
        leaders = {rows[p].session for p in mine} & mine
        mine |= {row.pid for row in rows.values() if row.session in leaders}
        mine = (mine | self._with_mark(rows)) - spared
        mine |= _descendants(rows, mine)
        found = [rows[pid] for pid in sorted(mine - spared)]
        self._known = {row.pid: row.start_ticks for row in found}
        self._seen |= self._known
        return found

    def collect(self) -> None:
        """Takes the exit status of our own children among them, which would stay as zombies."""
        for pid, start_ticks in self._seen.items():
            row = proc_fs.process(pid)
            if row is not None and row.start_ticks == start_ticks and row.ppid == os.getpid():
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _with_mark(self, rows: Mapping[int, Process]) -> set[int]:
        found = {row.pid for row, _ in _marked(rows, self._run_id)}
        for run_id in {run for run, _ in self._roles}:
            found |= {
                row.pid
                for row, env in _marked(rows, run_id)
                if (run_id, env.get(ROLE_ENV, "")) in self._roles
            }
        return found


def _descendants(rows: Mapping[int, Process], roots: set[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for row in rows.values():
        children.setdefault(row.ppid, []).append(row.pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found
