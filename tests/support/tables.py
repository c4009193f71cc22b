"""Builders of what the search works on, below pools and rules: candidates, tables of rows, relaxations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from support.labs import LLAMA_8B, demand

from placement.bounds import Relaxed
from placement.catalog import catalog, engines
from placement.constraint import Block, Candidate, Option, Pool, Row
from placement.demand import Demand
from placement.ids import DeviceId, NodeId
from placement.layout import Layout
from placement.plan import Predicted
from placement.rows import Table


def pool(*blocks: tuple[str, int], shares: int = 1, racks: Mapping[str, str] | None = None) -> Pool:
    """Blocks of (node, devices), each an island of its own; all nodes in one rack unless said otherwise."""
    kind = catalog()["NVIDIA_L4_24G"]
    found = []
    for island, (name, count) in enumerate(blocks):
        own = tuple(DeviceId(f"{name}/{island}.{k}") for k in range(count))
        rack = (racks or {}).get(name, "r1")
        found.append(Block(node=NodeId(name), rack=rack, island=island, devices=own))
    return Pool(
        name=kind.name,
        device_class=kind,
        memory_bytes=kind.memory_bytes,
        shares=shares,
        emulated=False,
        engines=None,
        artifacts=frozenset(),
        models=frozenset(),
        blocks=tuple(found),
        compiled={},
    )


def candidate(
    asked: Demand,
    value: float = 1.0,
    there: Pool | None = None,
    *,
    tp: int = 1,
    pp: int = 1,
    shares: int = 1,
    power_w: float = 0.0,
) -> Candidate:
    """A candidate of a demand; what is predicted of it is of no account but for the power."""
    predicted = Predicted(
        ttft_s=0.1,
        token_s=0.01,
        token_s_fixed=0.01,
        token_s_per_sequence=0.0,
        prefill_tokens_per_s=1000.0,
        tokens_per_s=100.0,
        power_w=power_w,
        price_per_hour=1.0,
        memory_bytes=1,
        load_s=10.0,
        uncertainty=0.2,
    )
    layout = Layout(dtype="bf16", tp=tp, pp=pp, shares=shares)
    option = Option(
        demand=asked,
        facts=LLAMA_8B,
        pool=there or pool(("a", 1)),
        engine=engines()["vllm"],
        layout=layout,
        predicted=predicted,
    )
    return Candidate(option=option, layout=layout, predicted=predicted, value=value)


def two_models(limit: float, name: str = "devices:x") -> tuple[Table, tuple[Demand, ...]]:
    """Models a and b, one copy each, that share one row. Amounts 2 and 1; values 4 and 3 for a, 5 and 2 for b."""
    asked = (demand("a"), demand("b"))
    values = ((asked[0], 4.0), (asked[0], 3.0), (asked[1], 5.0), (asked[1], 2.0))
    amounts = (2.0, 1.0, 2.0, 1.0)
    table = Table(
        candidates=tuple(candidate(d, value) for d, value in values),
        of_model={asked[0].id: (0, 1), asked[1].id: (2, 3)},
        rows=(Row(name=name, limit=limit, amounts=dict(enumerate(amounts))),),
        usage=tuple(((0, amount),) for amount in amounts),
        rejections=(),
    )
    return table, asked


def values_of(table: Table) -> tuple[float, ...]:
    """The worth of each candidate."""
    return tuple(c.value for c in table.candidates)


def relaxed(
    values: Sequence[Sequence[float]],
    usage: Sequence[Sequence[float]],
    limits: Sequence[float],
    copies: Sequence[tuple[int, int]],
) -> Relaxed:
    """A relaxation: values by model, usage by candidate, copies (min, max) by model; limits in their own unit."""
    unit = np.maximum(np.abs(np.array(limits, np.float64)), 1e-9)
    counts = [len(own) for own in values]
    return Relaxed(
        values=np.array([v for own in values for v in own], np.float64),
        usage=np.array(usage, np.float64) / unit,
        unit=unit,
        limits=np.array(limits, np.float64) / unit,
        rows=np.arange(len(limits)),
        starts=np.cumsum([0, *counts[:-1]]),
        least=np.array([float(low) for low, _ in copies]),
        most=np.array([float(high) for _, high in copies]),
    )
