"""DOOR to Ray Serve: the deployment that hosts one `Replica` and keeps its row in the controller's registry.

The process ends itself when its engine is dead: Serve then replaces it at its next health check, while a health check
that fails must fail three times.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import UTC, datetime

import ray
import structlog
from ray import serve

from placement.calibration import Calibration

from .cores import claim_cores
from .engine_config import Place
from .errors import EngineCrashed, LoadFailed
from .logs import configure, log_path
from .names import CONTROLLER, NAMESPACE
from .orphans import reap
from .plugins import make_engine, server_of
from .ray_peers import Group, join_nodes
from .registry import ReplicaEntry
from .replica import Replica, ReplicaConfig, ReplicaStatus
from .slot import SlotSpec
from .slot_calibration import calibration
from .weights import artifact_path, load_text, local_tuning, model_path

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
        self._calibrated: Calibration | None = None
        self._loop = asyncio.get_running_loop()
        for orphan in await asyncio.to_thread(reap):
            log.warning("engine.orphan_ended", pid=orphan.pid, name=orphan.name, owner=orphan.owner)
        self._cores = claim_cores(0 if slot.emulated else slot.threads)
        self._group = await self._joined()
        group = self._group
        path = model_path(slot)
        config = ReplicaConfig(
            slot=slot,
            incarnation=self._incarnation,
            place=Place(
                model_path=path,
                artifact=artifact_path(path),
                tuning=local_tuning(slot),
                cores=self._cores.cpus,
                hosts=group.hosts if group else (),
                meeting_port=group.meeting_port if group else 0,
                log_path=str(log_path(f"{slot.id}-engine")),
                owner=self._incarnation,
            ),
            secret=join.secret,
            host=self._host,
        )
        self._replica = Replica(
            config,
            make_engine(slot.engine),
            lambda: load_text(slot),
            self._changed.set,
            companions=group.start if group else None,
        )
        self._port = await self._replica.start()
        self._renewing = asyncio.create_task(self._renew())
        self._watching = asyncio.create_task(self._watch())
        self._accompanying = asyncio.create_task(self._watch_group())

    async def _joined(self) -> Group | None:
        """The other nodes of an engine whose process group spans nodes."""
        server = server_of(self._slot.engine)
        spans = len(set(self._slot.nodes)) > 1 and hasattr(server, "peers")
        return await join_nodes(self._slot, server, self._host) if server and spans else None

    async def _watch_group(self) -> None:
        if self._group is not None:
            self._replica.fail(await self._group.ended())

    async def check_health(self) -> None:
        """Serve's probe: the listener is there. A model that cannot be loaded is the controller's to judge."""
        try:
            self._replica.check()
        except LoadFailed as error:
            log.warning("replica.not_loaded", detail=error.message)

    async def __del__(self) -> None:
        """Serve removes the replica: running streams finish first."""
        self._watching.cancel()
        self._accompanying.cancel()
        await self._replica.drain(LONGEST_DRAIN_S)
        if self._group is not None:
            await self._group.stop()
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
            capabilities=status.capabilities,
            calibration=self._calibration(status),
        )

    def _calibration(self, status: ReplicaStatus) -> Calibration | None:
        if self._calibrated is None and status.measured is not None and status.facts is not None:
            today = datetime.now(UTC).date().isoformat()
            self._calibrated = calibration(self._slot, status.facts, status.measured, today)
        return self._calibrated
