"""The ledger of rejections: of many refusals of one kind the nearest miss, and those that need no rule to be found."""

from __future__ import annotations

from collections.abc import Sequence

from .constraint import Pool
from .demand import Demand
from .plan import Rejection


def nearest_misses(refused: Sequence[Rejection]) -> tuple[Rejection, ...]:
    """Per class, node, engine and rule the rejection that missed by least."""
    best: dict[tuple[str, str, str, str, str], Rejection] = {}
    for rejection in refused:
        key = (
            rejection.model,
            rejection.device_class,
            rejection.node,
            rejection.engine,
            rejection.constraint,
        )
        known = best.get(key)
        if known is None or rejection.shortage < known.shortage:
            best[key] = rejection
    return tuple(best.values())


def unknown(demand: Demand) -> Rejection:
    """Of a model of which no figures are known."""
    return Rejection(
        model=demand.id,
        constraint="model_missing",
        reason=f"nothing is known of {demand.model.source}: no node has read its header",
        resolvable=True,
        hint=f"give models.{demand.id}.facts in the spec, or bring the weights to a node",
    )


def nothing(demand: Demand) -> Rejection:
    """Of a model where there is no device at all."""
    return Rejection(
        model=demand.id,
        constraint="inventory",
        reason="there is no healthy device",
        resolvable=True,
        hint="see `shardyard devices`",
    )


def undriven(demand: Demand, pool: Pool) -> Rejection:
    """Of a model and a class that no engine drives."""
    return Rejection(
        model=demand.id,
        constraint="backend",
        device_class=pool.device_class.name,
        reason=f"no known engine drives {pool.device_class.name}",
    )
