"""Composes the pure stages of one placement: pools, candidates, rows, search, plan. Verifies what it returns.

Infeasibility is a value; `infeasible` says what conflicts and what would help.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Literal

from .bounds import Dual
from .candidates import Asked, Options, enumerate_options
from .constraint import Candidate, Pool
from .demand import App, Demand
from .errors import PlacementError
from .ids import ModelId, SlotId, slot_id
from .layout import kv_bytes_per_token
from .ledger import nearest_misses, nothing, unknown
from .pack import Packer, Placed
from .plan import Plan, Rejection, RunnerUp, Slot, Why
from .pools import collapse, health_rejections, node_rejections
from .problem import Problem, facts_of
from .proof import prove
from .roofline import slowest_hop
from .rows import Table, most_copies, overdrawn, tabulate
from .search import Found, Search
from .staying import stay_worths
from .verify import verify

PROVEN = 1e-6
"""Relative gap below which a bound counts as reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to place everything: a plan, or why there is none.

    Attributes:
        conflict: models that certainly cannot run together, when that is known already.
        complete: with no plan, whether that is certain.
        table: what was searched, for those who ask why a plan is not there.
    """

    plan: Plan | None
    rejections: tuple[Rejection, ...]
    conflict: tuple[ModelId, ...] = ()
    complete: bool = True
    table: Table | None = None


def attempt(
    problem: Problem,
    should_stop: Callable[[], bool],
    *,
    first: bool = False,
    lp: bool = False,
) -> Attempt:
    """Places every demand or says why not.

    Args:
        first: the first plan found will do.
        lp: prices from a linear program (extra `lp`).
    """
    app, inventory = problem.app, problem.inventory
    refused = node_rejections(app.demands, inventory)
    pools = collapse(app.demands, inventory, refused)
    options = _options(problem, pools)
    table = tabulate(app, inventory, pools, options.candidates)
    rejections = _rejections(problem, refused, options, table)
    possible = tuple(d for d in app.demands if d.id in table.of_model)
    hopeless = tuple(d.id for d in app.demands if d.replicas_min > 0 and d.id not in table.of_model)
    answer = Attempt(plan=None, rejections=rejections, table=table)
    if hopeless:
        return replace(answer, conflict=hopeless[:1])
    if short := _short(possible, table):
        return replace(answer, rejections=(*short, *rejections), conflict=(short[0].model,))
    if over := overdrawn(table, possible):
        proofs = nearest_misses([r for proof in over for r in proof])
        conflict = tuple(ModelId(r.model) for r in over[0])
        return replace(answer, rejections=(*proofs, *rejections), conflict=conflict)
    searched, crowded = _limited(possible, table)
    if crowded:
        return replace(answer, rejections=(*crowded, *rejections), conflict=(crowded[0].model,))
    packer = Packer(app, pools, table.candidates, problem.current, should_stop)
    current = problem.current
    found = Search(
        table,
        searched,
        packer,
        most=[d.replicas_max for d in possible],
        should_stop=should_stop,
        stay=stay_worths(table, packer.running),
        known=dict(current.prices) if current else None,
        prove=lambda prices, value: prove(problem, _named(table, prices), value),
        seed=problem.seed,
        first=first,
        lp=lp,
    ).run()
    if found.placed is None:
        return replace(answer, complete=found.complete)
    plan = _plan(problem, table, found, found.placed, rejections)
    violations = verify(problem, plan)
    if violations:
        raise PlacementError(
            f"the verifier refuses the plan: {violations[0]}",
            hint="this is a bug in the solver; please report the spec and the inventory",
            violations=list(violations),
        )
    return replace(answer, plan=plan)


def _options(problem: Problem, pools: tuple[Pool, ...]) -> Options:
    """Options of every model whose figures are known, where there is a device at all."""
    app, inventory = problem.app, problem.inventory
    if not pools:
        return Options(candidates=(), rejections=tuple(map(nothing, app.demands)))
    facts = {d.id: facts_of(d, inventory) for d in app.demands}
    asked = [Asked(demand=d, facts=known) for d in app.demands if (known := facts[d.id])]
    found = enumerate_options(
        asked,
        pools,
        app,
        slowest_hop(inventory),
        problem.current,
        inventory.calibrations,
        inventory.engines,
    )
    missing = tuple(unknown(d) for d in app.demands if facts[d.id] is None)
    return replace(found, rejections=(*missing, *found.rejections))


def _rejections(
    problem: Problem, refused: tuple[Rejection, ...], options: Options, table: Table
) -> tuple[Rejection, ...]:
    """Every reason found, by model in the order of the spec."""
    health = health_rejections(problem.app.demands, problem.inventory)
    every = [*refused, *health, *nearest_misses(table.rejections), *options.rejections]
    order = {d.id: k for k, d in enumerate(problem.app.demands)}
    return tuple(sorted(every, key=lambda r: order[r.model]))


def _short(possible: tuple[Demand, ...], table: Table) -> tuple[Rejection, ...]:
    """Models whose throughput no number of allowed copies reaches."""
    found = []
    for demand in possible:
        wanted = demand.min_tokens_per_s
        own = table.of_model[demand.id]
        best = max(table.candidates[k].predicted.tokens_per_s for k in own)
        if wanted and demand.replicas_min and best * demand.replicas_max < wanted:
            reach = best * demand.replicas_max
            found.append(
                Rejection(
                    model=demand.id,
                    constraint="throughput",
                    reason=f"{demand.replicas_max} replicas reach {reach:.1f} of {wanted:.1f} tokens/s",
                    shortage=wanted - reach,
                    resolvable=True,
                    hint=f"raise models.{demand.id}.replicas",
                )
            )
    return tuple(found)


def _limited(
    possible: tuple[Demand, ...], table: Table
) -> tuple[tuple[Demand, ...], tuple[Rejection, ...]]:
    """The demands with no more copies than could find room, and those that must have more than that."""
    most = most_copies(table)
    crowded = tuple(
        Rejection(
            model=d.id,
            constraint="capacity",
            reason=f"{d.replicas_min} copies must run, there is room for {most[d.id]} at most",
            shortage=float(d.replicas_min - most[d.id]),
            resolvable=True,
        )
        for d in possible
        if most[d.id] < d.replicas_min
    )
    limited = tuple(
        replace(d, replicas_max=min(d.replicas_max, max(most[d.id], d.replicas_min)))
        for d in possible
    )
    return limited, crowded


def _plan(
    problem: Problem,
    table: Table,
    found: Found,
    placed: tuple[Placed, ...],
    rejections: tuple[Rejection, ...],
) -> Plan:
    dual_bound = max(found.value, _dual_bound(problem, table, found.dual))
    prices = _prices(table, found.dual)
    proof = _proof(problem, found, dual_bound, prices)
    slots = _slots(problem, table, found.dual, placed)
    return Plan(
        generation=problem.inventory.generation,
        policy=problem.app.policy.name,
        seed=problem.seed,
        value=found.value,
        bound=found.value if proof == "search" else dual_bound,
        proven=proof != "none",
        dual_bound=dual_bound,
        proof=proof,
        slots=slots,
        unplaced=_unplaced(problem.app, slots),
        rejections=rejections,
        prices=prices,
    )


def _dual_bound(problem: Problem, table: Table, dual: Dual) -> float:
    """The bound at the prices for as many copies as were asked for, also where there is no room for them."""
    worth = sum(price * row.limit for price, row in zip(dual.prices, table.rows, strict=True))
    for demand in problem.app.demands:
        if own := table.of_model.get(demand.id):
            best = max(dual.reduced[k] for k in own)
            spare = demand.replicas_max - demand.replicas_min
            worth += demand.replicas_min * best + spare * max(best, 0.0)
    return worth


def _proof(
    problem: Problem, found: Found, dual_bound: float, prices: tuple[tuple[str, float], ...]
) -> Literal["prices", "search", "none"]:
    """What proves that nothing is better. A search counts when one that shares no code with it ends alike."""
    if dual_bound - found.value <= PROVEN * abs(dual_bound):
        return "prices"
    proved = found.proved or (found.complete and prove(problem, dict(prices), found.value).complete)
    return "search" if proved else "none"


def _prices(table: Table, dual: Dual) -> tuple[tuple[str, float], ...]:
    return tuple(_named(table, dual.prices).items())


def _named(table: Table, prices: Sequence[float]) -> dict[str, float]:
    """Prices above 0 by the names of their rows."""
    return {row.name: p for row, p in zip(table.rows, prices, strict=True) if p > 0}


def _slots(
    problem: Problem, table: Table, dual: Dual, placed: tuple[Placed, ...]
) -> tuple[Slot, ...]:
    """Named slots: what runs on keeps its name, the others get the lowest free numbers."""
    used = {p.kept for p in placed if p.kept is not None}
    free = {d.id: _free_names(d.id, used) for d in problem.app.demands}
    whys: dict[int, Why] = {}
    slots = []
    for entry in sorted(placed, key=lambda p: (p.candidate, p.stages[0].devices)):
        candidate = table.candidates[entry.candidate]
        if entry.candidate not in whys:
            whys[entry.candidate] = _why(table, dual, entry.candidate)
        name = entry.kept or next(free[candidate.model])
        slots.append(_slot(name, table, entry, whys[entry.candidate]))
    order = {d.id: k for k, d in enumerate(problem.app.demands)}
    return tuple(sorted(slots, key=lambda s: (order[s.model], int(s.id.rpartition("/r")[2]))))


def _free_names(model: ModelId, used: set[SlotId]) -> Iterator[SlotId]:
    """The names of a model's slots that are free, lowest numbers first."""
    return (name for k in count() if (name := slot_id(model, k)) not in used)


