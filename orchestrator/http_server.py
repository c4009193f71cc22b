"""Our own HTTP server on sockets that are bound already, and binding them. It must not know what it serves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Generator, Sequence

import structlog
import uvicorn
from starlette.types import ASGIApp

from .errors import ControlError, PortTaken

log = structlog.get_logger()

BACKLOG = 2048
KEEP_ALIVE_S = 75
START_TIMEOUT_S = 10.0


def bind(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    """A listening socket. `reuse_port` shares it with the other gateways of the same cluster.

    Raises:
        PortTaken: somebody listens there.
        ControlError: the address is not of this machine, or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _cannot_bind(host, port, error) from error
    return listener


def _cannot_bind(host: str, port: int, error: OSError) -> ControlError:
    if error.errno == errno.EADDRINUSE:
        return PortTaken(
            f"port {port} on {host} is taken by another process",
            hint=f"shardyard up --port {port + 1 if port < 65535 else 8000}, "
            "or shardyard down for the cluster that has it",
            host=host,
            port=port,
        )
    return ControlError(
        f"cannot listen on {host} port {port}: {error.strerror}",
        hint="give an address of this machine and a port above 1023",
        host=host,
        port=port,
    )


class _Quiet(uvicorn.Server):
    """uvicorn without signal handlers, telling when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """The owner of the process handles signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        self.listening.set()


class HttpServer:
    """Serves one application on sockets that are bound already."""

    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket]) -> None:
        self._sockets = list(sockets)
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            date_header=True,
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=BACKLOG,
        )
        self._config = config
        self._server = _Quiet(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._task = asyncio.create_task(self._server.serve(self._sockets))
        await asyncio.wait_for(self._server.listening.wait(), START_TIMEOUT_S)

    def check(self) -> None:
        """Raises when the server has ended.

        Raises:
            ControlError: the listener is gone.
        """
        if self._task is None or self._task.done():
            raise ControlError("the listener is gone")

    async def stop(self, drain_s: float) -> None:
        """Accepts no more, lets running requests finish for at most `drain_s`, then cuts them."""
        if self._task is None:
            return
        self._config.timeout_graceful_shutdown = max(1, round(drain_s))
        self._server.should_exit = True
        await asyncio.wait([self._task], timeout=drain_s + START_TIMEOUT_S)
        log.info("server.stopped")
