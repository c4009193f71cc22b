"""The question that is asked of the solver: what there is, what is wanted, what runs now. No solving here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

from .catalog import classes_of
from .demand import App, Demand
from .devices import Device
from .engine_facts import flaw
from .errors import SpecError
from .inventory import Inventory
from .modelspec import ModelFacts
from .plan import Plan
from .remote import UNKNOWN_FACTS, is_remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One placement to decide.

    Attributes:
        current: what runs now; kept where nothing better is possible. None = nothing runs.
        seed: two solves of one problem with one seed give one plan.
    """

    inventory: Inventory
    app: App
    current: Plan | None = None
    seed: int = 0


def facts_of(demand: Demand, inventory: Inventory) -> ModelFacts | None:
    """Facts given in the spec, else those that a node read from the weights; None when nobody knows them."""
    if demand.model.facts is not None:
        return demand.model.facts
    if is_remote(demand.model.source):
        return UNKNOWN_FACTS
    found = (node.presence(demand.model.source) for node in inventory.nodes)
    return next((p.facts for p in found if p is not None and p.facts is not None), None)


def check(problem: Problem) -> None:
    """Refuses what no solver can work on.

    Raises:
        SpecError: duplicate names, or a size, count or weight that is not a sensible number.
    """
    demands = problem.app.demands
    _unique("model", [d.id for d in demands])
    _unique("node", [n.id for n in problem.inventory.nodes])
    _unique("device", [d.id for n in problem.inventory.nodes for d in n.devices])
    _check_classes(problem)
    _check_engines(problem)
    _check_weights(problem)
    for demand in demands:
        _check_demand(demand)
        facts = facts_of(demand, problem.inventory)
        if facts is not None:
            _check_facts(demand, facts)


def with_demand(app: App, changed: Demand) -> App:
    """The app with one demand replaced by another of the same model."""
    return replace(app, demands=tuple(changed if d.id == changed.id else d for d in app.demands))


def _unique(noun: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1}) if _repeats(names) else []
    if twice:
        raise SpecError(f"{noun} {twice[0]} is given twice", hint=f"give each {noun} its own name")


def _repeats(names: list[str]) -> bool:
    return len(set(names)) != len(names)


def _check_classes(problem: Problem) -> None:
    classes = classes_of(problem.inventory)
    for node in problem.inventory.nodes:
        for device in node.devices:
            if device.device_class not in classes:
                raise SpecError(
                    f"device {device.id} is of unknown class {device.device_class}",
                    hint=f"give its figures in the inventory; known are {', '.join(sorted(classes))}",
                )
            if classes[device.device_class].endpoint is None:
                _check_device(device)
    for known in (c for c in problem.inventory.classes if c.endpoint is None):
        figures = (known.bandwidth_bytes_per_s, *(rate for _, rate in known.flops))
        if not all(isfinite(value) and value > 0 for value in figures):
            raise SpecError(
                f"device class {known.name} has a rate that is not positive",
                hint="give its memory bandwidth and its FLOP/s as positive numbers",
            )


def _check_engines(problem: Problem) -> None:
    _unique("engine", [e.name for e in problem.inventory.engines])
    for facts in problem.inventory.engines:
        if wrong := flaw(facts):
            raise SpecError(wrong, hint="see `drives`, `dtypes`, `tp` and figures of that engine")


def _check_device(device: Device) -> None:
    if device.memory_bytes <= 0 or device.shares < 1:
        raise SpecError(
            f"device {device.id} has {device.memory_bytes} bytes and {device.shares} shares",
            hint="give it a positive memory size and at least one share",
        )


def _check_weights(problem: Problem) -> None:
    policy = problem.app.policy
    weights = (policy.throughput, policy.latency, policy.energy, policy.cost)
    if not all(isfinite(w) and w >= 0 for w in weights):
        raise SpecError(
            f"policy {policy.name} has a negative weight or one that is no number",
            hint="give each of throughput, latency, energy and cost a weight of 0 or more",
        )


def _check_demand(demand: Demand) -> None:
    if not 0 <= demand.replicas_min <= demand.replicas_max:
        raise SpecError(
            f"replicas of {demand.id}: min {demand.replicas_min}, max {demand.replicas_max}",
            hint="give 0 <= min <= max",
        )
    if demand.context < 1 or demand.concurrency < 1:
        raise SpecError(
            f"{demand.id} has context {demand.context} and concurrency {demand.concurrency}",
            hint="give both as positive integers",
        )


def _check_facts(demand: Demand, facts: ModelFacts) -> None:
    sizes = (
        facts.parameters,
        facts.layers,
        facts.hidden,
        facts.heads,
        facts.kv_heads,
        facts.head_dim,
    )
    if not all(isfinite(size) and size > 0 for size in sizes):
        raise SpecError(
            f"facts of {demand.id} hold a figure that is not positive",
            hint="give parameters, layers, hidden, heads, kv_heads and head_dim as positive numbers",
        )
