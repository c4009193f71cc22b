"""DOOR to Ray's metrics: the gauges of a node's devices, which Ray's agent on the node offers to Prometheus."""

from __future__ import annotations

import math

from ray.util.metrics import Gauge

from .report import NodeReport
from .telemetry import GAUGES, samples

_Series = tuple[str, tuple[tuple[str, str], ...]]


class DeviceGauges:
    """All device metrics of one node."""

    def __init__(self) -> None:
        self._gauges = {
            g.name: Gauge(g.name, description=g.help, tag_keys=g.labels) for g in GAUGES
        }
        self._shown: set[_Series] = set()

    def show(self, report: NodeReport) -> None:
        """Takes over the values of a report; what a device does not tell any more becomes NaN, as Ray forgets no series."""
        told = {(s.gauge.name, tuple(sorted(s.labels.items()))): s.value for s in samples(report)}
        for name, labels in self._shown - set(told):
            self._gauges[name].set(math.nan, tags=dict(labels))
        for (name, labels), value in told.items():
            self._gauges[name].set(value, tags=dict(labels))
        self._shown = set(told)
