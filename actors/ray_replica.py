"""DOOR to Ray Serve: the deployment that hosts one `Replica` and keeps its row in the controller's registry.

The process ends itself when its engine is dead: Serve then replaces it at its next health check, while a health check
that fails must fail three times.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import ray
import structlog
from ray import serve

from .errors import EngineCrashed, LoadFailed, ModelMissing
from .logs import configure, log_path
from .names import CONTROLLER, NAMESPACE
from .plugins import make_engine
from .registry import ReplicaEntry
from .replica import Replica, ReplicaConfig
from .slot import SlotSpec
from .sources import resolve
from .text import TextModel

log = structlog.get_logger()

RENEW_S = 1.0
RENEW_TIMEOUT_S = 3.0
FIRST_ERROR_FRAMES_S = 0.2
"""Time for the last error frames to leave before the process ends."""

LONGEST_DRAIN_S = 25.0
"""Below Serve's own limit, so that streams that are cut get their error frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaJoin:
    """What a replica needs to be found: the secret of the frames, and where to listen ("" = its node's address)."""

    secret: str
    host: str = ""


class ReplicaHost:
    """One Serve replica of one slot."""

    async def __init__(self, slot: SlotSpec, join: ReplicaJoin) -> None:
        configure(log_path(slot.id))
        self._slot = slot
        self._incarnation = serve.get_replica_context().replica_tag
        self._host = join.host or ray.util.get_node_ip_address()
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        config = ReplicaConfig(
            slot=slot,
            incarnation=self._incarnation,
            model_path=model_path(slot),
            secret=join.secret,
            host=self._host,
        )
        self._replica = Replica(
            config, make_engine(slot.engine), lambda: load_text(slot), self._changed.set
        )
        self._port = await self._replica.start()
        self._renewing = asyncio.create_task(self._renew())
        self._watching = asyncio.create_task(self._watch())

    async def check_health(self) -> None:
        """Serve's probe: the listener is there. A model that cannot be loaded is the controller's to judge."""
        try:
            self._replica.check()
        except LoadFailed as error:
            log.warning("replica.not_loaded", detail=error.message)

    async def __del__(self) -> None:
        """Serve removes the replica: running streams finish first."""
        self._watching.cancel()
        await self._replica.drain(LONGEST_DRAIN_S)
        self._renewing.cancel()
        await self._call("deregister", self._slot.id, self._incarnation)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S / 4)
            try:
                self._replica.check()
            except LoadFailed:
                continue
            except EngineCrashed as error:
                log.error("replica.ends", detail=error.message)  # noqa: TRY400 - the cause was logged where it happened
                await asyncio.sleep(FIRST_ERROR_FRAMES_S)
                os._exit(1)

    async def _renew(self) -> None:
        """Tells the controller now and then, and at once when something changed."""
        while True:
            self._changed.clear()
            await self._call("register", self._entry())
            try:
                await asyncio.wait_for(self._changed.wait(), RENEW_S)
            except TimeoutError:
                continue

    async def _call(self, method: str, *args: object) -> None:
        try:
            controller = await asyncio.to_thread(ray.get_actor, CONTROLLER, namespace=NAMESPACE)
            call = getattr(controller, method).remote(*args)
            await asyncio.wait_for(call, RENEW_TIMEOUT_S)
        except (ray.exceptions.RayError, ValueError, TimeoutError) as error:
            log.warning("replica.not_registered", error=type(error).__name__)

    def _entry(self) -> ReplicaEntry:
        status, slot = self._replica.status(), self._slot
        return ReplicaEntry(
            slot=slot.id,
            incarnation=self._incarnation,
            model=slot.model,
            engine=slot.engine,
            device_class=slot.device_class,
            node=slot.nodes[0],
            host=self._host,
            port=self._port,
            pid=os.getpid(),
            concurrency=slot.concurrency,
            queue=slot.queue,
            window=status.window,
            state=status.state,
            load_ratio=status.load_ratio,
            emulated=slot.emulated,
            detail=status.detail,
        )


def model_path(slot: SlotSpec) -> str:
    """Where the weights are on this node; empty for an emulated slot, which has none."""
    if slot.emulated:
        return ""
    return _present_path(slot.source)


def load_text(slot: SlotSpec) -> TextModel:
    """The tokenizer and chat template of a slot."""
    return TextModel.load(_present_path(slot.tokenizer))


def _present_path(source: str) -> str:
    presence = resolve(source)
    if not presence.present:
        raise ModelMissing(presence.reason, hint=presence.hint, source=source)
    return presence.path
