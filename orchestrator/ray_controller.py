"""DOOR to Ray: the named detached actor on the head that hosts the `Controller` and its HTTP API."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import structlog

from actors.logs import configure, log_path, tail
from actors.names import CONTROLLER, GATEWAY_PREFIX
from actors.ray_replica import ReplicaJoin
from actors.report import NodeReport, Renewal
from actors.versions import versions
from placement.errors import SpecError

from .calibrations import FOLDER, CalibrationFolder
from .clock import WallClock
from .control.server import ControlApi
from .controller import Controller
from .gateway.ray_ingress import GatewayJoin
from .http_server import HttpServer
from .journal import JOURNAL, FileJournal
from .ray_cluster import RayCluster, with_deadline
from .ray_serve import ServeDeployments, start_gateways, start_serve
from .routing.replicas import RegistryTable, ReplicaEntry

log = structlog.get_logger()

SERVE_START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """What a controller is started with.

    Attributes:
        state_dir: folder of the journal and of `control.json`, on the head.
        token: of the control API.
        gateways: how many share the port.
        facts: shown by `status`.
    """

    state_dir: str
    token: str
    replicas: ReplicaJoin
    gateway: GatewayJoin
    gateways: int
    facts: dict[str, Any]


class _ControllerHost:
    """Starts the loop and the API; every method delegates to the controller."""

    def __init__(self, config: ControllerConfig) -> None:
        configure(log_path("controller"))
        self._config = config
        self._cluster = RayCluster(config.token)
        self._controller: Controller | None = None
        self._starting = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None
        self._url = ""

    @ray.method
    async def start(self) -> str:
        """Starts everything once; answers with the address of the control API."""
        await self._ready()
        return self._url

    async def _start(self) -> Controller:
        config = self._config
        direct = config.gateway.ingress == "own"
        port = None if direct else config.gateway.port
        # The agents' processes start beside that of Serve; the loop finds them later.
        for incarnation in await self._cluster.incarnations():
            await self._cluster.start_agent(incarnation)
        await with_deadline(lambda: start_serve(http_port=port), "starting Serve", SERVE_START_S)
        controller = Controller(
            cluster=self._cluster,
            deployments=ServeDeployments(join=config.replicas),
            journal=FileJournal(Path(config.state_dir) / JOURNAL),
            clock=WallClock(),
            calibrations=CalibrationFolder(Path(config.state_dir) / FOLDER),
            code=versions().code,
            agent_secret=config.token,
        )
        controller.restore()
        api = ControlApi(controller, self._logs, {**config.facts, "controller_pid": os.getpid()})
        self._url = await self._serve_api(api)
        self._running = asyncio.create_task(controller.run(), name="controller")
        await with_deadline(
            lambda: start_gateways(config.gateway, config.gateways), "starting gateways", 30.0
        )
        return controller

    async def _serve_api(self, api: ControlApi) -> str:
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        port = listener.getsockname()[1]
        await HttpServer(api.app(self._config.token), [listener]).start()
        url = f"http://127.0.0.1:{port}"
        _write_private(
            Path(self._config.state_dir) / "control.json",
            json.dumps({"url": url, "token": self._config.token}),
        )
        return url

    async def _logs(self, name: str, lines: int) -> str:
        if name == "controller":
            return tail(log_path("controller"), lines)
        if name == "gateway":
            names = [f"{GATEWAY_PREFIX}{index}" for index in range(self._config.gateways)]
            return "".join(tail(log_path(gateway), lines) for gateway in names)
        controller = await self._ready()
        nodes = controller.state.nodes
        if name in nodes:
            incarnation = nodes[name].report.incarnation
            return await self._cluster.agent_call(
                incarnation, "logs", f"agent-{incarnation[:12]}", lines
            )
        texts = [
            await self._cluster.agent_call(node.report.incarnation, "logs", name, lines)
            for node in nodes.values()
        ]
        text = "".join(dict.fromkeys(texts))
        if not text and name not in controller.state.slots:
            raise SpecError(f"no replica or node is called {name}", hint="shardyard ps")
        return text

    async def _ready(self) -> Controller:
        """The controller; a restarted actor starts it at the first call."""
        async with self._starting:
            if self._controller is None:
                self._controller = await self._start()
            return self._controller

    @ray.method
    async def report(self, report: NodeReport, token: str) -> tuple[str, ...]:
        """A node's agent tells all that it knows."""
        return await (await self._ready()).report(report, token)

    @ray.method
    async def renew(self, renewal: Renewal, token: str) -> tuple[str, ...] | None:
        """A node's agent renews its lease."""
        return await (await self._ready()).renew(renewal, token)

    @ray.method
    async def register(self, entry: ReplicaEntry) -> None:
        """A replica renews its row."""
        await (await self._ready()).register(entry)

    @ray.method
    async def deregister(self, slot: str, incarnation: str) -> None:
        """A replica says goodbye."""
        await (await self._ready()).deregister(slot, incarnation)

    @ray.method
    async def watch(self, version: int) -> RegistryTable:
        """The registry as soon as it differs from `version`."""
        return await (await self._ready()).watch(version)


def _write_private(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


ControllerHost = ray.remote(_ControllerHost)


def controller_options() -> dict[str, Any]:
    """Options of the one controller of a cluster."""
    return {
        "name": CONTROLLER,
        "namespace": "shardyard",
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_concurrency": 1000,
        "resources": {"node:__internal_head__": 0.001},
    }
