"""Every configuration in which a model may run, as the proof sees them: the verifier's own enumeration.

Written from the definitions of the rules, apart from the solver's. Shares with the solver only the nouns, the catalog, the cost
model and the value of a replica, which define the problem. Knows no capacities that replicas share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import ceil

from .catalog import EngineFacts, engines_for
from .demand import Demand
from .devices import Dtype
from .ids import ModelId
from .layout import Layout, kv_bytes_per_token, stored_dtype, weights_bytes
from .modelspec import ModelFacts
from .plan import Predicted
from .problem import Problem, facts_of
from .proof_pools import Pool
from .roofline import Hop, predict, slowest_hop
from .score import replica_value

_AUTO: tuple[Dtype, ...] = ("bf16", "fp16", "fp32")
"""Without a wish and without stored weights: the first of these that engine and class compute."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Option:
    """A configuration that the rules allow, with its predicted figures and its worth."""

    demand: Demand
    pool: Pool
    engine: str
    layout: Layout
    predicted: Predicted
    value: float

    @property
    def key(self) -> tuple[str, str, Layout]:
        """What tells it from the other options of its model."""
        return self.pool.name, self.engine, self.layout

    @property
    def stage_power_w(self) -> float:
        """Watts of each of its pipeline stages."""
        return self.predicted.power_w / self.layout.pp


def options_of(problem: Problem, pools: tuple[Pool, ...]) -> dict[ModelId, tuple[Option, ...]]:
    """The options of every model; none for a model of which nothing is known."""
    forecast = _Forecast(slowest_hop(problem.inventory))
    drivers = {pool.name: engines_for(pool.device_class, emulated=pool.emulated) for pool in pools}
    return {
        demand.id: tuple(_options(problem, demand, pools, drivers, forecast))
        for demand in problem.app.demands
    }


def _options(
    problem: Problem,
    demand: Demand,
    pools: tuple[Pool, ...],
    drivers: Mapping[str, tuple[EngineFacts, ...]],
    forecast: _Forecast,
) -> Iterator[Option]:
    facts = facts_of(demand, problem.inventory)
    if facts is None or (facts.window and demand.context > facts.window):
        return
    for pool in pools:
        if demand.id not in pool.models or pool.device_class.name in demand.banned:
            continue
        for engine in (e for e in drivers[pool.name] if _takes(demand, facts, pool, e)):
            for layout in _layouts(demand, facts, pool, engine):
                build_s = _build_s(demand, pool, engine, layout)
                if build_s is None:
                    continue
                predicted = forecast.of(demand, facts, pool, engine, layout, build_s)
                if _within(demand, predicted):
                    name = pool.device_class.name
                    yield Option(
                        demand=demand,
                        pool=pool,
                        engine=engine.name,
                        layout=layout,
                        predicted=predicted,
                        value=replica_value(demand, facts, problem.app.policy, predicted, name),
                    )


def _takes(demand: Demand, facts: ModelFacts, pool: Pool, engine: EngineFacts) -> bool:
    """Whether the engine is there, wanted, and knows the model's graph, arithmetic and source."""
    scheme = demand.model.source.partition("://")[0]
    return (
        (pool.engines is None or engine.name in pool.engines)
        and (demand.engines is None or engine.name in demand.engines)
        and (not engine.architectures or facts.architecture in engine.architectures)
        and (demand.arithmetic != "exact" or engine.exact)
        and (pool.emulated or not engine.schemes or scheme in engine.schemes)
    )


