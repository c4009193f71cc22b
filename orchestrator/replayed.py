"""A recorded machine as a node of a lab or an inventory file: `shardyard capture` wrote it, the probes read it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from actors.host import RecordedHost
from actors.plugins import PROBES_GROUP, PROBES_PACKAGE, load_plugins
from actors.probe import Probe
from actors.prober import Prober
from actors.report import NodeReport
from placement.errors import SpecError
from placement.ids import NodeId


def recorded(folder: Path) -> RecordedHost:
    """The machine of a recording.

    Raises:
        SpecError: the folder is not a recording, or its `host.toml` is not one.
    """
    if folder.exists() and not folder.is_dir():
        hint = "name the folder that `shardyard capture DIRECTORY` wrote"
        raise SpecError(f"{folder} is not a recording: it is a file", hint=hint)
    if not (folder / "host.toml").is_file():
        missing = "it has no host.toml" if folder.is_dir() else "there is no such folder"
        raise SpecError(
            f"{folder} is not a recording: {missing}",
            hint="shardyard capture DIRECTORY on the machine, and name that folder",
        )
    return RecordedHost(folder)


def replayed(node: NodeId, recording: Path) -> NodeReport:
    """What the probes say of a recording.

    Raises:
        SpecError: the folder is not a recording.
    """
    host = recorded(recording)
    return Prober(host, node, tuple(_probes()), emulated=True).refresh()


def _probes() -> Iterator[Probe]:
    """All that can be made; `doctor` names the others."""
    for make in load_plugins(PROBES_PACKAGE, PROBES_GROUP).found.values():
        with suppress(Exception, SystemExit):  # whatever a plugin raises
            yield make()
