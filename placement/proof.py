"""Re-derives what a plan claims, from the problem and the plan's own prices: nobody has to trust the solver.

A plan carries prices. For any prices >= 0 of capacities, weak duality bounds what every plan can be worth, so a reader who lists
the options and the capacities anew, as `proof_options` and `proof_rows` do, gets the bound and the gap without searching. A bound
below that rests on a complete search, which `proof_search` repeats. Shares no code with the solver; feasibility is `verify`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from math import ceil, isclose, isfinite

from .ids import DeviceId, SlotId, slot_id
from .layout import Layout
from .plan import Plan, Slot
from .problem import Problem
from .proof_rows import Instance, instance_of, priced
from .proof_search import MAX_STEPS, RELATIVE, Proof, prove, prove_on
from .verify import verify

__all__ = ["MAX_STEPS", "Audit", "Proof", "audit", "prove", "proven_bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was derived about a plan, and everything in it that does not hold.

    Attributes:
        faults: sentences, the first one is the first that was found; empty when the plan holds.
        value, dual_bound, bound, gap: derived; None where a fault ended the derivation before.
        steps: of the repeated search; 0 = none was needed.
    """

    faults: tuple[str, ...]
    value: float | None = None
    dual_bound: float | None = None
    bound: float | None = None
    gap: float | None = None
    steps: int = 0


def proven_bound(problem: Problem, prices: tuple[tuple[str, float], ...]) -> float:
    """What prices >= 0 of known rows prove that no plan can be worth more than.

    Raises:
        KeyError: a price of a row that the problem does not have.
    """
    return priced(instance_of(problem), dict(prices)).bound


def audit(problem: Problem, plan: Plan, max_steps: int = MAX_STEPS) -> Audit:
    """Checks feasibility, worth, prices, bound, gap and the claim of a proof. The explanations in a plan are not checked."""
    faults = verify(problem, plan)
    if faults:
        return Audit(faults=faults)
    instance = instance_of(problem)
    faults = (*_names(problem, plan), *_configurations(instance, plan), *_prices(instance, plan))
    if faults:
        return Audit(faults=faults)
    dual_bound = priced(instance, dict(plan.prices)).bound
    faults, proof = _claims(instance, plan, dual_bound, max_steps)
    value = sum(_options(instance, plan), 0.0)
    bound = value if plan.proof == "search" and not faults else max(dual_bound, value)
    gap = 0.0 if faults or plan.proven or bound == 0 else (bound - value) / abs(bound)
    return Audit(
        faults=faults,
        value=value,
        dual_bound=dual_bound,
        bound=bound,
        gap=None if faults else gap,
        steps=proof.steps if proof else 0,
    )


def _names(problem: Problem, plan: Plan) -> Iterator[str]:
    """Faults in the policy's name and in the names of slots, planned and unplaced."""
    if plan.policy != problem.app.policy.name:
        yield f"made under policy {plan.policy}, the spec asks for {problem.app.policy.name}"
    planned = Counter(slot.model for slot in plan.slots)
    used = {slot.id for slot in plan.slots}
    expected: list[SlotId] = []
    for demand in problem.app.demands:
        free = (name for k in count() if (name := slot_id(demand.id, k)) not in used)
        expected.extend(islice(free, demand.replicas_max - planned[demand.id]))
    if sorted(plan.unplaced) != sorted(expected):
        said, right = (
            ", ".join(plan.unplaced[:3]) or "nothing",
            ", ".join(expected[:3]) or "nothing",
        )
        yield (
            f"says that {said} found no place ({len(plan.unplaced)} in all),"
            f" missing are {right} ({len(expected)})"
        )


def _configurations(instance: Instance, plan: Plan) -> Iterator[str]:
    """Slots that are none of the options that the rules allow: the bound would not hold for them."""
    worth = _worth(instance)
    pool_of = _pool_of(instance)
    for slot in plan.slots:
        layout = f"{slot.dtype} tp {slot.tp} pp {slot.pp} shares {slot.stages[0].shares}"
        mixed = [
            stage.node
            for stage in slot.stages
            if len({pool_of.get(device, "") for device in stage.devices}) > 1
        ]
        if mixed:
            yield f"{slot.id} mixes devices of {mixed[0]} that rules tell apart"
        elif not any((slot.model, *key) in worth for key in _keys(slot, pool_of)):
            pools = ", ".join(sorted({pool_of.get(device, "") for device in slot.devices}))
            yield f"{slot.id} as {layout} with {slot.engine} on {pools} is not among what the rules allow"


