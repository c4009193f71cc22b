"""Gathers the capacities that replicas share into one table, and drops candidates that break one alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .constraint import Candidate, Pool, Row, Scope
from .demand import App, Demand
from .ids import ModelId
from .inventory import Inventory
from .plan import Rejection
from .rules import ROW_RULES

_SLACK = 1e-9

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Candidates and the rows over them.

    Attributes:
        of_model: indices of each model's candidates; a model without any is missing.
        usage: for each candidate its (row, amount) pairs.
        rejections: candidates that break a row alone.
    """

    candidates: tuple[Candidate, ...]
    of_model: Mapping[ModelId, tuple[int, ...]]
    rows: tuple[Row, ...]
    usage: tuple[tuple[tuple[int, float], ...], ...]
    rejections: tuple[Rejection, ...]


def tabulate(
    app: App, inventory: Inventory, pools: tuple[Pool, ...], candidates: tuple[Candidate, ...]
) -> Table:
    """The table of rows over the candidates that can hold alone."""
    rows = _rows(app, inventory, pools, candidates)
    broken = {k: row for row in reversed(rows) for k in _breaking(row)}
    kept = candidates
    if broken:
        kept = tuple(c for k, c in enumerate(candidates) if k not in broken)
        rows = _rows(app, inventory, pools, kept)
    rows = _binding(rows, app, kept)
    usage: list[list[tuple[int, float]]] = [[] for _ in kept]
    for index, row in enumerate(rows):
        for k, amount in row.amounts.items():
            usage[k].append((index, amount))
    return Table(
        candidates=kept,
        of_model=_grouped([c.model for c in kept]),
        rows=rows,
        usage=tuple(map(tuple, usage)),
        rejections=tuple(_rejection(candidates[k], k, row) for k, row in sorted(broken.items())),
    )


def _grouped(names: Sequence[Name]) -> dict[Name, tuple[int, ...]]:
    found: dict[Name, list[int]] = defaultdict(list)
    for k, name in enumerate(names):
        found[name].append(k)
    return {name: tuple(own) for name, own in found.items()}


def _by_pool(candidates: Sequence[Candidate]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for k, candidate in enumerate(candidates):
        for pool in candidate.pools:
            found[pool.name].append(k)
    return found


def _rows(
    app: App, inventory: Inventory, pools: tuple[Pool, ...], candidates: tuple[Candidate, ...]
) -> tuple[Row, ...]:
    scope = Scope(
        app=app,
        inventory=inventory,
        pools=pools,
        candidates=candidates,
        of_model=_grouped([c.model for c in candidates]),
        of_pool=_by_pool(candidates),
    )
    return tuple(row for rule in ROW_RULES for row in rule(scope) if row.amounts)


def _breaking(row: Row) -> list[int]:
    limit = row.limit * (1 + _SLACK) + _SLACK
    return [k for k, amount in row.amounts.items() if amount > limit] if row.limit >= 0 else []


def _binding(rows: tuple[Row, ...], app: App, candidates: tuple[Candidate, ...]) -> tuple[Row, ...]:
    """Rows that all copies together could break: the others say nothing."""
    copies = {demand.id: demand.replicas_max for demand in app.demands}
    models = [c.model for c in candidates]

    def most(row: Row) -> float:
        worst: dict[ModelId, float] = {}
        for k, amount in row.amounts.items():
            if amount > worst.get(models[k], 0.0):
                worst[models[k]] = amount
        return sum(copies[model] * amount for model, amount in worst.items())

    return tuple(row for row in rows if row.limit < 0 or most(row) > row.limit * (1 + _SLACK))


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

    One entry per row, the fewest models first: a rejection for each model that cannot avoid it.
    """
    found = []
    for row, least in zip(table.rows, _unavoidable(table), strict=True):
        if row.limit < 0 or not least:
            continue
        needed = {d.id: d.replicas_min * least.get(d.id, 0.0) for d in demands}
        total = sum(needed.values())
        if total > row.limit * (1 + _SLACK) + _SLACK:
            found.append(tuple(_overdraft(row, d, total) for d in demands if needed[d.id] > 0))
    return tuple(sorted(found, key=len))


def _unavoidable(table: Table) -> list[dict[ModelId, float]]:
    """For each row what a copy of each model takes at least, where all its candidates take something."""
    found = []
    models = [c.model for c in table.candidates]
    for row in table.rows:
        own: dict[ModelId, list[float]] = defaultdict(list)
        for k, amount in row.amounts.items():
            own[models[k]].append(amount)
        found.append({m: min(a) for m, a in own.items() if len(a) == len(table.of_model[m])})
    return found


def most_copies(table: Table) -> dict[ModelId, int]:
    """Copies of each model that find room at most, if nothing else is placed."""
    least: dict[ModelId, dict[str, int]] = defaultdict(dict)
    units: dict[str, int] = {}
    across: set[ModelId] = set()
    for candidate in table.candidates:
        across |= {candidate.model} if candidate.stages else set()
        for pool in candidate.pools:
            if pool.name not in units:
                units[pool.name] = pool.units
            taken = candidate.layout.units
            there = least[candidate.model].get(pool.name, taken)
            least[candidate.model][pool.name] = min(there, taken)
    most = {
        m: sum(units[p] for p in own) // min(own.values())
        if m in across
        else sum(units[p] // taken for p, taken in own.items())
        for m, own in least.items()
    }
    for row, own in zip(table.rows, _unavoidable(table), strict=True):
        for model, taken in own.items():
            if taken > 0:
                most[model] = min(most[model], int(row.limit * (1 + _SLACK) / taken))
    return most


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
