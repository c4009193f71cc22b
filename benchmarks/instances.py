"""Instances of the placement benchmark: contended clusters of six accelerator classes and CPU sockets, and pools of single GPUs.

Decides what a random instance looks like; the same arguments give the same instance. Knows the cost model and the worth of a
replica, because contention is measured in them; knows nothing of the solver. Every instance is feasible: a placement of its
own, made first fit, proves it; a model that finds no place in that is replaced by a smaller one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import log
from random import Random
from typing import Any

from actors.declared import devices_of
from placement.catalog import catalog, classes_of, engines_for
from placement.demand import App, Budgets, Demand, Rate
from placement.devices import DeviceClass, Dtype
from placement.errors import SpecError
from placement.ids import ModelId, NodeId
from placement.inventory import Artifact, Inventory, Link, Node
from placement.layout import Layout
from placement.modelspec import ModelFacts, ModelSpec
from placement.plan import Predicted
from placement.policy import POLICIES
from placement.roofline import predict, slowest_hop
from placement.score import replica_value
from placement.units import GBIT

H100, A100, L4, T4 = "NVIDIA_H100_80G", "NVIDIA_A100_80G", "NVIDIA_L4_24G", "NVIDIA_T4_16G"
ATOM, RNGD, SOCKET = "RBLN_ATOM", "FURIOSA_RNGD", "CPU_SOCKET"

NODE_SHARES = {H100: 0.10, A100: 0.16, L4: 0.24, T4: 0.20, ATOM: 0.13, RNGD: 0.17}
"""Of the accelerator nodes."""

NODE_NAMES = {H100: "h100", A100: "a100", L4: "l4", T4: "t4", ATOM: "atom", RNGD: "rngd"}
DEVICES_PER_NODE, SOCKETS_PER_NODE, NODES_PER_RACK = 8, 2, 8
CPU_SHARE = 0.06
"""Of all devices."""

POWER_SHARE = 0.93
"""Of what the cluster draws when each copy in turn takes the best configuration that there is room for."""

MOST_DEVICES, MOST_MODELS, MOST_COMPILED = 80_000, 10_000, 30

POLICY = POLICIES["balanced"]
EVERY_ENGINE = frozenset({"vllm", "openvino", "rbln", "furiosa"})
_DTYPES: tuple[Dtype, ...] = ("bf16", "fp16", "fp32")

BANS = (
    (4, ()),
    (3, (H100,)),
    (3, (H100, A100)),
    (2, (H100, A100, RNGD)),
    (2, (H100, RNGD)),
    (1, (H100, A100, RNGD, ATOM)),
)
"""Weight and classes that a model may not use: not everybody gets the best, so that every class is wanted by some."""

SOCKET_FIGURES: dict[str, Any] = {
    "memory_gib": 256.0,
    "memory_gbyte_per_s": 250.0,
    "tflops": {"bf16": 32.0, "fp16": 5.0, "fp32": 5.0, "int8": 64.0},
    "watts": 270.0,
    "idle_watts": 60.0,
    "price_per_hour": 1.4,
    "kind": "cpu",
    "vendor": "generic",
}

REPLICAS = ((10, 2.6), (40, 2.525), (150, 2.34), (1000, 2.235))
"""Mean copies of a model by the number of models."""


def _facts(
    billions: float, layers: int, hidden: int, heads: int, kv: int, head: int, ffn: int, graph: str
) -> ModelFacts:
    return ModelFacts(
        parameters=billions * 1e9,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv,
        head_dim=head,
        ffn=ffn,
        vocab=128256,
        window=32768,
        architecture=graph,
    )


SHAPES = (
    (4, _facts(1.24, 16, 2048, 32, 8, 64, 8192, "llama")),
    (3, _facts(1.54, 28, 1536, 12, 2, 128, 8960, "qwen2")),
    (4, _facts(3.21, 28, 3072, 24, 8, 128, 8192, "llama")),
    (3, _facts(3.82, 32, 3072, 32, 32, 96, 8192, "phi3")),
    (6, _facts(7.25, 32, 4096, 32, 8, 128, 14336, "mistral")),
    (5, _facts(7.62, 28, 3584, 28, 4, 128, 18944, "qwen2")),
    (9, _facts(8.03, 32, 4096, 32, 8, 128, 14336, "llama")),
    (4, _facts(9.24, 42, 3584, 16, 8, 256, 14336, "gemma2")),
    (5, _facts(12.2, 40, 5120, 32, 8, 128, 14336, "mistral")),
    (6, _facts(14.8, 48, 5120, 40, 8, 128, 13824, "qwen2")),
    (4, _facts(27.2, 46, 4608, 32, 16, 128, 36864, "gemma2")),
    (6, _facts(32.8, 64, 5120, 40, 8, 128, 27648, "qwen2")),
    (3, _facts(34.4, 60, 7168, 56, 8, 128, 20480, "llama")),
    (6, _facts(70.6, 80, 8192, 64, 8, 128, 28672, "llama")),
)
"""Weight and facts of the shapes that models are drawn from: public decoders of 1.2 to 70.6 billion parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One configuration of a replica, as sized here."""

    device_class: str
    tp: int
    pp: int
    value: float
    power_w: float


def make(devices: int, models: int, seed: int) -> tuple[App, Inventory]:
    """A contended cluster of `devices` devices (to within one node) and `models` models.

    Raises:
        SpecError: a number that no instance can have.
    """
    _check("devices", devices, 2, MOST_DEVICES)
    _check("models", models, 1, MOST_MODELS)
    rng = Random(seed)
    bare = _cluster(devices)
    demands = tuple(_demand(rng, k, count) for k, count in enumerate(_copies(rng, models)))
    whole = replace(bare, nodes=_compiled(rng, bare.nodes, demands))
    return _feasible(f"contended-{devices}-{models}-{seed}", whole, demands)


def pools(nodes: int, seed: int) -> tuple[App, Inventory]:
    """`nodes` nodes of one GPU each, of up to five classes, on a slow network; one model of 70.6 B, as many copies as fit.

    Raises:
        SpecError: a number that no instance can have.
    """
    _check("pools", nodes, 4, 5_000)
    rng = Random(seed)
    others = ("NVIDIA_A100_40G", L4, "NVIDIA_L40S_48G", H100, "NVIDIA_V100_32G", T4)
    kinds = (A100, *rng.sample(others, rng.randint(2, 4)))
    # Four of the first kind are room for one copy, whatever the others are.
    drawn = [A100] * 4 + [rng.choice(kinds) for _ in range(nodes - 4)]
    rng.shuffle(drawn)
    found = tuple(
        _node(f"gpu-{k:04d}", "r0", [{"class": name, "count": 1}]) for k, name in enumerate(drawn)
    )
    slow = Link(between="nodes", bytes_per_s=1 * GBIT, latency_s=1e-3)
    facts = SHAPES[-1][1]
    room = sum(d.memory_bytes for node in found for d in node.devices)
    asked = Demand(
        model=_model("llm-70b", facts),
        replicas_min=1,
        replicas_max=max(1, int(room // (2 * facts.parameters))),
        context=4096,
        concurrency=8,
        engines=frozenset({"vllm"}),
        rate=Rate(requests_per_s=1.0, prompt_tokens=750, output_tokens=240),
    )
    app = App(name=f"pools-{nodes}-{seed}", demands=(asked,))
    return app, Inventory(generation=1, nodes=found, links=(slow,))


def wanted(app: App, inventory: Inventory) -> dict[str, int]:
    """Devices by class that the replicas would take if each had its best configuration."""
    found: Counter[str] = Counter()
    for demand in app.demands:
        best = max(_choices(demand, inventory), key=_worth)
        found[best.device_class] += best.tp * best.pp * demand.replicas_min
    return dict(found)


# -- the cluster ----------------------------------------------------------------------------------------------------


def _check(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise SpecError(f"{name} is {value}", hint=f"give {least} to {most}")


def _cluster(devices: int) -> Inventory:
    cpu_nodes = _cpu_nodes(devices)
    counts = _apportion((devices - SOCKETS_PER_NODE * cpu_nodes) // DEVICES_PER_NODE)
    kinds = [name for name in NODE_SHARES for _ in range(counts[name])]
    serial: Counter[str] = Counter()
    found = []
    for k, name in enumerate(_shuffled(kinds)):
        serial[name] += 1
        entry = {"class": name, "count": DEVICES_PER_NODE}
        label = f"{NODE_NAMES[name]}-{serial[name]:04d}"
        found.append(_node(label, f"r{k // NODES_PER_RACK:03d}", [entry]))
    for k in range(cpu_nodes):
        entry = {"class": SOCKET, "count": SOCKETS_PER_NODE, **SOCKET_FIGURES}
        rack = f"r{(len(kinds) + k) // NODES_PER_RACK:03d}"
        found.append(_node(f"cpu-{k + 1:04d}", rack, [entry]))
    return Inventory(
        generation=1,
        nodes=tuple(sorted(found, key=lambda n: n.id)),
        links=(
            Link(between="nodes", bytes_per_s=100 * GBIT, latency_s=20e-6),
            Link(between="racks", bytes_per_s=25 * GBIT, latency_s=120e-6),
        ),
        classes=(_socket(),) if cpu_nodes else (),
    )


def _cpu_nodes(devices: int) -> int:
    """About their share, such that nodes of eight fill the rest (but for one device of an odd number)."""
    even, usual = devices - devices % SOCKETS_PER_NODE, CPU_SHARE * devices / SOCKETS_PER_NODE
    most = even // SOCKETS_PER_NODE
    exact = (c for c in range(most + 1) if (even - SOCKETS_PER_NODE * c) % DEVICES_PER_NODE == 0)
    return min(exact, key=lambda c: abs(c - usual))


def _apportion(nodes: int) -> dict[str, int]:
    """Nodes by class, largest remainder; each class has one before any has a second."""
    counts = dict.fromkeys(NODE_SHARES, 0)
    for _ in range(nodes):
        name = min(NODE_SHARES, key=lambda c: (counts[c] > 0, (counts[c] + 0.5) / NODE_SHARES[c]))
        counts[name] += 1
    return counts


def _shuffled(names: list[str]) -> list[str]:
    """The same order for every seed: racks mix classes, and instances of one size share one cluster."""
    Random(len(names)).shuffle(names)
    return names


def _node(name: str, rack: str, entries: list[dict[str, Any]]) -> Node:
    devices, _ = devices_of(NodeId(name), {"devices": entries}, catalog(), emulated=False)
    return Node(id=NodeId(name), rack=rack, devices=devices)


def _socket() -> DeviceClass:
    entry = {"class": SOCKET, **SOCKET_FIGURES}
    _, classes = devices_of(NodeId("any"), {"devices": [entry]}, catalog(), emulated=False)
    return classes[0]


# -- what is asked --------------------------------------------------------------------------------------------------


def _copies(rng: Random, models: int) -> list[int]:
    """Copies of each model, 1 to 3, with the mean of that size."""
    copies = [rng.choice((1, 2, 3, 3)) for _ in range(models)]
    target = round(models * _mean(models))
    while sum(copies) != target:
        step = 1 if sum(copies) < target else -1
        k = rng.randrange(models)
        if 1 <= copies[k] + step <= 3:
            copies[k] += step
    return copies


def _mean(models: int) -> float:
    (first, high), (last, low) = REPLICAS[0], REPLICAS[-1]
    if models <= first:
        return high
    if models >= last:
        return low
    (a, at_a), (b, at_b) = next(p for p in pairwise(REPLICAS) if p[0][0] <= models <= p[1][0])
    return at_a + (at_b - at_a) * log(models / a) / log(b / a)


def _demand(rng: Random, index: int, copies: int) -> Demand:
    weights = [weight for weight, _ in SHAPES]
    facts = rng.choices(SHAPES, weights)[0][1]
    billions = facts.parameters / 1e9
    prompt, output = rng.choice(((256, 128), (750, 240), (1500, 300), (3000, 200)))
    concurrency = rng.choice((4, 8, 16, 32, 64) if billions < 20 else (8, 16, 32))
    tight = rng.random() < 0.5
    banned = frozenset(rng.choices([b for _, b in BANS], [w for w, _ in BANS])[0])
    return Demand(
        model=_model(f"m{index:04d}", facts),
        replicas_min=copies,
        replicas_max=copies,
        context=rng.choice((4096, 8192)),
        concurrency=concurrency,
        engines=_engines(rng),
        rate=Rate(
            requests_per_s=round(rng.uniform(0.2, 2.0) * concurrency / 8, 2),
            prompt_tokens=prompt,
            output_tokens=output,
        ),
        max_ttft_s=rng.choice((2.0, 3.0, 5.0)) if tight else None,
        max_token_s=rng.choice((0.06, 0.08, 0.12)) if tight else None,
        preferred=frozenset(
            rng.sample(sorted({L4, T4, ATOM, A100} - banned), 1 if rng.random() < 0.3 else 0)
        ),
        banned=banned,
        spread="node" if rng.random() < 0.4 else "none",
        priority=rng.choices((0, 1, 2, 4), (5, 3, 2, 1))[0],
    )


def _model(name: str, facts: ModelFacts) -> ModelSpec:
    source = f"file:///models/{name}"
    return ModelSpec(id=ModelId(name), source=source, tokenizer=source, facts=facts)


def _engines(rng: Random) -> frozenset[str]:
    """Most may run everywhere; of the others, some are not compiled for NPUs and some only for them."""
    drawn = rng.random()
    if drawn < 0.3:
        return frozenset({"vllm", "openvino"})
    if drawn < 0.4:
        return frozenset({"rbln", "furiosa", "openvino"})
    return EVERY_ENGINE


def _compiled(
    rng: Random, nodes: tuple[Node, ...], demands: tuple[Demand, ...]
) -> tuple[Node, ...]:
    """All NPU nodes of a class hold the same artifacts: some models are compiled for certain TP sizes only."""
    chosen = rng.sample(demands, min(MOST_COMPILED, len(demands) // 3))
    held: dict[str, list[Artifact]] = {ATOM: [], RNGD: []}
    for demand in sorted(chosen, key=lambda d: d.id):
        facts = demand.model.facts
        assert facts is not None
        for name, least in ((ATOM, 10e9), (RNGD, 40e9)):
            tp = next((t for t in (1, 2, 4) if 2.4 * facts.parameters / t <= least), 8)
            for size in sorted({tp, min(8, 2 * tp)}):
                if facts.heads % size == 0:
                    held[name].append(Artifact(model=demand.id, device_class=name, tp=size))
    return tuple(
        replace(node, artifacts=tuple(held.get(node.devices[0].device_class, ()))) for node in nodes
    )


# -- what it may be, and that it can be -----------------------------------------------------------------------------


def _worth(choice: Choice) -> float:
    return choice.value


def _choices(demand: Demand, inventory: Inventory) -> tuple[Choice, ...]:
    """Every configuration that fits a device and keeps the latency limits."""
    known = {d.device_class: n for n in inventory.nodes for d in n.devices[:1]}
    allowed = sorted(set(known) - demand.banned)
    return tuple(c for name in allowed for c in _on(demand, name, known[name], inventory))


def _on(demand: Demand, name: str, node: Node, inventory: Inventory) -> Iterator[Choice]:
    facts, device_class = demand.model.facts, classes_of(inventory)[name]
    assert facts is not None
    hop, computes = slowest_hop(inventory), {d for d, _ in device_class.flops}
    dtype = next(d for d in _DTYPES if d in computes)
    sizes = {a.tp for a in node.artifacts if a.model == demand.id}
    for engine in engines_for(device_class, emulated=False):
        if engine.name not in (demand.engines or ()) or facts.architecture not in (
            engine.architectures or (facts.architecture,)
        ):
            continue
        for tp, pp in product(sorted(sizes or engine.tp), range(1, engine.pp + 1)):
            if not _divides(facts, tp):
                continue
            layout = Layout(dtype=dtype, tp=tp, pp=pp)
            predicted = predict(
                demand, facts, device_class, engine, layout, device_shares=1, hop=hop
            )
            if _keeps(demand, predicted, node.devices[0].memory_bytes):
                value = replica_value(demand, facts, POLICY, predicted, name)
                yield Choice(
                    device_class=name, tp=tp, pp=pp, value=value, power_w=predicted.power_w
                )


def _divides(facts: ModelFacts, tp: int) -> bool:
    return facts.heads % tp == 0 and (facts.kv_heads % tp == 0 or tp % facts.kv_heads == 0)


def _keeps(demand: Demand, predicted: Predicted, memory_bytes: int) -> bool:
    return (
        predicted.memory_bytes <= memory_bytes
        and (demand.max_ttft_s is None or predicted.ttft_s <= demand.max_ttft_s)
        and (demand.max_token_s is None or predicted.token_s <= demand.max_token_s)
    )


class _Seats:
    """Free devices by node. A first-fit placement of all copies is the witness that an instance can be placed."""

    def __init__(self, inventory: Inventory) -> None:
        self.free: dict[str, dict[str, int]] = defaultdict(dict)
        for node in inventory.nodes:
            self.free[node.devices[0].device_class][node.id] = len(node.devices)

    def left(self) -> dict[str, int]:
        """Free devices by class."""
        return {name: sum(rooms.values()) for name, rooms in self.free.items()}

    def take(self, choice: Choice, barred: set[str]) -> Counter[str] | None:
        """Takes the devices of one copy, fullest nodes first: devices by node, or None."""
        rooms = self.free[choice.device_class]
        taken: Counter[str] = Counter()
        for _ in range(choice.pp):
            fits = (n for n in rooms if n not in barred and rooms[n] - taken[n] >= choice.tp)
            node = min(fits, key=lambda n: (rooms[n] - taken[n], n), default=None)
            if node is None:
                return None
            taken[node] += choice.tp
        self.give(choice, taken, -1)
        return taken

    def give(self, choice: Choice, taken: Mapping[str, int], sign: int = 1) -> None:
        """Gives the devices of one copy back."""
        for node, count in taken.items():
            self.free[choice.device_class][node] += sign * count


def _feasible(name: str, inventory: Inventory, demands: Sequence[Demand]) -> tuple[App, Inventory]:
    """Models with as many copies as find room, and the power budget over them."""
    needs = {d.id: _need(_choices(d, inventory)) for d in demands}
    waiting = sum(d.replicas_min for d in demands)
    seats = _Seats(inventory)
    kept: dict[ModelId, Demand] = {}
    seated: dict[ModelId, list[Choice]] = {}
    for demand in sorted(demands, key=lambda d: (-needs[d.id], d.id)):
        waiting -= demand.replicas_min
        kept[demand.id], seated[demand.id] = _settle(seats, demand, inventory, waiting)
    asked = tuple(kept[d.id] for d in demands)
    floor_w = sum(c.power_w for own in seated.values() for c in own)
    greedy_w = _greedy_w(inventory, asked, seated)
    budget = Budgets(cluster_w=float(round(max(POWER_SHARE * greedy_w, 1.01 * floor_w))))
    return App(name=name, demands=asked, policy=POLICY, budgets=budget), inventory


def _need(choices: tuple[Choice, ...]) -> float:
    """Devices of the smallest configuration over the number of classes that could hold one: hardest first."""
    if not choices:
        return 0.0
    return min(c.tp * c.pp for c in choices) / len({c.device_class for c in choices})


def _settle(
    seats: _Seats, demand: Demand, inventory: Inventory, waiting: int
) -> tuple[Demand, list[Choice]]:
    """A demand and where its copies are seated: as drawn, else smaller, else fewer. Leaves a device for each copy that waits.

    Raises:
        SpecError: not even one copy of the smallest finds room.
    """
    milder, found = demand, 0
    for milder in _milder(demand):
        seated = _seat(seats, milder, _choices(milder, inventory))
        if len(seated) == demand.replicas_min and sum(seats.left().values()) >= waiting:
            return milder, [choice for choice, _ in seated]
        found = len(seated)
        for choice, taken in seated:
            seats.give(choice, taken)
    if not found:
        raise SpecError("there is no room for so many models", hint="ask for more devices")
    fewer = replace(milder, replicas_min=found, replicas_max=found)
    return fewer, [choice for choice, _ in _seat(seats, fewer, _choices(fewer, inventory))]


def _milder(demand: Demand) -> Iterator[Demand]:
    """The demand, then with ever smaller models, at last one that may run anywhere."""
    yield demand
    facts = demand.model.facts
    assert facts is not None
    smaller = [f for _, f in reversed(SHAPES) if f.parameters < facts.parameters]
    for found in smaller:
        yield replace(demand, model=replace(demand.model, facts=found))
    yield replace(
        demand,
        model=replace(demand.model, facts=SHAPES[0][1]),
        context=4096,
        concurrency=4,
        engines=EVERY_ENGINE,
        max_ttft_s=None,
        max_token_s=None,
        banned=frozenset(),
        spread="none",
    )


def _seat(
    seats: _Seats, demand: Demand, choices: tuple[Choice, ...]
) -> list[tuple[Choice, Mapping[str, int]]]:
    """Places copies of one model, each where it takes the smallest part of what is left: those that found room."""
    barred: set[str] = set()
    seated: list[tuple[Choice, Mapping[str, int]]] = []
    for _ in range(demand.replicas_min):
        left = seats.left()
        order = sorted(
            choices, key=lambda c: (c.tp * c.pp / max(1, left[c.device_class]), c.power_w)
        )
        found = next(((c, t) for c in order if (t := seats.take(c, barred)) is not None), None)
        if found is None:
            break
        seated.append(found)
        if demand.spread == "node":
            barred |= set(found[1])
    return seated


def _greedy_w(
    inventory: Inventory, demands: Sequence[Demand], seated: Mapping[ModelId, list[Choice]]
) -> float:
    """Draw of the cluster when the seated copies, most important first, upgrade to the best that devices are left for."""
    left = Counter(d.device_class for n in inventory.nodes for d in n.devices)
    for choice in (c for own in seated.values() for c in own):
        left[choice.device_class] -= choice.tp * choice.pp
    total = 0.0
    for demand in sorted(demands, key=lambda d: (-d.priority, d.id)):
        best = sorted(_choices(demand, inventory), key=_worth, reverse=True)
        for choice in seated[demand.id]:
            left[choice.device_class] += choice.tp * choice.pp
            chosen = next(c for c in best if c.tp * c.pp <= left[c.device_class])
            left[chosen.device_class] -= chosen.tp * chosen.pp
            total += chosen.power_w
    return total
