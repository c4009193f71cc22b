"""Pipelines over several pools as options: which models have them, and what each takes, for the proof.

The space of chains is `chains`', which defines it for everybody; here it is only joined to the proof's own pools and options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from .catalog import EngineFacts, engines_for
from .chains import FEW, Chain, Site, chained, chains, multiset_count
from .demand import Demand
from .ids import ModelId
from .modelspec import ModelFacts
from .problem import Problem, facts_of
from .proof_options import Option, Stage, may_use, prepared, sizes
from .proof_pools import Pool
from .roofline import slowest_hop


def with_chains(
    problem: Problem, pools: tuple[Pool, ...], plain: Mapping[ModelId, tuple[Option, ...]]
) -> dict[ModelId, tuple[Option, ...]]:
    """The options of every model with its chains behind them."""
    spaces = {d.id: _Space(problem, d, pools) for d in problem.app.demands}
    counts: dict[str, int] = {}
    for model, space in spaces.items():
        # Beyond that their sum makes no more difference.
        counts[model] = space.count() if sum(counts.values()) <= FEW else 0
    having = chained(
        counts,
        {model: _copies(own) for model, own in plain.items()},
        {d.id: d.replicas_max for d in problem.app.demands},
    )
    return {
        model: (*own, *(spaces[model].options() if model in having else ()))
        for model, own in plain.items()
    }


def _copies(own: Sequence[Option]) -> int:
    """Copies that find room if nothing else is placed, counted in units of each pool."""
    least: dict[str, Option] = {}
    for option in own:
        known = least.get(option.pool.name, option)
        if option.layout.units <= known.layout.units:
            least[option.pool.name] = option
    return sum(o.pool.devices * o.pool.shares // o.layout.units for o in least.values())


class _Space:
    """The chains of one model."""

    def __init__(self, problem: Problem, demand: Demand, pools: tuple[Pool, ...]) -> None:
        self._problem, self._demand = problem, demand
        self._pools = {pool.name: pool for pool in pools}
        self._facts = facts_of(demand, problem.inventory)

    @cached_property
    def _sites(self) -> tuple[Site, ...]:
        pools = tuple(self._pools.values())
        extra = self._problem.inventory.engines
        return tuple(_sites(self._demand, self._facts, pools, extra)) if self._facts else ()

    def count(self) -> int:
        """Multisets of stages to choose from."""
        return multiset_count(self._demand, self._facts, self._sites) if self._facts else 0

    def options(self) -> Iterator[Option]:
        """Every chain as an option."""
        if self._facts is None:
            return
        hop = slowest_hop(self._problem.inventory)
        found = chains(self._demand, self._facts, self._sites, self._problem.app, hop)
        yield from map(self._option, found)

    def _option(self, chain: Chain) -> Option:
        pairs = zip(chain.stages, chain.stage_power_w, strict=True)
        stages = tuple(
            Stage(pool=self._pools[name], watts=watts, layers=layers)
            for (name, layers), watts in pairs
        )
        return Option(
            demand=self._demand,
            pool=stages[0].pool,
            engine=chain.engine.name,
            layout=chain.layout,
            predicted=chain.predicted,
            value=chain.value,
            chain=stages,
        )


def _sites(
    demand: Demand, facts: ModelFacts, pools: tuple[Pool, ...], extra: tuple[EngineFacts, ...]
) -> Iterator[Site]:
    """The pools that the model may use with an engine that runs chains."""
    for pool in pools if not facts.window or demand.context <= facts.window else ():
        if pool.shares != 1:
            continue
        for engine in engines_for(pool.device_class, emulated=pool.emulated, extra=extra):
            if engine.chain > 1 and may_use(demand, facts, pool, engine):
                yield Site(
                    name=pool.name,
                    device_class=pool.device_class,
                    engine=engine,
                    emulated=pool.emulated,
                    memory_bytes=pool.memory_bytes,
                    islands=tuple(len(block.devices) for block in pool.blocks),
                    tp=sizes(facts, pool, engine),
                    settled=prepared(demand, pool, engine),
                )
