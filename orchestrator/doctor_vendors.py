"""Checks of the accelerators of this machine and of their vendors' software, one family after the other.

Decides what of a family is worth a line: its devices, and what stands in their way. It must not know any family; what
is known of them stands in `actors/vendors.toml`. It looks, and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actors.host import Host, RealHost
from actors.library import PYTHON_ENV
from actors.names import RECORDING_ENV
from actors.pci import PciFunction, pci_functions
from actors.prober import prober_of_this_node
from actors.report import BrokenProbe, NodeReport
from actors.vendors import Family, families, family_of
from actors.version_range import within
from placement.devices import Device, Health
from placement.errors import ShardyardError

from .check import Check
from .replayed import recorded

_OURS = frozenset({"openvino", "onnxruntime", "nvidia-ml-py"})
"""Packages that we and engines of ours bring: that they are installed says nothing of a device."""

_EVERYTHING = ("all", "void", "")
"""Values of a container's variable that contradict no choice of devices."""

_MOST_ADDRESSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the checks read.

    Attributes:
        installed: distributions of this Python environment and their versions.
        has_module: whether a module can be imported here.
        environment: variables of this process.
        said: names of what is checked elsewhere, which is not repeated here.
    """

    host: Host
    report: NodeReport
    installed: Mapping[str, str]
    has_module: Callable[[str], bool]
    environment: Mapping[str, str]
    said: frozenset[str] = frozenset()
    functions: tuple[PciFunction, ...] = field(default=())


def check_this_machine(
    installed: Mapping[str, str], has_module: Callable[[str], bool], said: frozenset[str]
) -> Iterator[Check]:
    """Probes once, in this process and without Ray."""
    real = RealHost()
    recording = os.environ.get(RECORDING_ENV)
    try:
        host: Host = recorded(Path(recording)) if recording else real
        report = prober_of_this_node(real, "doctor").report()
    except ShardyardError as error:
        yield Check(check="probes", status="fail", detail=str(error), hint=error.hint)
        return
    finally:
        real.libraries.close()
    yield from check_vendors(
        Surroundings(
            host=host,
            report=report,
            installed=installed,
            has_module=has_module,
            environment=os.environ,
            said=said,
            functions=pci_functions(host),
        )
    )


def check_vendors(here: Surroundings) -> Iterator[Check]:
    """Every family that is here, then what is broken without being one."""
    rows = [_row(here, family) for family in families().values()]
    if not any(row.present for row in rows):
        yield Check(check="devices", status="ok", detail="no accelerator on this machine")
    for row in rows:
        yield from _check_family(here, row)
    others = [b for b in here.report.broken if b.name not in families() and b.name not in here.said]
    yield from (_broken(b) for b in others)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What there is of a family: usable devices, functions on the bus, problems, Python distributions."""

    family: Family
    devices: tuple[Device, ...]
    functions: tuple[PciFunction, ...]
    broken: tuple[BrokenProbe, ...]
    packages: Mapping[str, str]

    @property
    def present(self) -> bool:
        return bool(self.devices or self.functions or self.broken)


def _row(here: Surroundings, family: Family) -> _Row:
    claimed = (f for f in here.functions if family.claims(f.vendor, f.kind) and not f.virtual)
    return _Row(
        family=family,
        devices=tuple(d for d in here.report.devices if family_of(d.identity) is family),
        functions=tuple(claimed),
        broken=tuple(b for b in here.report.broken if b.name == family.name),
        packages={p: here.installed[p] for p in family.packages if p in here.installed},
    )


def _check_family(here: Surroundings, row: _Row) -> Iterator[Check]:
    if row.devices:
        yield _found(row.family, row.devices)
        yield from _unwell(here, row.family, row.devices)
    yield from (_broken(b) for b in row.broken)
    if row.functions and not row.devices and not row.broken:
        yield _unseen(row.family, row.functions)
    if row.present:
        yield from _packages(here, row)
        yield from _driver(here, row.family)
        yield from _permissions(here, row)
        yield from _ray(here, row)
        yield from _variables(here, row.family)
    elif row.packages.keys() - _OURS:
        yield _idle(row)


def _found(family: Family, devices: Sequence[Device]) -> Check:
    counts: dict[str, int] = {}
    for device in devices:
        counts[device.device_class] = counts.get(device.device_class, 0) + 1
    classes = ", ".join(f"{count} {name}" for name, count in counts.items())
    return Check(check=family.name, status="ok", detail=f"found {classes}")


def _unwell(here: Surroundings, family: Family, devices: Sequence[Device]) -> Iterator[Check]:
    evidence = {facts.device: facts.evidence for facts in here.report.facts}
    for device in devices:
        if device.health is not Health.HEALTHY:
            why = "; ".join(dict.fromkeys(evidence.get(device.id, ()))) or "no evidence is told"
            yield Check(
                check=family.name,
                status="warn",
                detail=f"{device.id} is {device.health}: {why}",
                hint=_tool(family),
            )


