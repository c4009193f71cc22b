"""Starts Ray's processes as children that are recorded, and waits until they are up. Imports no Ray."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import ControlError
from .processes import alive, end, own_start_ticks, spawn
from .raylets import NodeSettings, RaySettings, head_command, ray_environment, worker_command
from .sockets import free_port
from .state_dir import ProcessRecord, RunMode, RunRecord, StateDir, new_run_id

STARTED = b"Ray runtime started"
UP_TIMEOUT_S = 60.0
TRIES = 3
"""A raylet whose agent is slow to answer (a busy machine) ends itself; a second start usually succeeds."""

POLL_S = 0.1


@dataclass(slots=True)
class OwnedRay:
    """The Ray processes of one run. Every start is on record before anybody waits for it."""

    state: StateDir
    run: RunRecord
    shared: RaySettings
    environ: Mapping[str, str]
    die_with_parent: bool

    def start_head(
        self, node: NodeSettings, *, host: str, port: int = 0, dashboard_port: int = 0
    ) -> str:
        """Starts a head and returns its address `host:port`; a port 0 = a free one.

        Raises:
            ControlError: it did not come up; the log is named.
        """

        def command() -> list[str]:
            chosen = port or free_port()
            self._record(replace(self.run, address=f"{host}:{chosen}"))
            return head_command(
                self.shared,
                node,
                host=host,
                port=chosen,
                dashboard_port=dashboard_port or free_port(),
                agent_port=free_port(),
                client_port=free_port(),
            )

        self._start("ray-head", command, node)
        return self.run.address

    def start_worker(self, node: NodeSettings, *, address: str, host: str = "") -> None:
        """Starts a node that joins the cluster at `address`. Raises as `start_head`."""
        role = f"ray-node-{node.name}" if node.name else "ray-node"
        self._start(
            role,
            lambda: worker_command(node, address=address, agent_port=free_port(), host=host),
            node,
        )

    def joins(self, address: str) -> None:
        """Records a cluster of somebody else's; nothing of it is ever ended."""
        self._record(replace(self.run, address=address))

    def environment(self, node: NodeSettings | None = None) -> dict[str, str]:
        """The environment of a process that belongs to the run."""
        return ray_environment(self.environ, self.shared, node or NodeSettings())

    def _start(self, role: str, command: Callable[[], list[str]], node: NodeSettings) -> None:
        log_path = self.state.logs / f"{self.run.run_id}-{role}.log"
        for attempt in range(1, TRIES + 1):
            record = spawn(
                command(),
                env=self.environment(node),
                log_path=log_path,
                role=role,
                run_id=self.run.run_id,
                die_with_parent=self.die_with_parent,
            )
            self._record(replace(self.run, processes=(*self.run.processes, record)))
            if _came_up(record, log_path):
                return
            end([record])
            kept = tuple(p for p in self.run.processes if p != record)
            self._record(replace(self.run, processes=kept))
            log_path.replace(log_path.with_suffix(f".{attempt}.log"))
        kept_log = log_path.with_suffix(f".{TRIES}.log")
        last = (kept_log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise ControlError(
            f"Ray did not come up in {TRIES} tries ({role}): {last[:300]}",
            hint=f"read {kept_log}    or run    shardyard doctor",
        )

    def _record(self, run: RunRecord) -> None:
        self.run = run
        self.state.write_run(run)


def new_run(
    state: StateDir,
    mode: RunMode,
    *,
    environ: Mapping[str, str],
    authenticated: bool,
    die_with_parent: bool,
) -> OwnedRay:
    """A fresh run with a temporary folder of its own, recorded."""
    run_id = new_run_id()
    temp_dir = Path(tempfile.gettempdir()) / f"shardyard-{run_id[:8]}"
    temp_dir.mkdir(mode=0o700)
    run = RunRecord(
        run_id=run_id,
        mode=mode,
        owner_pid=os.getpid(),
        owner_start_ticks=own_start_ticks(),
        temp_prefix=str(temp_dir),
        temp_dirs=(str(temp_dir),),
    )
    state.write_run(run)
    state.secrets()
    token_path = state.ray_token_path if authenticated else None
    shared = RaySettings(run_id=run_id, temp_dir=temp_dir, token_path=token_path)
    return OwnedRay(
        state=state, run=run, shared=shared, environ=environ, die_with_parent=die_with_parent
    )


def _came_up(record: ProcessRecord, log_path: Path) -> bool:
    deadline = time.monotonic() + UP_TIMEOUT_S
    while time.monotonic() < deadline and alive(record):
        if STARTED in log_path.read_bytes():
            return True
        time.sleep(POLL_S)
    return False
