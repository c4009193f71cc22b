"""A node as a YAML file declares it: from the mapping of one node to devices and device classes.

Decides how positions, islands and figures of a declared node are read; the inventory file, the lab file and the
emulated probe share it. It must not know files, line numbers or where the mapping came from: an error names the path
of keys (`fields["path"]`), and the reader that knows the file adds the line.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from placement.devices import Device, DeviceClass, Dtype, Health, Kind
from placement.errors import SpecError
from placement.ids import DeviceId, NodeId
from placement.units import GBYTE, GIB, TERA

MAX_DEVICES = 4096
"""Most devices of one node; a larger number is a typing error."""


def _number(value: object) -> object:
    """YAML reads `1e3` as a text; it means the number."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


_Positive = Annotated[float, BeforeValidator(_number), Field(ge=1e-6, le=1e9, allow_inf_nan=False)]
_Amount = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1e9, allow_inf_nan=False)]
_Position = Annotated[int, Field(ge=0, lt=MAX_DEVICES)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, populate_by_name=True)


class _Cpu(_Strict):
    cores: Annotated[int, Field(ge=1, le=MAX_DEVICES)]
    memory_gib: _Positive
    device_class: str = Field(default="CPU", alias="class")


class _Group(_Strict):
    """One entry of `devices`: `count` equal devices. Positions in it count from 0 within the entry."""

    device_class: Annotated[str, Field(min_length=1, max_length=100)] = Field(alias="class")
    count: Annotated[int, Field(ge=1, le=MAX_DEVICES)] = 1
    islands: list[list[_Position]] | None = None
    unhealthy: list[_Position] = []
    memory_gib: _Positive | None = None
    memory_gbyte_per_s: _Positive | None = None
    tflops: Annotated[dict[Dtype, _Positive], Field(min_length=1)] | None = None
    watts: _Amount | None = None
    idle_watts: _Amount | None = None
    link_gbyte_per_s: _Amount | None = None
    price_per_hour: _Amount | None = None
    kind: Annotated[Kind, Field(strict=False)] | None = None
    vendor: str | None = None


class _Hardware(_Strict):
    cpu: _Cpu | None = None
    devices: list[_Group] = []


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
    hardware = _parse(declaration)
    if sum(group.count for group in hardware.devices) > MAX_DEVICES:
        raise _error(["devices"], f"more than {MAX_DEVICES} devices on one node")
    devices: list[Device] = []
    classes: dict[str, DeviceClass] = {}
    islands = 0
    for index, group in enumerate(hardware.devices):
        known = {**catalog, **classes}
        device_class = _class_of(group, known, ["devices", index])
        if device_class != catalog.get(device_class.name):
            classes[device_class.name] = device_class
        numbers = _islands_of(group, islands, ["devices", index])
        islands = max(numbers) + 1
        devices += _devices(node, group, device_class, numbers, first=len(devices))
    if hardware.cpu is not None:
        devices.append(_cpu_device(node, hardware.cpu, catalog, island=islands))
    return (
        tuple(dataclasses.replace(device, emulated=emulated) for device in devices),
        tuple(classes.values()),
    )


def _parse(declaration: Mapping[str, object]) -> _Hardware:
    present = {
        key: declaration[key] for key in ("cpu", "devices") if declaration.get(key) is not None
    }
    try:
        return _Hardware.model_validate(present)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = [key for key in first["loc"] if key != "[key]"]
        raise _error(path, _sentence(first), hint=_nearest_key(path, first["type"])) from None


def _sentence(found: Any) -> str:
    if found["type"] == "extra_forbidden":
        return "unknown key"
    if found["type"] == "missing":
        return "is required"
    if found["type"] == "model_type":
        return f"should be a mapping of keys, not {str(found['input'])[:80]!r}"
    says = str(found["msg"]).removeprefix("Input ").removeprefix("Dictionary ")
    says = says.replace(" after validation", "")
    return f"{says}, not {str(found['input'])[:80]!r}"


