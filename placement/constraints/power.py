"""Predicted power must keep to the budgets of the cluster, each rack, each node and each model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..constraint import Columns, Option, Row, Scope
from ..plan import Rejection

NAME = "power"

_LADDER = 4
"""Cuts per node budget, from k = 0 on: at most k stages that each draw more than a (k+1)-th of it."""


def check_option(option: Option) -> Rejection | None:
    """Refuses a replica that alone breaks its model's budget; needs the prediction. Shortage in watts."""
    limit, predicted = option.demand.power_budget_w, option.predicted
    if limit is None or predicted is None or predicted.power_w <= limit:
        return None
    return option.reject(
        NAME,
        f"draws {predicted.power_w:.0f} W of {limit:.0f} for {option.demand.id}",
        shortage=predicted.power_w - limit,
        resolvable=True,
    )


def excess(columns: Columns) -> Any:
    """Watts beyond the model's own limit."""
    return columns.figures["power_w"] - np.array(columns.limit(lambda d: d.power_budget_w))


def rows(scope: Scope) -> Iterator[Row]:
    """Watts of the cluster and of each model, and cuts that follow from the budgets of nodes and racks."""
    watts = {k: c.predicted.power_w for k, c in enumerate(scope.candidates)}
    if scope.app.budgets.cluster_w is not None:
        yield Row(name="power:cluster", limit=scope.app.budgets.cluster_w, amounts=watts)
    for demand in scope.app.demands:
        if demand.power_budget_w is not None:
            own = {k: watts[k] for k in scope.of_model.get(demand.id, ())}
            yield Row(name=f"power:{demand.id}", limit=demand.power_budget_w, amounts=own)
    yield from _racks(scope, watts)
    yield from _nodes(scope)


def _racks(scope: Scope, watts: dict[int, float]) -> Iterator[Row]:
    if scope.app.budgets.rack_w is None:
        return
    racks = {block.rack for pool in scope.pools for block in pool.blocks}
    total = scope.app.budgets.rack_w * len(racks)
    yield Row(name="power:racks", limit=total, amounts=watts, hard=False)


def _nodes(scope: Scope) -> Iterator[Row]:
    limit = scope.app.budgets.node_w
    if limit is None:
        return
    for pool in scope.pools:
        own = {
            k: scope.candidates[k].stage_watts(pool.name) for k in scope.of_pool.get(pool.name, ())
        }
        nodes, amounts = len(pool.nodes), {k: sum(stages) for k, stages in own.items()}
        name = f"power:nodes:{pool.name}"
        yield Row(name=name, limit=limit * nodes, amounts=amounts, hard=False)
        for k in range(_LADDER + 1):
            heavy = {i: float(sum(w * (k + 1) > limit for w in own[i])) for i in own}
            taken = {i: stages for i, stages in heavy.items() if stages}
            yield Row(name=f"{name}:{k}", limit=float(k * nodes), amounts=taken, hard=False)
