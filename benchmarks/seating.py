"""What the replicas of an instance may be, and a placement of them made first fit: the witness that the instance is feasible.

Knows the cost model and the worth of a replica, because contention is measured in them; knows nothing of the solver.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from placement.catalog import classes_of, engines_for
from placement.demand import Demand
from placement.devices import Dtype
from placement.ids import ModelId
from placement.inventory import Inventory, Node
from placement.layout import Layout
from placement.modelspec import ModelFacts
from placement.plan import Predicted
from placement.policy import POLICIES
from placement.roofline import predict, slowest_hop
from placement.score import replica_value

POLICY = POLICIES["balanced"]
_DTYPES: tuple[Dtype, ...] = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One configuration of a replica, as sized here."""

    device_class: str
    tp: int
    pp: int
    value: float
    power_w: float


def choices_of(demand: Demand, inventory: Inventory) -> tuple[Choice, ...]:
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


class Seats:
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


def need(choices: tuple[Choice, ...]) -> float:
    """Devices of the smallest configuration over the number of classes that could hold one: hardest first."""
    if not choices:
        return 0.0
    return min(c.tp * c.pp for c in choices) / len({c.device_class for c in choices})


def seat(
    seats: Seats, demand: Demand, choices: tuple[Choice, ...]
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


def greedy_w(
    inventory: Inventory, demands: Sequence[Demand], seated: Mapping[ModelId, list[Choice]]
) -> float:
    """Draw of the cluster when the seated copies, most important first, upgrade to the best that devices are left for."""
    left = Counter(d.device_class for n in inventory.nodes for d in n.devices)
    for choice in (c for own in seated.values() for c in own):
        left[choice.device_class] -= choice.tp * choice.pp
    total = 0.0
    for demand in sorted(demands, key=lambda d: (-d.priority, d.id)):
        best = sorted(choices_of(demand, inventory), key=_value_of, reverse=True)
        for choice in seated[demand.id]:
            left[choice.device_class] += choice.tp * choice.pp
            chosen = next(c for c in best if c.tp * c.pp <= left[c.device_class])
            left[chosen.device_class] -= chosen.tp * chosen.pp
            total += chosen.power_w
    return total


def wanted(demands: Sequence[Demand], inventory: Inventory) -> dict[str, int]:
    """Devices by class that the replicas would take if each had its best configuration."""
    found: Counter[str] = Counter()
    for demand in demands:
        best = max(choices_of(demand, inventory), key=_value_of)
        found[best.device_class] += best.tp * best.pp * demand.replicas_min
    return dict(found)


def _value_of(choice: Choice) -> float:
    return choice.value