def _keys(slot: Slot, pool_of: Mapping[DeviceId, str]) -> Iterator[tuple[object, ...]]:
    """What tells the configuration from others: where all stages lie, or where each does and with how many layers."""
    shares = slot.stages[0].shares
    layout = Layout(dtype=slot.dtype, tp=slot.tp, pp=slot.pp, shares=shares)
    pools = [pool_of.get(stage.devices[0], "") for stage in slot.stages]
    sizes = [end - first for first, end in (stage.layers for stage in slot.stages)]
    if len(set(pools)) == 1 and max(sizes) <= ceil(sum(sizes) / slot.pp):
        yield pools[0], slot.engine, layout
    yield tuple(zip(pools, sizes, strict=True)), slot.engine, layout


def _pool_of(instance: Instance) -> dict[DeviceId, str]:
    return {
        device: pool.name
        for pool in instance.pools
        for block in pool.blocks
        for device in block.devices
    }


def _worth(instance: Instance) -> dict[tuple[object, ...], float]:
    return {(o.demand.id, *o.key): o.value for own in instance.options.values() for o in own}


def _options(instance: Instance, plan: Plan) -> Iterator[float]:
    """Worth of each slot."""
    worth, pool_of = _worth(instance), _pool_of(instance)
    for slot in plan.slots:
        keys = ((slot.model, *key) for key in _keys(slot, pool_of))
        yield next(worth[key] for key in keys if key in worth)


def _prices(instance: Instance, plan: Plan) -> Iterator[str]:
    for name, number in Counter(name for name, _ in plan.prices).items():
        if number > 1:
            yield f"prices {name} {number} times"
    for name, price in plan.prices:
        if name not in instance.rows:
            yield f"prices {name}, which is no capacity of this problem"
        elif not isfinite(price) or price < 0:
            yield f"the price of {name} is {price:g}; only prices of 0 or more prove a bound"


def _claims(
    instance: Instance, plan: Plan, dual_bound: float, max_steps: int
) -> tuple[tuple[str, ...], Proof | None]:
    """Faults in what is claimed about the bound, the first one only, and the search where one was repeated."""
    if not _same(plan.dual_bound, dual_bound):
        says = f"its prices prove a bound of {dual_bound:.6f}, not {plan.dual_bound:.6f}"
        return (says,), None
    reached = plan.bound - plan.value <= RELATIVE * abs(plan.bound)
    if plan.proven != (plan.proof != "none"):
        return (f"says proven {str(plan.proven).lower()} with proof {plan.proof}",), None
    if plan.proven and not reached:
        return (f"says proven, and {plan.value:.6f} of {plan.bound:.6f} is not the bound",), None
    if plan.proof == "search":
        return _searched(instance, plan, max_steps)
    if not _same(plan.bound, dual_bound):
        says = f"its bound is {plan.bound:.6f}, its prices prove {dual_bound:.6f}"
        return (says,), None
    if not plan.proven and plan.gap <= 0:
        return (f"claims no proof, and its gap is {plan.gap:g}",), None
    return (), None


def _searched(
    instance: Instance, plan: Plan, max_steps: int
) -> tuple[tuple[str, ...], Proof | None]:
    proof = prove_on(instance, dict(plan.prices), plan.value, max_steps)
    if proof.better is not None:
        says = (
            f"claims that nothing is better than {plan.value:.6f}; a plan of {proof.better:.6f} is"
        )
        return (says,), proof
    if not proof.complete:
        return (f"its claim of a complete search does not hold within {max_steps} steps",), proof
    return (), proof


def _same(claimed: float, derived: float) -> bool:
    return isclose(claimed, derived, rel_tol=RELATIVE, abs_tol=1e-9)
