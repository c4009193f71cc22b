"""The capacities that replicas share, as the proof sees them, and what prices on them prove.

Each row says: the sum of an amount over all chosen replicas does not exceed a limit. Some are rules, some are cuts that follow
from where replicas can stand; both hold for every plan. Written apart from the solver's rows; knows no search.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .demand import Demand
from .ids import ModelId
from .problem import Problem
from .proof_chains import with_chains
from .proof_options import Option, options_of
from .proof_pools import Pool, pools_of

SLACK = 1e-9

_PARTS = 4
_HEAVY = 5
Scope = tuple[str, ...]
"""Which options a row concerns: all, those of a model, of a pool, of both, or of a tenant on a device class."""

_ALL: Scope = ("all",)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """A capacity over the options in its scope.

    Attributes:
        limit: negative for a minimum, which is a capacity of negative amounts.
        amount: what one replica takes of it.
    """

    name: str
    limit: float
    scope: Scope
    amount: Callable[[Option], float]

    def holds(self, used: float) -> bool:
        """Whether that much may be used."""
        return used <= self.limit + SLACK * (1 + abs(self.limit))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instance:
    """A problem as the proof sees it: pools, options and rows, all derived anew.

    Attributes:
        options: of each model; those that break a row alone are left out.
        rows: by name.
    """

    problem: Problem
    pools: tuple[Pool, ...]
    options: Mapping[ModelId, tuple[Option, ...]]
    rows: Mapping[str, Row]


def instance_of(problem: Problem) -> Instance:
    """Derives everything that a proof needs from the problem alone."""
    pools = pools_of(problem.app, problem.inventory)
    every = with_chains(problem, pools, options_of(problem, pools))
    caps = by_scope(row for row in _rows(problem, pools, every) if row.limit >= 0)
    kept = {
        model: tuple(o for o in own if all(row.holds(row.amount(o)) for row in over(o, caps)))
        for model, own in every.items()
    }
    rows: dict[str, Row] = {}
    for row in _rows(problem, pools, kept):
        rows.setdefault(row.name, row)
    return Instance(problem=problem, pools=pools, options=kept, rows=rows)


def by_scope(rows: Iterable[Row]) -> dict[Scope, list[Row]]:
    """Rows by what they concern."""
    found: dict[Scope, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.scope].append(row)
    return dict(found)


def over(option: Option, rows: Mapping[Scope, Sequence[Row]]) -> Iterator[Row]:
    """The rows that concern an option."""
    model, tenant = option.demand.id, option.demand.tenant
    yield from rows.get(_ALL, ())
    yield from rows.get(("model", model), ())
    for pool in option.pools:
        yield from rows.get(("pool", pool.name), ())
        yield from rows.get(("model and pool", model, pool.name), ())
    for kind in dict.fromkeys(pool.device_class.name for pool in option.pools):
        yield from rows.get(("tenant", tenant, kind), ())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Priced:
    """What prices prove: no plan is worth more than `bound`.

    Attributes:
        reduced: of each model's options, value less the price of what they take.
    """

    bound: float
    reduced: Mapping[ModelId, tuple[float, ...]]


def priced(instance: Instance, prices: Mapping[str, float]) -> Priced:
    """Weak duality at prices >= 0 of known rows; any such prices prove a bound, good ones a low one."""
    index = by_scope(instance.rows[name] for name in prices)
    bound = sum(price * instance.rows[name].limit for name, price in prices.items())
    reduced: dict[ModelId, tuple[float, ...]] = {}
    for demand in instance.problem.app.demands:
        own = tuple(
            option.value - sum(prices[r.name] * r.amount(option) for r in over(option, index))
            for option in instance.options[demand.id]
        )
        best = max(own, default=0.0)
        least, most = demand.replicas_min, demand.replicas_max
        bound += least * best + (most - least) * max(0.0, best)
        reduced[demand.id] = own
    return Priced(bound=bound, reduced=reduced)


def _rows(
    problem: Problem, pools: tuple[Pool, ...], options: Mapping[ModelId, tuple[Option, ...]]
) -> Iterator[Row]:
    """Every row that could bind, over these options."""
    inside: dict[str, list[Option]] = defaultdict(list)
    for option in (o for own in options.values() for o in own):
        for pool in option.pools:
            inside[pool.name].append(option)
    for pool in pools:
        yield from _devices(pool, {o.layout.tp for o in inside[pool.name]})
        yield from _node_power(pool, problem.app.budgets.node_w)
    yield from _shared_power(problem, pools)
    yield from _quotas(problem)
    for demand in problem.app.demands:
        yield from _own(demand)
        yield from _spread(demand, options[demand.id])


def _devices(pool: Pool, sizes: set[int]) -> Iterator[Row]:
    """Units of the pool, groups of each size that its islands hold, and large parts of its devices."""
    name, scope = f"devices:{pool.name}", ("pool", pool.name)
    yield Row(
        name=name,
        limit=float(pool.devices * pool.shares),
        scope=scope,
        amount=lambda o: float(_units(o, pool)),
    )
    # Groups may overlap where devices can be shared, so there the ladder would not hold.
    for tp in sorted(sizes - {1}) if pool.shares == 1 else ():
        yield Row(
            name=f"{name}:tp{tp}",
            limit=float(sum(len(block.devices) // tp for block in pool.blocks)),
            scope=scope,
            amount=lambda o, tp=tp: float(o.inside(pool)[0] * (o.layout.tp // tp)),
        )
    for k in range(1, min(_PARTS, pool.shares - 1) + 1):
        yield Row(
            name=f"{name}:parts{k}",
            limit=float(k * pool.devices),
            scope=scope,
            amount=lambda o, k=k: float(o.layout.shares * (k + 1) > pool.shares),
        )


def _node_power(pool: Pool, limit: float | None) -> Iterator[Row]:
    """Watts of all its nodes; at most k stages on each that draw more than a (k+1)-th of its budget."""
    if limit is None:
        return
    name, scope, nodes = f"power:nodes:{pool.name}", ("pool", pool.name), pool.nodes
    yield Row(name=name, limit=limit * nodes, scope=scope, amount=lambda o: _watts_inside(o, pool))
    for k in range(_HEAVY):
        yield Row(
            name=f"{name}:{k}",
            limit=float(k * nodes),
            scope=scope,
            amount=lambda o, k=k: float(_heavy(o, pool, k + 1, limit)),
        )


def _shared_power(problem: Problem, pools: tuple[Pool, ...]) -> Iterator[Row]:
    budgets = problem.app.budgets
    if budgets.cluster_w is not None:
        yield Row(name="power:cluster", limit=budgets.cluster_w, scope=_ALL, amount=_watts)
    if budgets.rack_w is not None:
        racks = len({block.rack for pool in pools for block in pool.blocks})
        yield Row(name="power:racks", limit=budgets.rack_w * racks, scope=_ALL, amount=_watts)


def _quotas(problem: Problem) -> Iterator[Row]:
    for tenant in problem.app.tenants:
        for kind, limit in tenant.max_devices:
            yield Row(
                name=f"tenant:{tenant.name}:{kind}",
                limit=float(limit),
                scope=("tenant", tenant.name, kind),
                amount=lambda o, kind=kind: float(
                    sum(_units(o, pool) for pool in o.pools if pool.device_class.name == kind)
                ),
            )


def _own(demand: Demand) -> Iterator[Row]:
    """What a model is bounded by, all its replicas together."""
    scope = ("model", demand.id)
    if demand.power_budget_w is not None:
        yield Row(
            name=f"power:{demand.id}", limit=demand.power_budget_w, scope=scope, amount=_watts
        )
    if demand.max_price_per_hour is not None:
        yield Row(
            name=f"price:{demand.id}",
            limit=demand.max_price_per_hour,
            scope=scope,
            amount=lambda o: o.predicted.price_per_hour,
        )
    if demand.min_tokens_per_s is not None and demand.replicas_min >= 1:
        yield Row(
            name=f"throughput:{demand.id}",
            limit=-demand.min_tokens_per_s,
            scope=scope,
            amount=lambda o: -o.predicted.tokens_per_s,
        )


def _spread(demand: Demand, own: tuple[Option, ...]) -> Iterator[Row]:
    """No more replicas than there are nodes (or racks) that they could be on, in each pool and in all."""
    if demand.spread == "none" or not own:
        return
    name = f"spread:{demand.id}"
    domains: dict[str, set[str]] = {}
    for pool in {id(pool): pool for o in own for pool in o.pools}.values():
        domains[pool.name] = {_domain(demand, b.node, b.rack) for b in pool.blocks}
        yield Row(
            name=f"{name}:{pool.name}",
            limit=float(len(domains[pool.name])),
            scope=("model and pool", demand.id, pool.name),
            amount=_one,
        )
    together: set[str] = set().union(*domains.values())
    yield Row(name=name, limit=float(len(together)), scope=("model", demand.id), amount=_one)


def _domain(demand: Demand, node: str, rack: str) -> str:
    return rack if demand.spread == "rack" else node


def _units(option: Option, pool: Pool) -> int:
    return option.inside(pool)[0] * option.layout.tp * option.layout.shares


def _watts_inside(option: Option, pool: Pool) -> float:
    stages, watts = option.inside(pool)
    return stages * watts


def _heavy(option: Option, pool: Pool, many: int, limit: float) -> int:
    """Stages in the pool of which so many draw more than the limit."""
    stages, watts = option.inside(pool)
    return stages if watts * many > limit else 0


def _watts(option: Option) -> float:
    return option.predicted.power_w


def _one(_option: Option) -> float:
    return 1.0
