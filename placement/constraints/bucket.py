"""A compiled engine takes no more sequences at once and no longer ones than it was compiled for."""

from __future__ import annotations

from ..artifacts import compiled, fits, matches
from ..constraint import Option
from ..plan import Rejection

NAME = "bucket"


def check_option(option: Option) -> Rejection | None:
    """Refuses what exceeds every bucket there; needs the layout. Shortage in sequences or tokens, of the nearest bucket."""
    demand, layout = option.demand, option.layout
    if layout is None or not option.engine.build_s:
        return None
    held = compiled(option.pool.artifacts, demand, option.pool.device_class.name)
    near = [a for a in held if matches(a, layout)]
    if not near or any(fits(a, demand, layout) for a in near):
        return None
    wide = [a for a in near if not a.batch or a.batch >= demand.concurrency]
    if not wide:
        return _crowded(option, max(a.batch for a in near))
    return _long(option, max(a.length for a in wide))


def _crowded(option: Option, most: int) -> Rejection:
    demand = option.demand
    return option.reject(
        NAME,
        f"{demand.concurrency} sequences at once, the largest compiled batch is {most}",
        shortage=demand.concurrency - most,
        resolvable=True,
        hint=f"set models.{demand.id}.concurrency to {most}, or {_command(option)}",
    )


def _long(option: Option, most: int) -> Rejection:
    demand = option.demand
    return option.reject(
        NAME,
        f"context {demand.context}, the longest compiled length is {most} tokens",
        shortage=demand.context - most,
        resolvable=True,
        hint=f"set models.{demand.id}.context to {most}, or {_command(option)}",
    )


def _command(option: Option) -> str:
    demand = option.demand
    sizes = f"batch {demand.concurrency} and length {demand.context}"
    return f"compile {demand.id} for {option.pool.device_class.name} with {sizes}"
