"""A whole gateway on one listener for the length of a block: for processes that are not Ray's."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..http_server import HttpServer
from .app import Gateway
from .upstream import ReplicaUpstreams


@asynccontextmanager
async def serving(
    gateway: Gateway, upstreams: ReplicaUpstreams, listener: socket.socket, *, drain_s: float
) -> AsyncGenerator[None]:
    """A gateway that answers on `listener` until the block ends, then drains."""
    server = HttpServer(gateway.app, [listener])
    upstreams.start()
    try:
        await server.start()
        yield
    finally:
        gateway.drain()
        await server.stop(drain_s)
        await upstreams.close()
