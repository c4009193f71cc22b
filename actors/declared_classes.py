"""Device classes as entries declare them: figures of a new class, changes of a known one, remote endpoints.

Decides defaults and what is assumed where a figure is missing. It must not know nodes or positions.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from placement.devices import BYTES_PER_VALUE, DeviceClass, Kind
from placement.devices import Endpoint as OfferedEndpoint
from placement.units import GBYTE, GIB, TERA

from .declared_grammar import Endpoint, Group, wrong

UNKNOWN_VENDOR = "unknown"
"""Of a class that is declared without one."""


def class_of(
    group: Group, catalog: Mapping[str, DeviceClass], path: Sequence[int | str]
) -> DeviceClass:
    """The class that an entry names, with the figures that it gives.

    Raises:
        SpecError: it is unknown and lacks figures, or they contradict each other.
    """
    known = catalog.get(group.device_class)
    if group.endpoint is not None:
        return _remote_class(group, group.endpoint, known, path)
    figures = dict(_figures(group))
    if known is not None:
        return dataclasses.replace(known, **figures) if figures else known
    missing = [
        k for k in ("memory_gib", "memory_gbyte_per_s", "tflops") if getattr(group, k) is None
    ]
    if missing:
        raise wrong(
            [*path, "class"],
            f"{group.device_class} is not in the catalog",
            hint=_nearest_class(group.device_class, catalog, missing),
        )
    if figures.get("kind") is Kind.REMOTE:
        says = f"{group.device_class} is remote but has no `endpoint`"
        raise wrong(path, says, hint="endpoint: {url: openai+https://..., concurrency: 8, ...}")
    defaults: dict[str, Any] = {
        "vendor": UNKNOWN_VENDOR,
        "kind": Kind.GPU,
        "power_w": 0.0,
        "source": "declared",
    }
    assert group.memory_gib is not None
    return DeviceClass(
        name=group.device_class, memory_bytes=int(group.memory_gib * GIB), **(defaults | figures)
    )


def check_memory(group: Group, device_class: DeviceClass, path: Sequence[int | str]) -> None:
    """Refuses devices without any memory.

    Raises:
        SpecError: with the path of keys.
    """
    remote = device_class.kind is Kind.REMOTE
    if not remote and group.memory_gib is None and not device_class.memory_bytes:
        says = f"{device_class.name} has no memory of its own in the catalog"
        raise wrong(path, says, hint="add memory_gib, or declare a processor under `cpu`")


def _remote_class(
    group: Group, endpoint: Endpoint, known: DeviceClass | None, path: Sequence[int | str]
) -> DeviceClass:
    """A class of its own, that no other entry shares figures with."""
    if known is not None and known.endpoint is None:
        says = f"{group.device_class} is a class of hardware"
        raise wrong([*path, "class"], says, hint="give the endpoint a name of its own")
    if any(True for _ in _figures(group)) or group.memory_gib is not None:
        says = "an endpoint has no figures of hardware"
        raise wrong(path, says, hint="leave out all but class and endpoint")
    if group.count > 1:
        says = f"an endpoint is one device, not {group.count}"
        raise wrong([*path, "count"], says, hint="raise concurrency instead")
    return DeviceClass(
        name=group.device_class,
        vendor=UNKNOWN_VENDOR,
        kind=Kind.REMOTE,
        memory_bytes=0,
        bandwidth_bytes_per_s=0.0,
        flops=tuple((dtype, TERA) for dtype in sorted(BYTES_PER_VALUE)),
        power_w=0.0,
        uncertainty=endpoint.uncertainty,
        source="declared",
        endpoint=OfferedEndpoint(
            url=endpoint.url,
            models=frozenset(endpoint.models),
            tokens_per_s=endpoint.tokens_per_s,
            ttft_s=endpoint.ttft_ms / 1e3,
            price_per_million_tokens=endpoint.price_per_million_tokens,
        ),
    )


def class_notes(device_class: DeviceClass, known: Mapping[str, DeviceClass]) -> tuple[str, ...]:
    """What is assumed of a class that the catalog does not have, in sentences; () for all others."""
    if device_class.name in known or device_class.kind is Kind.REMOTE:
        return ()
    name = device_class.name
    notes = [f"{name} is not in the catalog: planned with the figures given, +-40 % of the truth"]
    if device_class.vendor == UNKNOWN_VENDOR:
        notes.append(f"{name} has no `vendor`: taken as driven by the engine vllm")
    missing = [
        key
        for key, value in (
            ("watts", device_class.power_w),
            ("price_per_hour", device_class.price_per_hour),
            ("link_gbyte_per_s", device_class.link_bytes_per_s),
        )
        if not value
    ]
    if missing:
        notes.append(f"{name} has no {', '.join(missing)}: counted as 0")
    return tuple(notes)


def _figures(group: Group) -> Iterator[tuple[str, Any]]:
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
