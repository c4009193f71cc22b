"""A recorded machine as a node of a lab or an inventory file: `shardyard capture` wrote it, the probes read it again."""

from __future__ import annotations

from pathlib import Path

from actors.host import RecordedHost
from actors.plugins import PROBES_GROUP, PROBES_PACKAGE, load_plugins
from actors.prober import Prober
from actors.report import NodeReport
from placement.errors import SpecError
from placement.ids import NodeId


def replayed(node: NodeId, recording: Path) -> NodeReport:
    """What the probes say of a recording.

    Raises:
        SpecError: the folder is not a recording.
    """
    if not (recording / "host.toml").is_file():
        raise SpecError(
            f"{recording} is not a recording: it has no host.toml",
            hint=f"shardyard capture {recording}",
        )
    probes = [probe() for probe in load_plugins(PROBES_PACKAGE, PROBES_GROUP).found.values()]
    return Prober(RecordedHost(recording), node, probes, emulated=True).refresh()
