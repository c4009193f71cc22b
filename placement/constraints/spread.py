"""Replicas of a model on different nodes or racks: here the cuts that count, the packer keeps the rule itself."""

from __future__ import annotations

from collections.abc import Iterator

from ..constraint import Block, Row, Scope
from ..demand import Demand


def rows(scope: Scope) -> Iterator[Row]:
    """Replicas of a spread model: no more in a pool than it has nodes (or racks), nor in all pools together."""
    domains: dict[str, tuple[frozenset[str], frozenset[str]]] = {
        pool.name: (pool.nodes, frozenset(block.rack for block in pool.blocks))
        for pool in scope.pools
    }
    for demand in scope.app.demands:
        if demand.spread == "none":
            continue
        inside: dict[str, dict[int, float]] = {}
        for k in scope.of_model.get(demand.id, ()):
            for pool in scope.candidates[k].pools:
                inside.setdefault(pool.name, {})[k] = 1.0
        there = {name: domains[name][demand.spread == "rack"] for name in inside}
        for name, amounts in inside.items():
            yield _row(demand, f":{name}", len(there[name]), amounts)
        together = {k: 1.0 for amounts in inside.values() for k in amounts}
        yield _row(demand, "", len(frozenset().union(*there.values())), together)


def _row(demand: Demand, suffix: str, domains: int, amounts: dict[int, float]) -> Row:
    return Row(
        name=f"spread:{demand.id}{suffix}", limit=float(domains), amounts=amounts, hard=False
    )


def domain(demand: Demand, block: Block) -> str:
    """The failure domain that a block lies in, as the model's spread counts them."""
    return block.rack if demand.spread == "rack" else block.node
