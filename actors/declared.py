"""A node as a YAML file declares it: from the mapping of one node to devices and device classes.

Decides how positions, islands and figures of a declared node are read; the inventory file, the lab file and the
emulated probe share it. It must not know files, line numbers or where the mapping came from: an error names the path
of keys (`fields["path"]`), and the reader that knows the file adds the line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from placement.devices import Device, DeviceClass, Health, Kind
from placement.ids import DeviceId, NodeId
from placement.units import GIB

from .declared_classes import check_memory, class_of
from .declared_grammar import MAX_DEVICES, Cpu, Group, parse_hardware, wrong


def devices_of(
    node: NodeId,
    declaration: Mapping[str, object],
    catalog: Mapping[str, DeviceClass],
    *,
    emulated: bool,
) -> tuple[tuple[Device, ...], tuple[DeviceClass, ...]]:
    """The devices that the keys `cpu` and `devices` of one node's mapping declare, and new or changed classes.

    Other keys of the mapping (rack, cordoned, artifacts) are the caller's. Accelerators are `<node>/<position>`,
    counted over the whole list; the CPU is `<node>/cpu0` with one share per core. Without `islands` the devices of an
    entry form one island; with it, a device that no island names stands alone.

    Args:
        emulated: no such hardware is behind the declaration; only the emulated engine may run there.

    Raises:
        SpecError: with the path of keys, e.g. `devices[1].memory_gib`; `fields["path"]` has it as a list.
    """
    hardware = parse_hardware(declaration)
    if sum(group.count for group in hardware.devices) > MAX_DEVICES:
        raise wrong(["devices"], f"more than {MAX_DEVICES} devices on one node")
    devices: list[Device] = []
    classes: dict[str, DeviceClass] = {}
    islands = 0
    for index, group in enumerate(hardware.devices):
        known = {**catalog, **classes}
        device_class = class_of(group, known, ["devices", index])
        check_memory(group, device_class, ["devices", index])
        if device_class != catalog.get(device_class.name):
            classes[device_class.name] = device_class
        numbers = _islands_of(group, islands, ["devices", index])
        islands = max(numbers) + 1
        devices += _devices(node, group, device_class, numbers, first=len(devices))
    if hardware.cpu is not None:
        devices.append(_cpu_device(node, hardware.cpu, catalog, island=islands))
    if emulated:
        devices = [dataclasses.replace(device, emulated=True) for device in devices]
    return tuple(devices), tuple(classes.values())


def _islands_of(group: Group, first: int, path: Sequence[int | str]) -> list[int]:
    """The island of each device of an entry, numbered from `first`."""
    _check_positions(group, path)
    if group.islands is None:
        return [first] * group.count
    number_of = {
        position: first + k for k, island in enumerate(group.islands) for position in island
    }
    alone = iter(range(first + len(group.islands), first + len(group.islands) + group.count))
    return [
        number_of[position] if position in number_of else next(alone)
        for position in range(group.count)
    ]


def _check_positions(group: Group, path: Sequence[int | str]) -> None:
    joined = [position for island in group.islands or [] for position in island]
    for key, positions in (
        ("islands", joined),
        ("unhealthy", group.unhealthy),
        ("degraded", group.degraded),
        ("throttled", list(group.throttled)),
    ):
        for position in positions:
            if position >= group.count:
                says = f"position {position} of {group.count} devices (they count from 0)"
                raise wrong([*path, key], says)
    if len(set(joined)) < len(joined):
        raise wrong([*path, "islands"], "a device can be in one island only")


def _devices(
    node: NodeId, group: Group, device_class: DeviceClass, islands: Sequence[int], *, first: int
) -> Iterator[Device]:
    memory_bytes = (
        device_class.memory_bytes if group.memory_gib is None else int(group.memory_gib * GIB)
    )
    for position in range(group.count):
        yield Device(
            id=DeviceId(f"{node}/{first + position}"),
            node=node,
            device_class=device_class.name,
            memory_bytes=memory_bytes,
            shares=1 if group.endpoint is None else group.endpoint.concurrency,
            island=islands[position],
            health=_health(group, position),
            handle=str(first + position),
            speed=group.throttled.get(position, 1.0),
        )


def _health(group: Group, position: int) -> Health:
    if position in group.unhealthy:
        return Health.LOST
    return Health.DEGRADED if position in group.degraded else Health.HEALTHY


def _cpu_device(
    node: NodeId, cpu: Cpu, catalog: Mapping[str, DeviceClass], *, island: int
) -> Device:
    known = catalog.get(cpu.device_class)
    if known is None or known.kind is not Kind.CPU:
        names = ", ".join(sorted(name for name, c in catalog.items() if c.kind is Kind.CPU))
        raise wrong(
            ["cpu", "class"],
            f"{cpu.device_class} is not a CPU class of the catalog",
            hint=f"known classes: {names}",
        )
    return Device(
        id=DeviceId(f"{node}/cpu0"),
        node=node,
        device_class=known.name,
        memory_bytes=int(cpu.memory_gib * GIB),
        shares=cpu.cores,
        island=island,
        handle=f"0-{cpu.cores - 1}" if cpu.cores > 1 else "0",
    )