def _tool(family: Family) -> str:
    return family.tools[0] if family.tools else "dmesg | tail -n 50"


def _unseen(family: Family, functions: Sequence[PciFunction]) -> Check:
    shown = ", ".join(f.address for f in functions[:_MOST_ADDRESSES])
    left = len(functions) - _MOST_ADDRESSES
    more = f" and {left} more" if left > 0 else ""
    driver = next((f"driver {f.driver}" for f in functions if f.driver), "no driver")
    return Check(
        check=family.name,
        status="warn",
        detail=f"on the PCI bus at {shown}{more} ({driver}), but no device of it can be used",
        hint=family.install or _tool(family),
    )


def _idle(row: _Row) -> Check:
    named = ", ".join(f"{name} {version}" for name, version in row.packages.items())
    detail = f"{named} installed, no device of the family on this machine"
    return Check(check=row.family.name, status="ok", detail=detail)


def _packages(here: Surroundings, row: _Row) -> Iterator[Check]:
    family = row.family
    for name, version in row.packages.items():
        wanted = family.packages[name]
        if within(version, wanted) is False:
            yield Check(
                check=family.name,
                status="warn",
                detail=f"{name} {version}, supported is {wanted}",
                hint=_pip(family, name),
            )
    other = PYTHON_ENV + family.library.upper().replace("-", "_")
    if family.packages and not row.packages and other not in here.environment:
        yield Check(
            check=family.name,
            status="warn",
            detail=f"none of {', '.join(family.packages)} is installed in this Python environment",
            hint=_install(family, other),
        )


def _install(family: Family, other: str) -> str:
    elsewhere = f", or name the interpreter that has it: {other}=PATH" if family.library else ""
    return _pip(family, next(iter(family.packages))) + elsewhere


def _pip(family: Family, name: str) -> str:
    first = name == next(iter(family.packages))
    source = f" from {family.private}" if family.private and first else ""
    return f"pip install '{name}{family.packages[name]}'{source}"


def _driver(here: Surroundings, family: Family) -> Iterator[Check]:
    if not family.driver:
        return
    told = here.host.read(family.version_file) if family.version_file else None
    versions = {told.strip()} if told else set[str]()
    versions |= {f.driver for f in here.report.facts if f.family == family.name and f.driver}
    for version in sorted(versions):
        if within(version, family.driver) is False:
            yield Check(
                check=family.name,
                status="warn",
                detail=f"driver {version}, supported is {family.driver}",
                hint=family.install,
            )


def _permissions(here: Surroundings, row: _Row) -> Iterator[Check]:
    family, group = row.family, row.family.group
    told = " ".join(b.reason for b in row.broken)
    for node in family.nodes:
        if node not in told and here.host.access(node) == "denied":
            command = f"sudo usermod -aG {group} $USER, then log in anew" if group else ""
            yield Check(
                check=family.name,
                status="fail",
                detail=f"{node} may not be opened by this user",
                hint=command or f"ls -l {node}",
            )


def _ray(here: Surroundings, row: _Row) -> Iterator[Check]:
    """Nothing to be done: it explains why Ray's own count differs from ours."""
    family = row.family
    if family.ray is None or not family.ray.reads or here.has_module(family.ray.reads):
        return
    beside = f" beside {', '.join(row.packages)}" if row.packages else ""
    yield Check(
        check=family.name,
        status="ok",
        detail=f"Ray's own detection reads {family.ray.reads}, which is not installed{beside}: "
        "it cannot see these devices; ours does",
    )


def _variables(here: Surroundings, family: Family) -> Iterator[Check]:
    """Variables that say another thing than the one by which engines are told their devices."""
    rule = family.visible
    own = here.environment.get(rule.variable) if rule.variable else None
    rays = {family.ray.variable} if family.ray and family.ray.variable else set[str]()
    for name in sorted({*rule.clear, *rays} - {rule.variable}):
        value = here.environment.get(name)
        if value is None or own is None or value == own or value in _EVERYTHING:
            continue
        whose = "which Ray's own detection sets" if name in rays else "which means the same"
        yield Check(
            check=family.name,
            status="warn",
            detail=f"{name}={value} is set, {whose}, and {rule.variable}={own} says otherwise",
            hint=f"unset {name}",
        )


def _broken(broken: BrokenProbe) -> Check:
    return Check(
        check=broken.name,
        status="warn",
        detail=broken.reason,
        hint=broken.hint or "shardyard capture DIRECTORY, and report it with that folder",
    )
