"""A connection that speaks frames: reading, writing coalesced per loop turn, backpressure. Both sides build on it.

It must not know what a frame means. Writes wait for the end of the loop turn and never for a timer: all streams of
one engine step travel in one write, and no token waits for company.
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import structlog

from .wire import Frame, FrameReader, WireError

log = structlog.get_logger()

USER_TIMEOUT_MS = 10_000
"""Unacknowledged data for this long means a cut link, which sends no EOF."""


class FramedConnection(asyncio.Protocol):
    """Cuts what arrives into frames for `received`, and gathers what `send` is given."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.paused = False

    @property
    def open(self) -> bool:
        """Whether frames can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def received(self, frame: Frame) -> None:
        """Takes one frame; a `WireError` from here ends the connection."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection is gone; called once."""
        raise NotImplementedError

    def writable(self) -> None:
        """The peer reads again after a pause."""

    def send(self, data: bytes) -> None:
        """Queues one encoded frame for this loop turn's write; dropped when the connection is gone."""
        self._out.append(data)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def hang_up(self) -> None:
        """Sends what is queued, then closes."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once; queued frames are lost."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        self._flush_scheduled = False
        out = self._out
        self._out = []
        if out and self.open and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport; no small-packet delay, and a bound on silence of the network."""
        self._transport = cast("asyncio.Transport", transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)

    def data_received(self, data: bytes) -> None:
        """Hands over complete frames; a broken peer is cut off."""
        try:
            for frame in self._reader.feed(data):
                self.received(frame)
        except WireError as error:
            log.warning("connection.malformed", error=error.message)
            self.abort()

    def pause_writing(self) -> None:
        """The peer does not read; senders hold back."""
        self.paused = True

    def resume_writing(self) -> None:
        """The peer reads again."""
        self.paused = False
        self.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the transport."""
        self._transport = None
        self._out.clear()
        self.lost()
