"""Replicas of a model on different nodes or racks: here the cuts that count, the packer keeps the rule itself."""

from __future__ import annotations

from collections.abc import Iterator

from ..constraint import Block, Pool, Row, Scope
from ..demand import Demand


def rows(scope: Scope) -> Iterator[Row]:
    """Replicas of a spread model: no more in a pool than it has nodes (or racks), nor in all pools together."""
    for demand in scope.app.demands:
        if demand.spread == "none":
            continue
        own = {k: c for k, c in enumerate(scope.candidates) if c.model == demand.id}
        used = [pool for pool in scope.pools if any(c.pool.name == pool.name for c in own.values())]
        for pool in used:
            inside = {k: 1.0 for k, c in own.items() if c.pool.name == pool.name}
            yield _row(demand, f":{pool.name}", _domains(demand, (pool,)), inside)
        yield _row(demand, "", _domains(demand, tuple(used)), dict.fromkeys(own, 1.0))


def _row(demand: Demand, suffix: str, domains: int, amounts: dict[int, float]) -> Row:
    return Row(
        name=f"spread:{demand.id}{suffix}", limit=float(domains), amounts=amounts, hard=False
    )


def _domains(demand: Demand, pools: tuple[Pool, ...]) -> int:
    return len({domain(demand, block) for pool in pools for block in pool.blocks})


def domain(demand: Demand, block: Block) -> str:
    """The failure domain that a block lies in, as the model's spread counts them."""
    return block.rack if demand.spread == "rack" else block.node
