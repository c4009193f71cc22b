"""The labels of a node in Ray, from what its probes found: one per family, so that selectors can name hardware.

Labels are fixed when a node joins; what comes and goes later is told by resources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .report import NodeReport

PREFIX = "shardyard.io/"
MOST = 63
"""Characters of a label's value in Ray."""


def labels_of(report: NodeReport) -> Mapping[str, str]:
    """`shardyard.io/<family>` = its device class; of several classes of a family the most frequent one.

    Emulated devices are labelled, too, with `shardyard.io/emulated` = `true` beside them.
    """
    counts: dict[str, dict[str, int]] = {}
    for device in report.devices:
        family = device.identity.partition(":")[0] or "declared"
        classes = counts.setdefault(family, {})
        classes[device.device_class] = classes.get(device.device_class, 0) + 1
    named = {
        f"{PREFIX}{family}": _value(max(sorted(classes), key=lambda name: classes[name]))
        for family, classes in counts.items()
    }
    return {**named, f"{PREFIX}emulated": "true"} if report.emulated else named


def _value(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:MOST].strip("._-")
