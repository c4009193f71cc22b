"""DOOR to Ray: the agent of a node. It declares the node's devices to Ray and reports to the controller under a lease.

The actor only delegates: `prober` decides what is on the node, `sources` which models it has.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import ray
import structlog
from ray._private.worker import global_worker

from placement.catalog import catalog
from placement.devices import Health
from placement.errors import ShardyardError

from .double_offers import with_double_offers
from .host import RealHost
from .logs import configure, log_path, tail
from .names import CONTROLLER, NAMESPACE
from .node_watch import NodeWatch
from .prober import prober_of_this_node
from .ray_gauges import DeviceGauges
from .report import NodeReport, Renewal
from .slot import DEVICE_PREFIX, EMULATED_SUFFIX, class_resource, device_resource
from .sources import resolve

log = structlog.get_logger()

REPORT_PERIOD_S = 0.5
REPORT_TIMEOUT_S = 3.0


def declared_resources(report: NodeReport) -> dict[str, float]:
    """The Ray resources of a node: one exclusive resource per device, and a total per class for people.

    A device that is not healthy is declared with 0, so that nothing new can claim it.
    """
    shares = {d.id: d.shares if d.health is Health.HEALTHY else 0 for d in report.devices}
    amounts = {device_resource(report.node, d.id): float(shares[d.id]) for d in report.devices}
    totals = Counter[str]()
    for device in report.devices:
        totals[class_resource(device.device_class, emulated=device.emulated)] += shares[device.id]
    return {**amounts, **{name: float(count) for name, count in totals.items()}}


class _NodeAgent:
    """One per Ray node, pinned to it.

    Args:
        incarnation: Ray's id of the node.
        token: proves to the controller that a report is this node's own.
    """

    def __init__(self, incarnation: str, token: str) -> None:
        configure(log_path(f"agent-{incarnation[:12]}"))
        self._incarnation = incarnation
        self._token = token
        self._declared: dict[str, float] = {}
        self._told: NodeReport | None = None
        self._offers = _offered_by_ray(incarnation)
        self._gauges = DeviceGauges()
        positions = log_path(f"positions-{incarnation[:12]}").with_suffix(".json")
        prober = prober_of_this_node(RealHost(), incarnation, positions)
        self._watch = NodeWatch(prober, resolve, on_probed=self._probed)
        self._watch.start()
        threading.Thread(target=self._run, daemon=True, name="report").start()

    @ray.method
    def ping(self) -> str:
        """The incarnation, as a sign of life."""
        return self._incarnation

    @ray.method
    def logs(self, name: str, lines: int) -> str:
        """The last lines of a log of this node, by slot or agent name; empty when there is none."""
        return tail(log_path(name), lines)

    def _run(self) -> None:
        while True:
            self._watch.wait(REPORT_PERIOD_S)
            report = self._watch.report()
            wanted = (
                self._tell(with_double_offers(report, self._offers)) if report is not None else None
            )
            if wanted is not None:
                self._watch.want(wanted)

    def _probed(self, report: NodeReport) -> None:
        self._declare(report)
        self._gauges.show(report)

    def _declare(self, report: NodeReport) -> None:
        """Tells Ray what changed. Amounts do not survive the raylet, and neither does this actor.

        Ray ignores that a resource is withdrawn while somebody holds it, so that is said until the device is well.
        """
        wanted = declared_resources(report)
        gone = {name: 0.0 for name in self._declared if name not in wanted}
        changed = {
            name: amount
            for name, amount in (wanted | gone).items()
            if amount != self._declared.get(name) or (not amount and name.startswith(DEVICE_PREFIX))
        }
        if changed:
            _resize(self._incarnation, changed)
        if wanted != self._declared:
            log.info("node.declared", node=report.node, resources=changed)
            self._declared = wanted

    def _tell(self, report: NodeReport) -> tuple[str, ...] | None:
        """A whole report when something changed or the controller asks for it, else that the last one holds."""
        lasting = report.lasting()
        if lasting == self._told:
            wanted = self._call("renew", report.renewal())
            if wanted is not None:
                return wanted
        wanted = self._call("report", report)
        self._told = lasting if wanted is not None else None
        return wanted

    def _call(self, method: str, said: NodeReport | Renewal) -> tuple[str, ...] | None:
        try:
            controller = ray.get_actor(CONTROLLER, namespace=NAMESPACE)
            call = getattr(controller, method).remote(said, self._token)
            answer: Any = ray.get(call, timeout=REPORT_TIMEOUT_S)
        except (ray.exceptions.RayError, ValueError, ShardyardError) as error:
            log.warning("node.report_failed", error=type(error).__name__, detail=str(error)[:300])
            return None
        return None if answer is None else tuple(answer)


def _offered_by_ray(incarnation: str) -> dict[str, float]:
    """The resources that the node was started with; none when Ray does not tell."""
    try:
        rows = [row for row in ray.nodes() if row["NodeID"] == incarnation]
    except ray.exceptions.RayError:
        return {}
    return dict(rows[0]["Resources"]) if rows else {}


def retract_resources() -> None:
    """Sets every resource of ours to 0 on all living nodes; for a cluster that goes on without us."""
    for row in ray.nodes():
        ours = {name: 0.0 for name in row["Resources"] if _is_ours(name)}
        if row["Alive"] and ours:
            _resize(row["NodeID"], ours)


def _is_ours(name: str) -> bool:
    return name.startswith(DEVICE_PREFIX) or name in catalog() or name.endswith(EMULATED_SUFFIX)


def _resize(incarnation: str, amounts: dict[str, float]) -> None:
    # Private in Ray 2.60 (made for its own autoscaler); the only way to change a running node's resources.
    worker: Any = global_worker
    worker.gcs_client.resize_raylet_resource_instances(incarnation, amounts)


NodeAgent = ray.remote(_NodeAgent)
