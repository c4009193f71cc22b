"""Gathers the capacities that replicas share into one table, and drops candidates that break one alone."""

from __future__ import annotations

from dataclasses import dataclass

from .constraint import Candidate, Pool, Row, Scope
from .demand import App, Demand
from .inventory import Inventory
from .plan import Rejection
from .rules import ROW_RULES

_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Candidates and the rows over them.

    Attributes:
        usage: for each candidate its (row, amount) pairs.
        rejections: candidates that break a row alone.
    """

    candidates: tuple[Candidate, ...]
    rows: tuple[Row, ...]
    usage: tuple[tuple[tuple[int, float], ...], ...]
    rejections: tuple[Rejection, ...]


def tabulate(
    app: App, inventory: Inventory, pools: tuple[Pool, ...], candidates: tuple[Candidate, ...]
) -> Table:
    """The table of rows over the candidates that can hold alone."""
    rows = _rows(app, inventory, pools, candidates)
    broken = {k: row for row in reversed(rows) for k, a in row.amounts.items() if _over(a, row)}
    if broken:
        kept = tuple(c for k, c in enumerate(candidates) if k not in broken)
        rows = _rows(app, inventory, pools, kept)
    else:
        kept = candidates
    usage: list[list[tuple[int, float]]] = [[] for _ in kept]
    for index, row in enumerate(rows):
        for k, amount in row.amounts.items():
            usage[k].append((index, amount))
    return Table(
        candidates=kept,
        rows=rows,
        usage=tuple(tuple(pairs) for pairs in usage),
        rejections=tuple(_rejection(candidates[k], k, row) for k, row in sorted(broken.items())),
    )


def _rows(
    app: App, inventory: Inventory, pools: tuple[Pool, ...], candidates: tuple[Candidate, ...]
) -> tuple[Row, ...]:
    scope = Scope(app=app, inventory=inventory, pools=pools, candidates=candidates)
    return tuple(row for rule in ROW_RULES for row in rule(scope) if row.amounts)


def _over(amount: float, row: Row) -> bool:
    return amount > row.limit * (1 + _SLACK) + _SLACK


def _rejection(candidate: Candidate, k: int, row: Row) -> Rejection:
    amount = row.amounts[k]
    return candidate.option.reject(
        _rule(row),
        f"takes {amount:g} of {row.limit:g} ({row.name})",
        shortage=amount - row.limit,
        resolvable=True,
    )


def overdrawn(table: Table, demands: tuple[Demand, ...]) -> tuple[tuple[Rejection, ...], ...]:
    """Rows that the copies which must run break whatever they choose: each proves that no plan exists.

    One entry per such row, with a rejection for each model that takes of it; the fewest models come first.
    """
    found = []
    for row in table.rows:
        least = {d.id: d.replicas_min * _least(table, row, d) for d in demands}
        total = sum(least.values())
        if total > row.limit * (1 + _SLACK) + _SLACK:
            found.append(tuple(_overdraft(row, d, total) for d in demands if least[d.id] > 0))
    return tuple(sorted(found, key=len))


def most_copies(table: Table, demand: Demand) -> int:
    """Copies of a model that find room at most, if nothing else is placed."""
    least: dict[str, int] = {}
    units: dict[str, int] = {}
    for candidate in (c for c in table.candidates if c.model == demand.id):
        pool = candidate.pool
        units[pool.name] = pool.units
        least[pool.name] = min(least.get(pool.name, pool.units), candidate.layout.units)
    room = sum(units[name] // least[name] for name in units)
    shared = ((row.limit, _least(table, row, demand)) for row in table.rows)
    return min([room, *(int(limit * (1 + _SLACK) / each) for limit, each in shared if each > 0)])


def _least(table: Table, row: Row, demand: Demand) -> float:
    own = (k for k, c in enumerate(table.candidates) if c.model == demand.id)
    return min((row.amounts.get(k, 0.0) for k in own), default=0.0)


def _overdraft(row: Row, demand: Demand, total: float) -> Rejection:
    return Rejection(
        model=demand.id,
        constraint=_rule(row),
        reason=f"what must run takes at least {total:g} of {row.limit:g} ({row.name})",
        shortage=total - row.limit,
        resolvable=True,
    )


def _rule(row: Row) -> str:
    kind = row.name.partition(":")[0]
    return "capacity" if kind == "devices" else kind
