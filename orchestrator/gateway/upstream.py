"""Connections to the replicas that the registry lists: made, watched, made again.

Decides when a replica counts as connected. It must not know which replica a request should go to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Protocol

import structlog

from actors.wire import Hello, Open, Welcome

from ..routing.pick import ReplicaKey, ReplicaLoad, key_of
from ..routing.registry import Registry
from ..routing.replicas import RegistryTable, ReplicaEntry
from .link import Link, Stream

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 5.0
PING_PERIOD_S = 1.0
UNANSWERED_PINGS = 5
"""Counted in pings, not in seconds: a gateway that was frozen itself blames nobody."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class ReplicaLost(Exception):
    """There is no connection to the replica."""


class Upstreams(Protocol):
    """The replicas as the dispatcher sees them."""

    def table(self) -> RegistryTable:
        """The registry's last table."""
        ...

    def loads(self) -> Mapping[ReplicaKey, ReplicaLoad]:
        """What is known of each replica now."""
        ...

    def open(self, key: ReplicaKey, request: Open, silence_s: float) -> Stream:
        """Opens a stream; raises `ReplicaLost` when the replica is not connected."""
        ...


class Upstream:
    """One replica: keeps a connection to it for as long as it is listed."""

    def __init__(self, replica: ReplicaEntry, hello: Hello, ping_period_s: float) -> None:
        self._replica = replica
        self._ping_period_s = ping_period_s
        self._hello = hello
        self._link: Link | None = None
        self._retired = False
        self.tried = asyncio.Event()
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    @property
    def state(self) -> str:
        """As the replica last said; `down` without a connection."""
        link = self._link
        return link.state if link is not None and link.open else "down"

    @property
    def outstanding(self) -> int:
        """Our streams, and those of other gateways as of the replica's last word."""
        link = self._link
        return 0 if link is None else link.streams + link.elsewhere

    def start(self, request: Open, silence_s: float) -> Stream:
        """Opens a stream."""
        link = self._link
        if link is None or not link.open:
            raise ReplicaLost(self._replica.slot)
        return link.start(request, silence_s)

    def retire(self) -> None:
        """The registry lists it no longer: streams finish, then the connection closes."""
        self._retired = True

    async def close(self) -> None:
        """Ends the connection now."""
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper

    async def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        try:
            while not self._retired:
                link = await self._connect()
                self._link = link or self._link
                self.tried.set()
                if link is not None:
                    pause_s = FIRST_PAUSE_S
                    await self._watch(link)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            if self._link is not None:
                self._link.abort()

    async def _connect(self) -> Link | None:
        """A connection that was welcomed, or None."""
        replica = self._replica
        loop = asyncio.get_running_loop()
        link: Link | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, link = await loop.create_connection(
                    lambda: Link(self._hello), replica.host, replica.port
                )
                answer = await link.welcome
        except OSError:  # TimeoutError is one
            if link is not None:
                link.abort()
            return None
        if isinstance(answer, Welcome) and answer.incarnation == replica.incarnation:
            return link
        reason = "another incarnation" if isinstance(answer, Welcome) else answer.code
        log.warning("replica.refused", slot=replica.slot, reason=reason)
        link.abort()
        return None

    async def _watch(self, link: Link) -> None:
        """Returns when the connection is lost, has stalled, or is not needed any more."""
        while not link.closed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.closed.wait(), self._ping_period_s)
            if link.unanswered_pings >= UNANSWERED_PINGS:
                log.warning("replica.stalled", slot=self._replica.slot, streams=link.streams)
                link.abort()
            elif self._retired and link.streams == 0:
                link.abort()
                return
            else:
                link.ping()
        log.info("replica.disconnected", slot=self._replica.slot)


class ReplicaUpstreams:
    """The connections of one gateway, following the registry."""

    def __init__(
        self,
        registry: Registry,
        *,
        secret: str,
        gateway: str,
        ping_period_s: float = PING_PERIOD_S,
    ) -> None:
        self._ping_period_s = ping_period_s
        self._registry = registry
        self._hello = Hello(secret=secret, gateway=gateway)
        self._upstreams: dict[ReplicaKey, Upstream] = {}
        self._retired: list[Upstream] = []

    def start(self) -> None:
        """Connects to what is listed, now and after every change. Call on the gateway's loop."""
        self._registry.follow(self._follow)
        self._follow(self._registry.table())

    async def tried(self) -> None:
        """Returns once every listed replica was connected to, or could not be."""
        for upstream in list(self._upstreams.values()):
            await upstream.tried.wait()

    def table(self) -> RegistryTable:
        """The registry's last table."""
        return self._registry.table()

    def loads(self) -> Mapping[ReplicaKey, ReplicaLoad]:
        """What is known of each replica now."""
        return self._upstreams

    def open(self, key: ReplicaKey, request: Open, silence_s: float) -> Stream:
        """Opens a stream."""
        upstream = self._upstreams.get(key)
        if upstream is None:
            raise ReplicaLost(key[0])
        return upstream.start(request, silence_s)

    async def close(self) -> None:
        """Ends every connection."""
        closing = [*self._upstreams.values(), *self._retired]
        self._upstreams.clear()
        self._retired.clear()
        for upstream in closing:
            await upstream.close()

    def _follow(self, table: RegistryTable) -> None:
        listed = {key_of(r): r for r in table.replicas if r.port}
        self._retired = [old for old in self._retired if old.state != "down"]
        for key in [key for key in self._upstreams if key not in listed]:
            upstream = self._upstreams.pop(key)
            upstream.retire()
            self._retired.append(upstream)
        for key, replica in listed.items():
            if key not in self._upstreams:
                self._upstreams[key] = Upstream(replica, self._hello, self._ping_period_s)