def _nearest_key(path: Sequence[int | str], kind: str) -> str:
    if kind != "extra_forbidden":
        return ""
    shape = _Cpu if path[0] == "cpu" else _Group
    keys = [field.alias or name for name, field in shape.model_fields.items()]
    near = difflib.get_close_matches(str(path[-1]), keys, n=1)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(keys)}"


def _error(path: Sequence[int | str], says: str, *, hint: str = "") -> SpecError:
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
    return SpecError(f"{place}: {says}", hint=hint, path=list(path))


def _class_of(
    group: _Group, catalog: Mapping[str, DeviceClass], path: Sequence[int | str]
) -> DeviceClass:
    known = catalog.get(group.device_class)
    figures = dict(_figures(group))
    if known is not None:
        return dataclasses.replace(known, **figures) if figures else known
    missing = [
        k for k in ("memory_gib", "memory_gbyte_per_s", "tflops") if getattr(group, k) is None
    ]
    if missing:
        raise _error(
            [*path, "class"],
            f"{group.device_class} is not in the catalog",
            hint=_nearest_class(group.device_class, catalog, missing),
        )
    defaults: dict[str, Any] = {
        "vendor": "",
        "kind": Kind.GPU,
        "power_w": 0.0,
        "source": "declared",
    }
    assert group.memory_gib is not None
    return DeviceClass(
        name=group.device_class, memory_bytes=int(group.memory_gib * GIB), **(defaults | figures)
    )


def _figures(group: _Group) -> Iterator[tuple[str, Any]]:
    """The figures of a class that an entry gives, in the core's units; memory belongs to the devices."""
    rates = (
        ("bandwidth_bytes_per_s", group.memory_gbyte_per_s, GBYTE),
        ("power_w", group.watts, 1.0),
        ("idle_w", group.idle_watts, 1.0),
        ("link_bytes_per_s", group.link_gbyte_per_s, GBYTE),
        ("price_per_hour", group.price_per_hour, 1.0),
    )
    yield from ((name, value * unit) for name, value, unit in rates if value is not None)
    if group.tflops is not None:
        # Sorted: two entries that write the same figures in another order give the same class.
        yield "flops", tuple(sorted((d, value * TERA) for d, value in group.tflops.items()))
    if group.kind is not None:
        yield "kind", group.kind
    if group.vendor is not None:
        yield "vendor", group.vendor


def _nearest_class(name: str, catalog: Mapping[str, DeviceClass], missing: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, catalog, n=1)
    give = f"give its facts here: {', '.join(missing)}"
    return f"did you mean {near[0]}? Otherwise {give}" if near else give


def _islands_of(group: _Group, first: int, path: Sequence[int | str]) -> list[int]:
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


def _check_positions(group: _Group, path: Sequence[int | str]) -> None:
    joined = [position for island in group.islands or [] for position in island]
    for key, positions in (("islands", joined), ("unhealthy", group.unhealthy)):
        for position in positions:
            if position >= group.count:
                says = f"position {position} of {group.count} devices (they count from 0)"
                raise _error([*path, key], says)
    if len(set(joined)) < len(joined):
        raise _error([*path, "islands"], "a device can be in one island only")


def _devices(
    node: NodeId, group: _Group, device_class: DeviceClass, islands: Sequence[int], *, first: int
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
            island=islands[position],
            health=Health.LOST if position in group.unhealthy else Health.HEALTHY,
            handle=str(first + position),
        )


def _cpu_device(
    node: NodeId, cpu: _Cpu, catalog: Mapping[str, DeviceClass], *, island: int
) -> Device:
    known = catalog.get(cpu.device_class)
    if known is None or known.kind is not Kind.CPU:
        names = ", ".join(sorted(name for name, c in catalog.items() if c.kind is Kind.CPU))
        raise _error(
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


def declaration_schema() -> dict[str, Any]:
    """JSON Schema of the keys `cpu` and `devices` of one node, with its `$defs`."""
    return _Hardware.model_json_schema(by_alias=True)
