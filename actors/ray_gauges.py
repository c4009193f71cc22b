"""DOOR to Ray's metrics: the gauges of a node's devices, which Ray's agent on the node offers to Prometheus."""

from __future__ import annotations

from ray.util.metrics import Gauge

from .report import NodeReport
from .telemetry import GAUGES, samples


class DeviceGauges:
    """All device metrics of one node."""

    def __init__(self) -> None:
        self._gauges = {
            g.name: Gauge(g.name, description=g.help, tag_keys=g.labels) for g in GAUGES
        }

    def show(self, report: NodeReport) -> None:
        """Takes over the values of a report. A device that stops telling one keeps its last value until the agent ends."""
        for sample in samples(report):
            self._gauges[sample.gauge.name].set(sample.value, tags=dict(sample.labels))
