"""All probes of a node, each under its own deadline, become one `NodeReport`, and stay fresh by cheap polls.

Decides what is kept from one look to the next and when a look is due: static facts are looked at rarely, live ones are
polled, and a device's health follows from both. It must not know any vendor, nor who reads the report.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import structlog

from placement.devices import DeviceClass
from placement.errors import ShardyardError
from placement.ids import NodeId

from .assembly import Assembly, assemble
from .host import Host, RecordedHost
from .kept_devices import KeptDevices
from .looks import PROBE_BROKEN, Looks, Outcome
from .machine import hostname, node_name
from .names import NODE_ENV, PROBES_ENV, RACK_ENV, RECORDING_ENV, STAND_IN_ENV
from .node_engines import NO_ENGINES, NodeEngines, engines_of_this_node
from .plugins import (
    PROBES_GROUP,
    PROBES_PACKAGE,
    load_plugins,
)
from .polls import Polls
from .positions import Positions
from .probe import Absent, Broken, Found, LiveProbe, Probe, Watching
from .report import BrokenProbe, NodeReport
from .trust import answered
from .versions import versions

log = structlog.get_logger()

PROBE_DEADLINE_S = 5.0
LOOK_PERIOD_S = 30.0
"""Static facts are looked at again this often even when nothing seems to have changed."""

RAISE_HINT = "shardyard capture DIRECTORY    and report it with the recording"
RETRY_S = 3.0
"""After a look at which a probe was broken the next one is due so soon, then after twice as long, up to the usual time."""

HANG_HINT = "run the vendor's own tool on the node; if it hangs too, its driver does"


def prober_of_this_node(host: Host, incarnation: str, positions: Path | None = None) -> Prober:
    """The prober of a node's agent: all probes that are installed, names from the environment of the node.

    Args:
        positions: where the positions of accelerators are kept while the node lives; None = in memory.

    Raises:
        SpecError: the name in the environment cannot name a node.
    """
    plugins = load_plugins(PROBES_PACKAGE, PROBES_GROUP)
    wanted = {name for name in (host.env(PROBES_ENV) or "").split(",") if name}
    made = [
        _made(name, probe) for name, probe in plugins.found.items() if name in wanted or not wanted
    ]
    unusable = [
        *(BrokenProbe(name=p.name, reason=p.reason, hint=p.hint) for p in plugins.broken),
        *(
            BrokenProbe(name=name, reason=f"{PROBES_ENV} names a probe that is not there")
            for name in sorted(wanted - set(plugins.found))
        ),
    ]
    recording = host.env(RECORDING_ENV)
    machine, unreadable = _replayed(Path(recording)) if recording else (host, ())
    return Prober(
        machine,
        node_name(host, host.env(NODE_ENV)),
        [probe for probe in made if not isinstance(probe, BrokenProbe)],
        rack=host.env(RACK_ENV) or "",
        incarnation=incarnation,
        engines=lambda: engines_of_this_node(host),
        broken=(
            *unreadable,
            *unusable,
            *(probe for probe in made if isinstance(probe, BrokenProbe)),
        ),
        positions=Positions(positions),
        emulated=bool(recording or host.env(STAND_IN_ENV)),
    )


def _replayed(recording: Path) -> tuple[Host, tuple[BrokenProbe, ...]]:
    """A recorded machine; one that cannot be read is a machine without anything, never the real one."""
    try:
        if (recording / "host.toml").is_file():
            return RecordedHost(recording), ()
        reason = f"{recording} is no recording: it has no host.toml"
    except (OSError, ValueError, ShardyardError) as error:
        reason = f"{recording} cannot be read: {error}"
    hint = f"shardyard capture DIRECTORY, and {RECORDING_ENV}=DIRECTORY"
    return RecordedHost(recording / "nothing"), (
        BrokenProbe(name="recording", reason=reason[:500], hint=hint),
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
    """Probes one node. `refresh` looks at everything again, `poll` only at what changes by itself.

    Not thread-safe: one thread calls `refresh` and `poll`.

    Args:
        rack: as the operator says; else where a declaration says.
        engines: asks at each look which engines can start here.
        broken: plugins that could not even be loaded.
        emulated: the hardware is replayed, or a vendor library's stand-in: only the emulated engine may run on it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        host: Host,
        node: NodeId,
        probes: Sequence[Probe],
        *,
        rack: str = "",
        incarnation: str = "",
        engines: Callable[[], NodeEngines] = lambda: NO_ENGINES,
        broken: tuple[BrokenProbe, ...] = (),
        positions: Positions | None = None,
        emulated: bool = False,
        deadline_s: float = PROBE_DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.probes = tuple(probes)
        self._host = host
        self._deadline_s = deadline_s
        self._plugins_broken = broken
        self._positions = positions or Positions()
        self._clock = clock
        self._about = NodeReport(
            node=node,
            hostname=hostname(host),
            versions=versions(),
            rack=rack,
            incarnation=incarnation,
            emulated=emulated,
        )
        self._engines_now = engines
        self._engines = NO_ENGINES
        self._looks = Looks[object]("probe")
        self._polls = Polls(host)
        self._found: dict[str, Found] = {}
        self._silent: dict[str, str] = {}
        self._was_silent = False
        self._period_s = LOOK_PERIOD_S
        self._failures: tuple[BrokenProbe, ...] = ()
        self._assembly = Assembly()
        self._classes: dict[str, DeviceClass] = {}
        self._kept = KeptDevices()
        self._signs: tuple[object, ...] = ()
        self._looked_at = float("-inf")
        self._report: NodeReport | None = None

    def report(self) -> NodeReport:
        """The last look; the first call looks."""
        return self._report or self.refresh()

    def refresh(self) -> NodeReport:
        """Looks at everything again, in at most the deadlines of a probe and a poll."""
        self._signs = self._watched()
        self._looked_at = self._clock()
        self._look()
        return self._settle()

    def poll(self) -> NodeReport:
        """What changes by itself; looks at everything when something came, went, or the last look is old."""
        signs = self._watched()
        if signs != self._signs or self._clock() - self._looked_at >= self._period_s:
            return self.refresh()
        if self._kept.unsettled():
            # What is out of sight is looked for until it is there again or lost.
            self._look()
        return self._settle()

    def _look(self) -> None:
        self._engines = self._engines_now()
        calls = {p.name: _call(p, self._host, self._about.node) for p in self.probes}
        outcomes = {
            name: _outcome(said, self._deadline_s)
            for name, said in self._looks.all(calls, self._deadline_s).items()
        }
        self._failures = tuple(_failures(outcomes))
        self._silent = {n: o.reason for n, o in outcomes.items() if isinstance(o, Broken)}
        # What is broken while a node starts is often whole a moment later.
        again_s = min(2 * self._period_s, LOOK_PERIOD_S) if self._was_silent else RETRY_S
        self._was_silent = bool(self._silent)
        self._period_s = again_s if self._silent else LOOK_PERIOD_S
        told = {n: o for n, o in outcomes.items() if isinstance(o, Found)}
        # A probe that is broken now says nothing of its devices: what it found before still stands, for a while.
        before = {n: o for n, o in self._found.items() if n in self._silent}
        self._found = {**before, **told}
        offered = self._offered()
        order = [p.name for p in self.probes if p.name in offered]
        self._assembly = assemble(
            self._about.node,
            [(name, offered[name]) for name in order],
            self._positions,
            emulated=self._about.emulated,
        )
        # A device that is lost is still of its class.
        self._classes |= {c.name: c for c in self._assembly.classes}

    def _offered(self) -> Mapping[str, Found]:
        """What counts of what was found: a declaration stands for the whole node."""
        return {n: o for n, o in self._found.items() if o.instead} or self._found

    def _settle(self) -> NodeReport:
        """Readings, health and everything else into one report."""
        told = self._offered()
        live = [p for p in self.probes if isinstance(p, LiveProbe) and p.name in told]
        readings = self._polls.readings({p.name: (p, told[p.name]) for p in live})
        self._kept.see(self._assembly, readings, self._silent, self._clock())
        devices = self._kept.devices
        of_identity = {d.identity: d.id for d in devices if d.identity}
        offered = list(told.values())
        cpus = [d for d in devices if d.id.startswith(f"{self._about.node}/cpu")]
        self._report = dataclasses.replace(
            self._about,
            rack=self._about.rack or next((o.rack for o in offered if o.rack), ""),
            cores=sum(d.shares for d in cpus) if cpus else None,
            memory_bytes=sum(d.memory_bytes for d in cpus) if cpus else None,
            cpu=next((o.cpu for o in offered if o.cpu is not None), None),
            devices=devices,
            classes=tuple(self._classes.values()),
            engines=self._engines.names,
            engine_facts=self._engines.facts,
            broken=(
                *self._plugins_broken,
                *self._engines.broken,
                *self._failures,
                *self._assembly.dropped,
                *self._polls.failures(),
            ),
            emulated=self._about.emulated or any(o.instead for o in offered),
            facts=self._kept.facts,
            bonds=self._assembly.bonds,
            readings=tuple(
                sorted((of_identity[i], r) for i, r in readings.items() if i in of_identity)
            ),
            polls=self._polls.costs(),
        )
        return self._report

    def _watched(self) -> tuple[object, ...]:
        """Listings that change when a device comes or goes."""
        folders = {f for p in self.probes if isinstance(p, Watching) for f in p.watches}
        return tuple(self._host.list(folder) for folder in sorted(folders))


def _call(probe: Probe, host: Host, node: NodeId) -> Callable[[], object]:
    return lambda: probe.probe(host, node)


def _outcome(said: Outcome[object], deadline_s: float) -> Found | Absent | Broken:
    if said.hangs:
        return Broken(reason=f"no answer within {deadline_s:g} s", hint=HANG_HINT)
    if said.raised:
        return Broken(reason=said.raised, hint=RAISE_HINT)
    return answered(said.answer)


def _failures(outcomes: Mapping[str, Found | Absent | Broken]) -> Iterator[BrokenProbe]:
    for name, outcome in outcomes.items():
        parts: tuple[Broken, ...] = ()
        if isinstance(outcome, Broken):
            parts = (outcome,)
        elif isinstance(outcome, Found):
            parts = outcome.broken
        yield from (BrokenProbe(name=name, reason=p.reason, hint=p.hint) for p in parts)
