"""DOOR to Ray Serve: the deployment that hosts a gateway.

Normally the gateway runs a server of its own on a port that it shares with its siblings (`ingress: own`); for clusters
whose users want plain Serve HTTP the same ASGI app is mounted as an ordinary Serve ingress (`ingress: serve`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import ray
import structlog
from ray import serve
from starlette.types import ASGIApp

from actors.logs import configure, log_path
from actors.names import CONTROLLER, NAMESPACE
from actors.versions import versions

from ..http_server import HttpServer, bind
from ..routing.registry import StaticRegistry
from ..routing.replicas import RegistryTable
from .app import Gateway, GatewayConfig
from .upstream import ReplicaUpstreams

log = structlog.get_logger()

WATCH_TIMEOUT_S = 30.0
AWAY_PAUSE_S = 0.5
DRAIN_S = 25.0
FIRST_TABLE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayJoin:
    """What a gateway needs to serve: where to listen and the secret of the frames."""

    secret: str
    host: str
    port: int
    cors_origins: tuple[str, ...] = ()
    ingress: Literal["own", "serve"] = "own"


class Membership:
    """A gateway, its connections to the replicas, and the task that follows the controller's registry."""

    def __init__(self, join: GatewayJoin) -> None:
        name = serve.get_replica_context().app_name
        configure(log_path(name))
        config = GatewayConfig(version=versions().shardyard, cors_origins=join.cors_origins)
        self._registry = StaticRegistry(RegistryTable(version=-1))
        self._upstreams = ReplicaUpstreams(self._registry, secret=join.secret, gateway=name)
        self.gateway = Gateway(config, self._upstreams)
        self._following: asyncio.Task[None] | None = None
        self._listed = asyncio.Event()

    async def start(self) -> None:
        """Returns once it knows the replicas, so that a new gateway denies no model that its siblings serve.

        Without a controller it goes on after FIRST_TABLE_S and answers 503 until it has one. Call on the loop that
        serves the app.
        """
        self._upstreams.start()
        self._following = asyncio.get_running_loop().create_task(self._follow())
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TABLE_S):
                await self._listed.wait()
                await self._upstreams.tried()

    async def close(self) -> None:
        """Ends every connection."""
        if self._following is not None:
            self._following.cancel()
        await self._upstreams.close()

    async def _follow(self) -> None:
        """Long-polls the controller; while it is away the last table stays."""
        while True:
            version = self._registry.table().version
            try:
                controller = await asyncio.to_thread(ray.get_actor, CONTROLLER, NAMESPACE)
                call = controller.watch.remote(version)
                table = await asyncio.wait_for(call, WATCH_TIMEOUT_S)
            except (ray.exceptions.RayError, ValueError, TimeoutError) as error:
                log.warning("registry.away", error=type(error).__name__)
                await asyncio.sleep(AWAY_PAUSE_S)
                continue
            if table.version != version:
                self._registry.update(table)
                self._listed.set()


class GatewayHost:
    """A gateway with a server of its own; Serve only supervises it."""

    async def __init__(self, join: GatewayJoin) -> None:
        self._membership = Membership(join)
        await self._membership.start()
        listener = bind(join.host, join.port, reuse_port=True)
        self._server = HttpServer(self._membership.gateway.app, [listener])
        await self._server.start()

    async def check_health(self) -> None:
        """Serve's probe: the server still listens."""
        self._server.check()

    async def __del__(self) -> None:
        """Serve removes the gateway: running responses finish first."""
        self._membership.gateway.drain()
        await self._server.stop(DRAIN_S)
        await self._membership.close()


@serve.ingress()
class IngressHost:
    """The same app behind Serve's own HTTP proxy."""

    async def __init__(self, join: GatewayJoin) -> None:
        self._membership = Membership(join)
        await self._membership.start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app."""
        return self._membership.gateway.app
