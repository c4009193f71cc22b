"""One process of a server's group on another node than the server's: started there, watched, ended.

Decides how a `Peer` becomes a supervised process tree on its node. It must not know how its node was reached.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import structlog

from ..engine import EngineConfig
from ..environments import interpreter, variables
from ..errors import LoadFailed
from ..vendors import visibility
from .endings import meaning
from .launch import environment_of, order_of, private_folder
from .node_group import Peer
from .process import ServerProcess
from .spec import Ending

log = structlog.get_logger()

PEER_STARTED = "peer.started"
PEER_ENDED = "peer.ended"
GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOrder:
    """A peer and what its node must know to start it.

    Attributes:
        engine, environment: names.
        config: of the engine, with the devices and the model's path of the peer's own node.
        endings: what its ends mean.
    """

    engine: str
    environment: str
    peer: Peer
    config: EngineConfig
    endings: tuple[Ending, ...] = ()


class PeerProcess:
    """A running peer. Create it on a running event loop.

    Raises:
        LoadFailed: its environment is not built on this node, or nothing private can be made.
    """

    def __init__(self, order: PeerOrder) -> None:
        found = interpreter(order.environment) if order.environment else Path(sys.executable)
        if found is None:
            raise LoadFailed(
                f"the environment {order.environment!r} of engine {order.engine} is not built here",
                hint=f"shardyard env create {order.environment}",
            )
        self._order = order
        marked, folder = private_folder(order.config.owner, secrets.token_hex(4))
        try:
            environment = environment_of(order.config, found, folder, marked) | _variables(order)
            told = order_of(
                command(order, found), environment, folder, order.config, grace_s=GRACE_S
            )
            self._process = ServerProcess(told, marked)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        log.info(PEER_STARTED, engine=order.engine, host=order.peer.host, pid=self._process.pid)

    @property
    def server_pid(self) -> int | None:
        """Of the process itself; None before it has started."""
        return self._process.server_pid

    def processes(self) -> tuple[int, ...]:
        """Its supervisor and everything below it."""
        return self._process.processes()

    async def ended(self) -> str:
        """Waits for its end; says why it ended."""
        await self._process.gone.wait()
        reason, _ = meaning(self._process.ended, self._order.endings)
        return f"its process on {self._order.peer.host} ended: {reason}"

    async def end(self) -> None:
        """Ends it and everything that it started. Idempotent."""
        if not self._process.gone.is_set():
            await self._process.end()
            log.info(PEER_ENDED, engine=self._order.engine, host=self._order.peer.host)


def command(order: PeerOrder, python: Path) -> tuple[str, ...]:
    """The peer's command with what only its node knows."""
    values = {
        "python": str(python),
        "bin": str(python.parent),
        "model": order.config.model_path,
    }
    return tuple(word.format_map(values) for word in order.peer.argv)


def _variables(order: PeerOrder) -> dict[str, str]:
    given, _ = visibility(order.config.family, order.peer.handles)
    own = {name: value for name, value in order.peer.variables.items() if value}
    recipe = variables(order.environment) if order.environment else {}
    return {**recipe, **given, **own}
