"""From an inventory to the YAML of an inventory file: what `shardyard devices -o yaml` prints.

Decides how devices are grouped again into entries. It must not know how a file is read (orchestrator.inventory_file).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import yaml

from placement.catalog import catalog
from placement.devices import Device, DeviceClass, Health, Kind
from placement.engine_facts import row_of
from placement.inventory import Artifact, Inventory, Link, ModelForm, ModelPresence, Node
from placement.units import GBIT, GBYTE, GIB, TERA

from .calibrations import as_entry
from .spec_grammar import Facts


def dump_inventory(inventory: Inventory) -> str:
    """An inventory as YAML that plans the same.

    What a file cannot say is left out (incarnations, identities, launch handles); the NUMA domains of a CPU become
    one, an island of unequal devices one for each kind, a recovered device degraded, and a position that is missing
    between others an unhealthy device, so that ids stay.
    """
    written: set[str] = set()
    own = {c.name: c for c in inventory.classes}
    document = {
        "generation": inventory.generation,
        "nodes": {node.id: _node_yaml(node, own, written) for node in inventory.nodes},
        "engines": {facts.name: row_of(facts) for facts in inventory.engines},
        "links": [_link_yaml(link) for link in inventory.links],
        "calibrations": [as_entry(found) for found in inventory.calibrations],
    }
    said = {
        key: value for key, value in document.items() if value or key in ("generation", "nodes")
    }
    return yaml.safe_dump(
        said, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120
    )


def _plain(value: float) -> float:
    """A figure as a person would have written it: changing units leaves no rounding behind."""
    return float(f"{value:.12g}")


def _node_yaml(node: Node, own: Mapping[str, DeviceClass], written: set[str]) -> dict[str, Any]:
    usual = _usually_emulated(node)
    found: dict[str, Any] = {
        "rack": node.rack,
        "cordoned": node.cordoned,
        "emulated": usual,
        "cpu": _cpu_yaml(node),
        "devices": [_group_yaml(g, own, written, usual) for g in _groups(node)],
        "artifacts": [_artifact_yaml(artifact) for artifact in node.artifacts],
        "models": [_presence_yaml(m) for m in node.models or ()],
    }
    said = {key: value for key, value in found.items() if value}
    if node.engines is not None:
        said["engines"] = sorted(node.engines)
    return said


def _usually_emulated(node: Node) -> bool:
    """What `emulated` of the node says; it alone decides about the CPU."""
    domains = [d for d in node.devices if not d.id.rpartition("/")[2].isdecimal()]
    asked = domains or node.devices
    return bool(asked) and all(device.emulated for device in asked)


def _accelerators(node: Node) -> dict[int, Device]:
    """Devices by position; those of the CPU have none."""
    tails = ((device.id.rpartition("/")[2], device) for device in node.devices)
    return dict(sorted((int(tail), device) for tail, device in tails if tail.isdecimal()))


def _cpu_yaml(node: Node) -> dict[str, Any]:
    domains = [d for d in node.devices if not d.id.rpartition("/")[2].isdecimal()]
    if not domains:
        return {}
    cpu = {
        "cores": sum(d.shares for d in domains),
        "memory_gib": sum(d.memory_bytes for d in domains) / GIB,
    }
    name = domains[0].device_class
    return cpu if name == "CPU" else {**cpu, "class": name}


def _groups(node: Node) -> list[list[Device]]:
    """Devices in runs of equal class, memory and origin; one run is one entry of the file."""
    runs: list[list[Device]] = []
    for device in _without_gaps(_accelerators(node)):
        if runs and _kin(runs[-1][-1]) == _kin(device):
            runs[-1].append(device)
        else:
            runs.append([device])
    return runs


def _without_gaps(devices: Mapping[int, Device]) -> Iterator[Device]:
    position = 0
    for number, device in devices.items():
        while position < number:
            yield replace(device, health=Health.LOST)
            position += 1
        yield device
        position += 1


def _kin(device: Device) -> tuple[str, int, bool]:
    return device.device_class, device.memory_bytes, device.emulated


def _group_yaml(
    group: list[Device], own: Mapping[str, DeviceClass], written: set[str], usual: bool
) -> dict[str, Any]:
    first = group[0]
    entry: dict[str, Any] = {"class": first.device_class, "count": len(group)}
    numbers = sorted({device.island for device in group})
    if len(numbers) > 1:
        entry["islands"] = [
            [k for k, device in enumerate(group) if device.island == number] for number in numbers
        ]
    lost = [k for k, device in enumerate(group) if device.health is Health.LOST]
    if lost:
        entry["unhealthy"] = lost
    well = (Health.HEALTHY, Health.LOST)
    degraded = [k for k, device in enumerate(group) if device.health not in well]
    if degraded:
        entry["degraded"] = degraded
    throttled = {k: device.speed for k, device in enumerate(group) if device.speed < 1.0}
    if throttled:
        entry["throttled"] = throttled
    if first.device_class in own and own[first.device_class].endpoint is not None:
        return entry | _endpoint_yaml(first, own[first.device_class])
    known = own.get(first.device_class) or catalog().get(first.device_class)
    if first.device_class in own and first.device_class not in written:
        written.add(first.device_class)
        entry |= _class_yaml(own[first.device_class])
    if known is None or known.memory_bytes != first.memory_bytes:
        entry["memory_gib"] = first.memory_bytes / GIB
    if first.emulated != usual:
        entry["emulated"] = first.emulated
    return entry


def _endpoint_yaml(device: Device, known: DeviceClass) -> dict[str, Any]:
    endpoint = known.endpoint
    assert endpoint is not None
    said = {
        "url": endpoint.url,
        "models": sorted(endpoint.models),
        "concurrency": device.shares,
        "tokens_per_s": endpoint.tokens_per_s,
        "ttft_ms": _plain(endpoint.ttft_s * 1e3),
        "price_per_million_tokens": endpoint.price_per_million_tokens,
        "uncertainty": known.uncertainty,
    }
    return {"endpoint": said}


def _class_yaml(known: DeviceClass) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "memory_gib": known.memory_bytes / GIB,
        "memory_gbyte_per_s": _plain(known.bandwidth_bytes_per_s / GBYTE),
        "tflops": {dtype: _plain(rate / TERA) for dtype, rate in known.flops},
        "watts": known.power_w,
        "idle_watts": known.idle_w,
        "link_gbyte_per_s": _plain(known.link_bytes_per_s / GBYTE),
        "price_per_hour": known.price_per_hour,
        "kind": "" if known.kind is Kind.GPU else known.kind.value,
        "vendor": known.vendor,
    }
    return {key: value for key, value in figures.items() if value}


def _artifact_yaml(artifact: Artifact) -> dict[str, Any]:
    more = {k: v for k in ("batch", "length", "dtype") if (v := getattr(artifact, k))}
    return {
        "model": artifact.model,
        "class": artifact.device_class,
        "tp": artifact.tp,
        **more,
    }


def _presence_yaml(presence: ModelPresence) -> dict[str, Any]:
    facts = presence.facts
    figures = {} if facts is None else {k: getattr(facts, k) for k in Facts.model_fields}
    said = {
        "path": presence.path,
        "facts": figures,
        "reason": presence.reason,
        "hint": presence.hint,
        "forms": [_form_yaml(form) for form in presence.forms],
    }
    kept = {key: value for key, value in said.items() if value}
    return {"source": presence.source, "present": presence.present, **kept}


def _form_yaml(form: ModelForm) -> dict[str, str]:
    return {"format": form.format, **({"dtype": form.dtype} if form.dtype else {})}


def _link_yaml(link: Link) -> dict[str, Any]:
    between = link.between if isinstance(link.between, str) else list(link.between)
    return {
        "between": between,
        "gbit_per_s": _plain(link.bytes_per_s / GBIT),
        "latency_us": _plain(link.latency_s * 1e6),
    }