def _layouts(
    demand: Demand, facts: ModelFacts, pool: Pool, engine: EngineFacts
) -> Iterator[Layout]:
    """Layouts that the model, the engine and the memory of a device allow."""
    sizes = [tp for tp in engine.tp if _divides(facts, pool, tp)]
    kv = kv_bytes_per_token(facts, demand.arithmetic) * demand.context * demand.concurrency
    for dtype in _dtypes(demand, facts, pool, engine):
        weights = weights_bytes(facts, dtype, stored=engine.stored_weights)
        for tp, pp in product(sizes, range(1, min(engine.pp, facts.layers) + 1)):
            part = ceil(facts.layers / pp) / facts.layers
            split = weights / tp + kv / min(tp, max(facts.kv_heads, 1))
            needed = ceil(part * split + engine.overhead_bytes)
            for shares in _shares(pool.shares):
                if needed <= pool.memory_bytes * shares // pool.shares:
                    yield Layout(dtype=dtype, tp=tp, pp=pp, shares=shares)


def _dtypes(
    demand: Demand, facts: ModelFacts, pool: Pool, engine: EngineFacts
) -> tuple[Dtype, ...]:
    """Dtypes in which the engine may run the model there: as asked, else as stored, else the first that it computes."""
    offered = {dtype for dtype, _ in pool.device_class.flops} & set(engine.dtypes)
    if not offered:
        return ()
    if engine.stored_weights and facts.weights_bytes > 0:
        stored = stored_dtype(facts)
        return (stored,) if demand.dtype in (None, stored) else ()
    wanted = _AUTO if demand.dtype is None else (demand.dtype,)
    return tuple(dtype for dtype in wanted if dtype in offered)[:1]


def _divides(facts: ModelFacts, pool: Pool, tp: int) -> bool:
    """Whether heads divide over groups of `tp`, and an island holds one."""
    if facts.heads % tp or (facts.kv_heads % tp and tp % facts.kv_heads):
        return False
    return tp == 1 or (pool.device_class.link_bytes_per_s > 0 and pool.largest >= tp)


def _build_s(demand: Demand, pool: Pool, engine: EngineFacts, layout: Layout) -> float | None:
    """Time to compile first; None = what is compiled there does not run it, or building is not allowed."""
    name = pool.device_class.name
    held = [a for a in pool.artifacts if a.model == demand.id and a.device_class == name]
    if not engine.build_s or not held:
        return engine.build_s if demand.build == "allowed" or not engine.build_s else None
    runs = any(
        a.tp == layout.tp
        and a.dtype in (None, layout.dtype)
        and (a.batch == 0 or a.batch >= demand.concurrency)
        and (a.length == 0 or a.length >= demand.context)
        for a in held
    )
    return 0.0 if runs else None


def _shares(whole: int) -> tuple[int, ...]:
    """Powers of two, and the whole device."""
    return tuple(sorted({2**k for k in range(whole.bit_length())} - {0} | {whole}))


def _within(demand: Demand, predicted: Predicted) -> bool:
    """Whether a replica alone keeps to what the model is bounded by."""
    pairs = (
        (predicted.ttft_s, demand.max_ttft_s),
        (predicted.token_s, demand.max_token_s),
        (predicted.power_w, demand.power_budget_w),
        (predicted.price_per_hour, demand.max_price_per_hour),
    )
    return all(limit is None or figure <= limit for figure, limit in pairs)


class _Forecast:
    """Predictions, each made once: models that differ in name only share them."""

    def __init__(self, hop: Hop) -> None:
        self._hop = hop
        self._known: dict[object, Predicted] = {}

    def of(
        self,
        demand: Demand,
        facts: ModelFacts,
        pool: Pool,
        engine: EngineFacts,
        layout: Layout,
        build_s: float,
    ) -> Predicted:
        """The figures of a replica in that layout."""
        asked = (facts, demand.arithmetic, demand.context, demand.concurrency, demand.rate)
        where = (pool.device_class.name, pool.shares, pool.emulated, engine.name)
        key = (*asked, *where, layout, build_s)
        if key not in self._known:
            self._known[key] = predict(
                demand,
                facts,
                pool.device_class,
                engine,
                layout,
                device_shares=pool.shares,
                hop=self._hop,
                build_s=build_s,
            )
        return self._known[key]
