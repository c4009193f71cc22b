"""Whether Ray itself gives out devices that we give out, too: on a cluster that somebody started with Ray's own detection.

Pure; it must not know how Ray is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .report import BrokenProbe, NodeReport
from .vendors import family_of


def with_double_offers(report: NodeReport, offers: Mapping[str, float]) -> NodeReport:
    """The report, with one problem for each resource of Ray's own that stands for devices in it.

    Args:
        offers: Ray's resources of the node.
    """
    families = (family_of(d.identity) for d in report.devices if not report.emulated)
    resources = {f.ray.resource for f in families if f is not None and f.ray is not None}
    doubled = sorted(name for name in resources if offers.get(name))
    found = tuple(
        BrokenProbe(
            name="ray",
            reason=f"Ray gives out {offers[name]:g} {name} of this node by itself, so others may take our devices",
            hint="start Ray with --num-gpus=0, or by `shardyard node start`",
        )
        for name in doubled
    )
    return replace(report, broken=(*report.broken, *found)) if found else report
