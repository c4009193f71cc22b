"""All probes of a node, each under its own deadline, become one `NodeReport`.

Decides what is trusted: a probe that hangs, raises or answers nonsense is reported as broken and never hides another.
It must not know any vendor, nor who reads the report.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import structlog

from placement.devices import Device, DeviceClass, Health
from placement.ids import NodeId

from .host import Host
from .machine import hostname, node_name
from .names import NODE_ENV, RACK_ENV
from .plugins import PROBES_GROUP, PROBES_PACKAGE, available_engines, load_plugins
from .probe import Absent, Broken, Found, Probe
from .report import BrokenProbe, NodeReport
from .versions import versions

log = structlog.get_logger()

PROBE_BROKEN = "probe.broken"

PROBE_DEADLINE_S = 5.0
MOST_DEVICES = 4096
MOST_SHARES = 65536
MOST_MEMORY_BYTES = 2**47
"""128 TiB on one device: more than any, less than a size read in the wrong unit."""
_NUMERIC = ("int", "float")


def prober_of_this_node(host: Host, incarnation: str) -> Prober:
    """The prober of a node's agent: all probes that are installed, names from the environment of the node.

    Raises:
        SpecError: the name in the environment cannot name a node.
    """
    plugins = load_plugins(PROBES_PACKAGE, PROBES_GROUP)
    engines, engines_broken = available_engines()
    made = [_made(name, probe) for name, probe in plugins.found.items()]
    unusable = [
        *(BrokenProbe(name=p.name, reason=p.reason, hint=p.hint) for p in plugins.broken),
        *(
            BrokenProbe(name=f"engine {e.name}", reason=e.reason, hint=e.hint)
            for e in engines_broken
        ),
    ]
    return Prober(
        host,
        node_name(host, host.env(NODE_ENV)),
        [probe for probe in made if not isinstance(probe, BrokenProbe)],
        rack=host.env(RACK_ENV) or "",
        incarnation=incarnation,
        engines=engines,
        broken=(*unusable, *(probe for probe in made if isinstance(probe, BrokenProbe))),
    )


def _made(name: str, probe: Callable[[], Probe]) -> Probe | BrokenProbe:
    try:
        return probe()
    except (Exception, SystemExit) as error:  # whatever a plugin raises
        log.warning(PROBE_BROKEN, probe=name, exc_info=True)
        return BrokenProbe(
            name=name, reason=f"cannot be made: {type(error).__name__}: {error}"[:500]
        )


class Prober:
    """Probes one node. Static facts are kept from one look to the next; `refresh` looks again.

    Args:
        rack: as the operator says; else where a declaration says.
        engines: engines that can start here.
        broken: plugins that could not even be loaded.
    """

    def __init__(
        self,
        host: Host,
        node: NodeId,
        probes: Sequence[Probe],
        *,
        rack: str = "",
        incarnation: str = "",
        engines: frozenset[str] = frozenset(),
        broken: tuple[BrokenProbe, ...] = (),
        deadline_s: float = PROBE_DEADLINE_S,
    ) -> None:
        self._host = host
        self._probes = tuple(probes)
        self._deadline_s = deadline_s
        self._plugins_broken = broken
        self._about = NodeReport(
            node=node,
            hostname=hostname(host),
            versions=versions(),
            rack=rack,
            incarnation=incarnation,
            engines=engines,
        )
        self._looks: dict[str, _Look] = {}
        self._lock = threading.Lock()
        self._report: NodeReport | None = None

    def report(self) -> NodeReport:
        """The last look; the first call looks."""
        with self._lock:
            return self._report or self._look()

    def refresh(self) -> NodeReport:
        """Looks again, in at most the deadline of a probe."""
        with self._lock:
            return self._look()

    def _look(self) -> NodeReport:
        outcomes = self._outcomes()
        found = [(name, o) for name, o in outcomes if isinstance(o, Found)]
        offered = [(name, o) for name, o in found if o.instead] or found
        devices, dropped = _trusted(self._about.node, offered)
        broken = (*self._plugins_broken, *_failures(outcomes), *dropped)
        cpus = [d for d in devices if d.id.startswith(f"{self._about.node}/cpu")]
        racks = (o.rack for _, o in offered if o.rack)
        facts = (o.cpu for _, o in offered if o.cpu is not None)
        self._report = dataclasses.replace(
            self._about,
            rack=self._about.rack or next(racks, ""),
            cores=sum(d.shares for d in cpus) if cpus else None,
            memory_bytes=sum(d.memory_bytes for d in cpus) if cpus else None,
            cpu=next(facts, None),
            devices=devices,
            classes=tuple(c for _, o in offered for c in o.classes if not _flaw_of_class(c)),
            broken=broken,
            emulated=any(o.instead for _, o in offered),
        )
        return self._report

    def _outcomes(self) -> list[tuple[str, Found | Absent | Broken]]:
        """All probes at once, each in a thread; one that still hangs from an earlier look is not started again."""
        deadline = time.monotonic() + self._deadline_s
        for probe in self._probes:
            look = self._looks.get(probe.name)
            if look is None or not look.hangs():
                self._looks[probe.name] = _Look(probe, self._host, self._about.node)
        return [
            (probe.name, self._looks[probe.name].outcome(deadline, self._deadline_s))
            for probe in self._probes
        ]


class _Look:
    """One run of one probe in a daemon thread, which a hanging probe keeps for itself."""

    def __init__(self, probe: Probe, host: Host, node: NodeId) -> None:
        self._answer: Found | Absent | Broken | None = None
        self._thread = threading.Thread(
            target=self._run, args=(probe, host, node), daemon=True, name=f"probe-{probe.name}"
        )
        self._thread.start()

    def _run(self, probe: Probe, host: Host, node: NodeId) -> None:
        try:
            answer: object = probe.probe(host, node)
        except (Exception, SystemExit) as error:  # whatever a plugin raises
            log.warning(PROBE_BROKEN, probe=probe.name, exc_info=True)
            answer = Broken(reason=f"raised {type(error).__name__}: {error}"[:500])
        self._answer = _answered(answer)

    def hangs(self) -> bool:
        return self._thread.is_alive()

    def outcome(self, deadline: float, deadline_s: float) -> Found | Absent | Broken:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._answer or Broken(
            reason=f"no answer within {deadline_s:g} s",
            hint="run the vendor's own tool on the node; if it hangs too, its driver does",
        )


def _answered(answer: object) -> Found | Absent | Broken:
    """The answer, if it has the shape that it promises."""
    if isinstance(answer, (Absent, Broken)):
        return answer
    if not isinstance(answer, Found):
        return Broken(reason=f"answered {type(answer).__name__}, not Found, Absent or Broken")
    for name in ("devices", "classes", "broken"):
        if not isinstance(getattr(answer, name), tuple):
            return Broken(reason=f"{name} of its answer is not a tuple")
    return answer


def _failures(outcomes: Sequence[tuple[str, Found | Absent | Broken]]) -> Iterator[BrokenProbe]:
    for name, outcome in outcomes:
        parts: tuple[Broken, ...] = ()
        if isinstance(outcome, Broken):
            parts = (outcome,)
        elif isinstance(outcome, Found):
            parts = outcome.broken
        yield from (BrokenProbe(name=name, reason=p.reason, hint=p.hint) for p in parts)


def _trusted(
    node: NodeId, found: Sequence[tuple[str, Found]]
) -> tuple[tuple[Device, ...], tuple[BrokenProbe, ...]]:
    """The devices that make sense, and one entry for each value that does not."""
    kept: list[Device] = []
    dropped: list[BrokenProbe] = []
    ids: set[str] = set()
    identities: set[str] = set()
    for name, outcome in found:
        for device in outcome.devices[:MOST_DEVICES]:
            flaw = _flaw(node, device) or _repeats(device, ids, identities)
            if flaw:
                dropped.append(BrokenProbe(name=name, reason=flaw))
                continue
            kept.append(device)
            ids.add(device.id)
            identities.add(device.identity)
        if len(outcome.devices) > MOST_DEVICES:
            reason = f"{len(outcome.devices)} devices; only {MOST_DEVICES} are believed"
            dropped.append(BrokenProbe(name=name, reason=reason))
        dropped += [
            BrokenProbe(name=name, reason=f) for f in map(_flaw_of_class, outcome.classes) if f
        ]
    return tuple(kept), tuple(dropped)


def _flaw(node: NodeId, device: object) -> str | None:
    """Why a device is not believed. Types are checked at run time: probes may be anybody's code."""
    if not isinstance(device, Device):
        return f"{type(device).__name__} is not a Device"
    what = f"device {device.id!r}"
    if not all(
        isinstance(getattr(device, f), str) for f in ("id", "device_class", "identity", "handle")
    ):
        return f"{what}: a name that is not a text"
    if device.node != node or not device.id.startswith(f"{node}/") or not device.device_class:
        return f"{what} with class {device.device_class!r} is not a device of node {node}"
    if not isinstance(device.health, Health):
        return f"{what}: health {device.health!r} is unknown"
    for name, most in (("memory_bytes", MOST_MEMORY_BYTES), ("shares", MOST_SHARES)):
        value = getattr(device, name)
        if type(value) is not int or not 0 < value <= most:
            return f"{what}: {name} {value!r} is not a whole number of 1 to {most}"
    return None


def _repeats(device: Device, ids: set[str], identities: set[str]) -> str | None:
    if device.id in ids:
        return f"device {device.id!r} was reported twice"
    if device.identity and device.identity in identities:
        return f"device {device.id!r} has the identity {device.identity!r} of another"
    return None


def _flaw_of_class(given: object) -> str | None:
    if not isinstance(given, DeviceClass):
        return f"{type(given).__name__} is not a DeviceClass"
    try:
        figures = [value for _, value in given.flops]
    except (TypeError, ValueError):
        return f"device class {given.name!r}: flops are not pairs of dtype and number"
    figures += [getattr(given, f.name) for f in dataclasses.fields(given) if f.type in _NUMERIC]
    if not all(isinstance(v, (int, float)) and math.isfinite(v) and v >= 0 for v in figures):
        return f"device class {given.name!r} has a negative or infinite figure"
    return None
