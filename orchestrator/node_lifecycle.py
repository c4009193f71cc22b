"""Makes this machine a node of a cluster: `node start` and `node stop`. Knows processes and files, no Ray."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from .emulation import settings_of
from .errors import ControlError
from .lab_file import Lab, LabNode, load_lab
from .lifecycle import TERM_S, Say
from .processes import abandoned, alive, reap
from .raylet_processes import new_run
from .raylets import NodeSettings
from .settings import Settings
from .sockets import own_address, require_answer
from .state_dir import ProcessRecord, StateDir

WATCH_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRequest:
    """What `node start` was asked for.

    Attributes:
        address: of the head to join; None = begin a new cluster here.
        port: of the new head.
        dashboard_port: of the new head, on its loopback; `ray job submit` goes there.
        host: address of this machine that the others reach; "" = found from its routes.
        emulate: a lab file; the node pretends to be its node `name`.
        block: stay until a signal, for a service manager.
    """

    address: str | None = None
    port: int = 6379
    dashboard_port: int = 8265
    host: str = ""
    name: str = ""
    rack: str = ""
    emulate: Path | None = None
    block: bool = False


def node_start(request: NodeRequest, settings: Settings, say: Say) -> str:
    """Starts Ray on this machine as a node that declares its own devices; returns the cluster's address.

    Raises:
        ControlError: a node is running here already, or Ray does not come up.
    """
    lab_node = _lab_node(request)
    if request.address is not None:
        require_answer(request.address)
    state = StateDir(settings.state)
    stop = threading.Event()
    with state.lock():
        run = state.read_run()
        if run is not None and abandoned(run):
            reap(state)
        elif run is not None:
            raise ControlError(
                f"something of yours runs here already ({run.mode}, Ray at {run.address})",
                hint="shardyard node stop    or    shardyard down",
            )
        ray = new_run(
            state,
            "node",
            environ=os.environ,
            authenticated=False,
            die_with_parent=False,
        )
        try:
            node = _settings(request, lab_node, ray.shared.temp_dir)
            if request.address is None:
                ray.start_head(
                    node,
                    host=request.host or own_address(),
                    port=request.port,
                    dashboard_port=request.dashboard_port,
                )
            else:
                ray.joins(request.address)
                ray.start_worker(node, address=request.address, host=request.host)
        except BaseException:
            reap(state, force=True)
            raise
    say(f"this machine is a node of the Ray cluster at {ray.run.address}")
    if request.block:
        _block(stop, ray.run.processes)
        node_stop(settings, say)
    return ray.run.address


def node_stop(settings: Settings, say: Say) -> bool:
    """Ends what `node start` started here; False when nothing was."""
    state = StateDir(settings.state)
    with state.lock():
        run = state.read_run()
        if run is None or run.mode != "node":
            say("no node was started here")
            return False
        reap(state, force=True, term_s=TERM_S)
    say("this machine has left the cluster")
    return True


def _lab_node(request: NodeRequest) -> tuple[LabNode, Lab] | None:
    """The node of a lab file that this machine shall pretend to be; None = it is itself."""
    if request.emulate is None:
        return None
    lab = load_lab(request.emulate)
    found = next((node for node in lab.nodes if node.id == request.name), None)
    if found is None:
        names = ", ".join(node.id for node in lab.nodes)
        raise ControlError(
            f"{request.emulate} has no node {request.name!r}", hint=f"--name, one of: {names}"
        )
    return found, lab


def _settings(
    request: NodeRequest, lab_node: tuple[LabNode, Lab] | None, folder: Path
) -> NodeSettings:
    if lab_node is None:
        return NodeSettings(name=request.name, rack=request.rack)
    found, lab = lab_node
    settings = settings_of(found, lab.inventory, folder)
    return replace(settings, rack=request.rack or settings.rack)


def _block(stop: threading.Event, processes: tuple[ProcessRecord, ...]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    while not stop.wait(WATCH_PERIOD_S):
        if not all(alive(record) for record in processes):
            return
