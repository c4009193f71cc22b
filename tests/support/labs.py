"""Builders of inventories, demands and apps, by the names of the catalog. Values only: nothing is started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from placement.catalog import catalog
from placement.demand import App, Demand
from placement.devices import Device, Health
from placement.ids import DeviceId, ModelId, NodeId
from placement.inventory import Inventory, Link, Node
from placement.modelspec import ModelFacts, ModelSpec
from placement.plan import Fix
from placement.policy import POLICIES
from placement.units import GBIT, GIB

SMOLLM2 = ModelFacts(
    parameters=134.5e6,
    layers=30,
    hidden=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    ffn=1536,
    vocab=49152,
    window=8192,
    architecture="llama",
    weights_bytes=98_400_000,
)

LLAMA_8B = ModelFacts(
    parameters=8.03e9,
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    ffn=14336,
    vocab=128256,
    window=8192,
    architecture="llama",
)

LLAMA_70B = ModelFacts(
    parameters=70.6e9,
    layers=80,
    hidden=8192,
    heads=64,
    kv_heads=8,
    head_dim=128,
    ffn=28672,
    vocab=128256,
    window=8192,
    architecture="llama",
)


def devices(
    node: str,
    device_class: str,
    count: int = 1,
    *,
    first: int = 0,
    islands: tuple[tuple[int, ...], ...] = (),
    unhealthy: tuple[int, ...] = (),
    emulated: bool = False,
    memory_bytes: int | None = None,
) -> tuple[Device, ...]:
    """Accelerators `<node>/<first>` and on; `islands` hold positions, all in one by default."""
    island_of = {position: k for k, island in enumerate(islands) for position in island}
    return tuple(
        Device(
            id=DeviceId(f"{node}/{first + k}"),
            node=NodeId(node),
            device_class=device_class,
            memory_bytes=memory_bytes or catalog()[device_class].memory_bytes,
            island=island_of.get(k, 0),
            health=Health.LOST if k in unhealthy else Health.HEALTHY,
            emulated=emulated,
        )
        for k in range(count)
    )


def cpu(
    node: str,
    cores: int,
    memory_gib: float,
    device_class: str = "CPU_AVX512",
    *,
    emulated: bool = False,
) -> Device:
    """The CPU of a node as one device."""
    return Device(
        id=DeviceId(f"{node}/cpu0"),
        node=NodeId(node),
        device_class=device_class,
        memory_bytes=int(memory_gib * GIB),
        shares=cores,
        emulated=emulated,
    )


def node(name: str, *found: Device | tuple[Device, ...], rack: str = "r1", **rest: Any) -> Node:
    """A node of these devices."""
    flat = tuple(d for entry in found for d in (entry if isinstance(entry, tuple) else (entry,)))
    return Node(id=NodeId(name), rack=rack, devices=flat, **rest)


def inventory(*nodes: Node, generation: int = 1, links: tuple[Link, ...] = ()) -> Inventory:
    """An inventory, its nodes in order of their names."""
    return Inventory(
        generation=generation, nodes=tuple(sorted(nodes, key=lambda n: n.id)), links=links
    )


def model(name: str, facts: ModelFacts | None = LLAMA_8B, source: str = "") -> ModelSpec:
    """A model whose weights lie in a file, unless said otherwise."""
    source = source or f"file:///models/{name}"
    return ModelSpec(id=ModelId(name), source=source, tokenizer=source, facts=facts)


def demand(
    name: str = "m",
    facts: ModelFacts | None = LLAMA_8B,
    replicas: int | tuple[int, int] = 1,
    *,
    source: str = "",
    **rest: Any,
) -> Demand:
    """A demand; `replicas` is a number or (min, max)."""
    low, high = replicas if isinstance(replicas, tuple) else (replicas, replicas)
    return Demand(model=model(name, facts, source), replicas_min=low, replicas_max=high, **rest)


def app(*demands: Demand, policy: str = "balanced", **rest: Any) -> App:
    """An app of these demands."""
    return App(name="test", demands=demands, policy=POLICIES[policy], **rest)


def mixed_lab(*, emulated: bool = True) -> Inventory:
    """A lab of four kinds of nodes: H100, ATOM, RNGD and CPU only."""
    return inventory(
        node("cpu-1", cpu("cpu-1", 16, 64, emulated=emulated), rack="r2"),
        node("gpu-1", devices("gpu-1", "NVIDIA_H100_80G", 4, emulated=emulated)),
        node("npu-1", devices("npu-1", "RBLN_ATOM", 4, emulated=emulated), rack="r2"),
        node("npu-2", devices("npu-2", "FURIOSA_RNGD", 4, emulated=emulated), rack="r2"),
    )


def datacentre() -> Inventory:
    """The inventory of the published example: 36 devices and the CPUs of four nodes."""
    return inventory(
        node(
            "gpu-1",
            devices("gpu-1", "NVIDIA_H100_80G", 8, islands=((0, 1, 2, 3), (4, 5, 6, 7))),
            cpu("gpu-1", 64, 1024),
        ),
        node(
            "gpu-2", devices("gpu-2", "NVIDIA_H100_80G", 8, unhealthy=(3,)), cpu("gpu-2", 64, 1024)
        ),
        node("npu-1", devices("npu-1", "FURIOSA_RNGD", 8), cpu("npu-1", 48, 512), rack="r2"),
        node("npu-2", devices("npu-2", "RBLN_ATOM_MAX", 16), cpu("npu-2", 48, 512), rack="r2"),
        generation=12,
        links=(
            Link(between="nodes", bytes_per_s=100 * GBIT, latency_s=20e-6),
            Link(between="racks", bytes_per_s=25 * GBIT, latency_s=120e-6),
        ),
    )


def without_node(whole: Inventory, name: str) -> Inventory:
    """The next generation, after a node was lost."""
    left = tuple(n for n in whole.nodes if n.id != name)
    return replace(whole, nodes=left, generation=whole.generation + 1)


_FIELDS = {
    "context": "context",
    "concurrency": "concurrency",
    "dtype": "dtype",
    "engines": "engines",
    "requires": "requires",
    "arithmetic": "arithmetic",
    "artifacts.build": "build",
    "constraints.spread": "spread",
    "constraints.pin": "pin_nodes",
    "constraints.min_tokens_per_s": "min_tokens_per_s",
    "constraints.power_budget_watts": "power_budget_w",
    "constraints.max_price_per_hour": "max_price_per_hour",
    "constraints.max_latency_ms": "max_ttft_s",
    "constraints.max_token_ms": "max_token_s",
    "constraints.banned_hardware": "banned",
}


def with_change(whole: App, fix: Fix) -> App:
    """The app with a fix's change applied, read by the keys of a spec."""
    for path, (_, value) in zip(fix.paths, fix.change, strict=True):
        scope, name, key = path[0], path[1], ".".join(path[2:])
        if scope == "models":
            asked = tuple(_changed(d, key, value) if d.id == name else d for d in whole.demands)
            whole = replace(whole, demands=asked)
        elif scope == "budgets":
            whole = replace(whole, budgets=replace(whole.budgets, **{f"{key}_w": value}))
        else:
            tenants = tuple(
                replace(t, max_devices=_quotas(t.max_devices, key, value)) if t.name == name else t
                for t in whole.tenants
            )
            whole = replace(whole, tenants=tenants)
    return whole


def _quotas(before: tuple[tuple[str, int], ...], key: str, value: Any) -> Any:
    """`max_devices` removes them all, `max_devices.CLASS` sets one."""
    device_class = key.partition(".")[2]
    return tuple((n, value if n == device_class else q) for n, q in before) if device_class else ()


def _changed(asked: Demand, key: str, value: Any) -> Demand:
    if key == "replicas":
        return replace(asked, replicas_min=value, replicas_max=value)
    if key == "replicas.min":
        return replace(asked, replicas_min=value)
    if key.endswith("_ms") and value is not None:
        value = value / 1e3
    if key in ("constraints.banned_hardware", "requires"):
        value = frozenset()
    if key == "dtype" and value == "auto":
        value = None
    return replace(asked, **{_FIELDS[key]: value})