def _slot(name: SlotId, table: Table, placed: Placed, why: Why) -> Slot:
    candidate = table.candidates[placed.candidate]
    demand, option = candidate.option.demand, candidate.option
    per_token = kv_bytes_per_token(option.facts, demand.arithmetic)
    return Slot(
        id=name,
        model=candidate.model,
        engine=option.engine.name,
        device_class=candidate.pool.device_class.name,
        dtype=candidate.layout.dtype,
        tp=candidate.layout.tp,
        pp=candidate.layout.pp,
        stages=placed.stages,
        predicted=candidate.predicted,
        kv_bytes=0
        if option.pool.device_class.endpoint
        else int(per_token * demand.context * demand.concurrency),
        emulated=candidate.pool.emulated,
        why=why,
    )


def _why(table: Table, dual: Dual, chosen: int) -> Why:
    """The best other configuration of the model at these prices, and the priced rows that this one uses."""
    own = table.candidates[chosen]
    others = [k for k in table.of_model[own.model] if _shape(table.candidates[k]) != _shape(own)]
    best = max(others, key=lambda k: (dual.reduced[k], -k), default=None)
    binding = tuple(
        table.rows[row].name for row, _ in table.usage[chosen] if dual.prices[row] > 1e-9
    )
    if best is None:
        return Why(binding=binding)
    other = table.candidates[best]
    return Why(
        runner_up=RunnerUp(
            device_class=other.pool.device_class.name,
            engine=other.option.engine.name,
            tp=other.layout.tp,
            pp=other.layout.pp,
            loss=round(max(0.0, dual.reduced[chosen] - dual.reduced[best]), 6),
        ),
        binding=binding,
    )


def _shape(candidate: Candidate) -> tuple[object, ...]:
    layout = candidate.layout
    return (
        tuple(candidate.pool_of(stage).device_class.name for stage in range(layout.pp)),
        candidate.option.engine.name,
        layout.tp,
        layout.pp,
        layout.shares,
    )


def _unplaced(app: App, slots: tuple[Slot, ...]) -> tuple[SlotId, ...]:
    """Names for the copies above the minimum that found no place."""
    missing: list[SlotId] = []
    used: dict[ModelId, set[SlotId]] = defaultdict(set)
    for slot in slots:
        used[slot.model].add(slot.id)
    for demand in app.demands:
        there = used[demand.id]
        free = (name for k in count() if (name := slot_id(demand.id, k)) not in there)
        missing.extend(islice(free, max(0, demand.replicas_max - len(there))))
    return tuple(missing)
