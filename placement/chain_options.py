"""Candidates that are chains: pools as the sites of each model, and which models have chains at all.

Knows pools and rules; the chains themselves are defined in `chains`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .catalog import EngineFacts, engines_for
from .chains import FEW, Chain, Site, chained, chains, multiset_count
from .constraint import Candidate, Option, Pool
from .constraints.parallelism import check_option as check_parallelism
from .demand import App, Demand
from .devices import Dtype
from .ids import ModelId
from .layout import Layout
from .modelspec import ModelFacts
from .roofline import Hop
from .rules import ENGINE_RULES

_DTYPE: Dtype = "bf16"


def chain_candidates(
    asked: Sequence[tuple[Demand, ModelFacts]],
    pools: Sequence[Pool],
    app: App,
    hop: Hop,
    single: Mapping[ModelId, Sequence[Candidate]],
    extra: tuple[EngineFacts, ...] = (),
) -> dict[ModelId, list[Candidate]]:
    """The chains of each model that has any; `single` are the candidates within one pool, `extra` engines beside the catalog's."""
    able = tuple(
        (pool, engine)
        for pool in pools
        if pool.shares == 1
        for engine in engines_for(pool.device_class, emulated=pool.emulated, extra=extra)
        if engine.chain > 1
    )
    if not able:
        return {}
    sites: dict[ModelId, tuple[Site, ...]] = {}
    multisets: dict[str, int] = {}
    for demand, facts in asked:
        # Beyond that their sum makes no more difference.
        if sum(multisets.values()) > FEW:
            multisets[demand.id] = 0
            continue
        sites[demand.id] = _sites(demand, facts, able)
        multisets[demand.id] = multiset_count(demand, facts, sites[demand.id])
    room = {pool.name: pool.units for pool in pools}
    copies: dict[str, int] = {d.id: _copies(single.get(d.id, ()), room) for d, _ in asked}
    wanted: dict[str, int] = {d.id: d.replicas_max for d, _ in asked}
    named = {pool.name: pool for pool in pools}
    found: dict[ModelId, list[Candidate]] = {}
    having = chained(multisets, copies, wanted)
    for demand, facts in asked:
        if demand.id in having:
            own = sites.get(demand.id) or _sites(demand, facts, able)
            made = chains(demand, facts, own, app, hop)
            found[demand.id] = [_candidate(demand, facts, c, named) for c in made]
    return found


def _sites(
    demand: Demand, facts: ModelFacts, able: Sequence[tuple[Pool, EngineFacts]]
) -> tuple[Site, ...]:
    found = []
    for pool, engine in able:
        option = Option(demand=demand, facts=facts, pool=pool, engine=engine)
        if demand.id not in pool.models or any(rule(option) for rule in ENGINE_RULES):
            continue
        layouts = (Layout(dtype=_DTYPE, tp=tp) for tp in engine.tp)
        fitting = [c.tp for c in layouts if not check_parallelism(replace(option, layout=c))]
        found.append(
            Site(
                name=pool.name,
                device_class=pool.device_class,
                engine=engine,
                emulated=pool.emulated,
                memory_bytes=pool.memory_bytes,
                islands=tuple(len(block.devices) for block in pool.blocks),
                tp=tuple(fitting),
                settled=option.settled,
            )
        )
    return tuple(found)


def _copies(single: Sequence[Candidate], room: Mapping[str, int]) -> int:
    """Copies that the pools hold, if each has only the smallest configuration that it may have; `room` in units."""
    least: dict[str, int] = {}
    for candidate in single:
        name, taken = candidate.pool.name, candidate.layout.units
        least[name] = min(least.get(name, taken), taken)
    return sum(room[name] // taken for name, taken in least.items())


def _candidate(
    demand: Demand, facts: ModelFacts, chain: Chain, pools: Mapping[str, Pool]
) -> Candidate:
    stages = tuple((pools[name], layers) for name, layers in chain.stages)
    return Candidate(
        option=Option(
            demand=demand,
            facts=facts,
            pool=stages[0][0],
            engine=chain.engine,
            layout=chain.layout,
            predicted=chain.predicted,
        ),
        layout=chain.layout,
        predicted=chain.predicted,
        value=chain.value,
        stages=stages,
        watts=chain.stage_power_w,
    )
