"""No device, and no share of one, is given out twice.

Beside one row per pool, a ladder of cuts says how many groups of each size the islands can hold, and how many large parts
the devices: power-of-two groups then always fit, without looking at nodes.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..constraint import Candidate, Pool, Row, Scope

_PARTS = 4


def rows(scope: Scope) -> Iterator[Row]:
    """Units of each pool, then its ladder."""
    for pool in scope.pools:
        own = {k: scope.candidates[k] for k in scope.of_pool.get(pool.name, ())}
        units = {k: float(_units(c, pool)) for k, c in own.items()}
        yield Row(name=f"devices:{pool.name}", limit=float(pool.units), amounts=units)
        yield from _groups(pool, own)
        yield from _parts(pool, own)


def _units(candidate: Candidate, pool: Pool) -> int:
    layout = candidate.layout
    return candidate.stages_in(pool.name) * layout.tp * layout.shares


def _groups(pool: Pool, own: dict[int, Candidate]) -> Iterator[Row]:
    """Groups of `tp` or more take no more devices than fit into islands in blocks of `tp`."""
    for tp in sorted({c.layout.tp for c in own.values()} - {1}):
        limit = sum(len(block.devices) // tp for block in pool.blocks)
        amounts = {
            k: float(c.stages_in(pool.name) * (c.layout.tp // tp))
            for k, c in own.items()
            if c.layout.tp >= tp
        }
        yield Row(
            name=f"devices:{pool.name}:tp{tp}", limit=float(limit), amounts=amounts, hard=False
        )


def _parts(pool: Pool, own: dict[int, Candidate]) -> Iterator[Row]:
    """At most k parts that each take more than a (k+1)-th of a device."""
    devices = pool.units // pool.shares
    for k in range(1, min(_PARTS, pool.shares - 1) + 1):
        amounts = {i: 1.0 for i, c in own.items() if c.layout.shares * (k + 1) > pool.shares}
        name = f"devices:{pool.name}:parts{k}"
        yield Row(name=name, limit=float(k * devices), amounts=amounts, hard=False)
