"""Every configuration in which a model may run, as the proof sees them: the verifier's own enumeration.

Written from the definitions of the rules, apart from the solver's. Shares with the solver only the nouns, the catalog, the cost
model and the value of a replica, which define the problem. Knows no capacities that replicas share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import ceil

from .calibration import Calibration
from .catalog import EngineFacts, engines_for
from .demand import Demand
from .devices import Dtype, Kind
from .ids import ModelId
from .inventory import Artifact
from .layout import Layout, kv_bytes_per_token, stored_dtype, weights_bytes
from .modelspec import ModelFacts
from .plan import Predicted
from .prediction import Evidence, predicted
from .problem import Problem, facts_of
from .proof_pools import Pool
from .remote import offers, remote_layout
from .roofline import Hop, slowest_hop
from .score import replica_value

_AUTO: tuple[Dtype, ...] = ("bf16", "fp16", "fp32")
"""Without a wish and without stored weights: the first of these that engine and class compute."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """One pipeline stage of an option; `layers` 0 = an even part."""

    pool: Pool
    watts: float
    layers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Option:
    """A configuration that the rules allow, with its predicted figures and its worth.

    Attributes:
        pool: of its devices; of those of the first stage where stages differ.
        chain: the stages of a pipeline over several pools; empty where all are alike, in `pool`.
    """

    demand: Demand
    pool: Pool
    engine: str
    layout: Layout
    predicted: Predicted
    value: float
    chain: tuple[Stage, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from the other options of its model."""
        where = tuple((s.pool.name, s.layers) for s in self.chain) or self.pool.name
        return where, self.engine, self.layout

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of every pipeline, those of one pool next to each other."""
        alike = Stage(pool=self.pool, watts=self.predicted.power_w / self.layout.pp)
        return self.chain or (alike,) * self.layout.pp

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Each pool that it has devices of, once."""
        return tuple({id(s.pool): s.pool for s in self.chain}.values()) or (self.pool,)

    def inside(self, pool: Pool) -> tuple[int, float]:
        """Stages in a pool, and the watts of each of them."""
        if not self.chain:
            stages = self.layout.pp if self.pool is pool else 0
            return stages, self.predicted.power_w / self.layout.pp
        own = [s.watts for s in self.chain if s.pool is pool]
        return len(own), max(own, default=0.0)


def options_of(problem: Problem, pools: tuple[Pool, ...]) -> dict[ModelId, tuple[Option, ...]]:
    """The options of every model; none for a model of which nothing is known."""
    forecast = _Forecast(slowest_hop(problem.inventory), problem.inventory.calibrations)
    extra = problem.inventory.engines
    drivers = {
        pool.name: engines_for(pool.device_class, emulated=pool.emulated, extra=extra)
        for pool in pools
    }
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
        for engine in (e for e in drivers[pool.name] if may_use(demand, facts, pool, e)):
            held = _held(demand, pool, engine)
            for layout in _layouts(demand, facts, pool, engine, held):
                figures = forecast.of(demand, facts, pool, engine, layout, held)
                if _within(demand, figures):
                    name = pool.device_class.name
                    yield Option(
                        demand=demand,
                        pool=pool,
                        engine=engine.name,
                        layout=layout,
                        predicted=figures,
                        value=replica_value(demand, facts, problem.app.policy, figures, name),
                    )


def may_use(demand: Demand, facts: ModelFacts, pool: Pool, engine: EngineFacts) -> bool:
    """Whether a model may run in a pool with an engine at all: the engine is there, wanted, and knows the model's graph,
    arithmetic and source, and offers what is required; an endpoint must offer it.
    """
    if demand.id not in pool.models or pool.device_class.name in demand.banned:
        return False
    endpoint = pool.device_class.endpoint
    if pool.device_class.kind is Kind.REMOTE and (
        endpoint is None or not offers(endpoint, demand) or demand.concurrency > pool.shares
    ):
        return False
    return (
        (pool.engines is None or engine.name in pool.engines)
        and (demand.engines is None or engine.name in demand.engines)
        and (not engine.architectures or facts.architecture in engine.architectures)
        and (demand.arithmetic != "exact" or engine.exact_with(pool.device_class))
        and demand.requires <= engine.offers
        and (pool.emulated or _reads(demand, pool, engine))
    )


def _reads(demand: Demand, pool: Pool, engine: EngineFacts) -> bool:
    """Whether the engine reads a form that the model has there; where none is told, that kind of source."""
    forms = dict(pool.forms).get(demand.model.source)
    if forms and engine.formats:
        return any(form.format in engine.formats for form in forms)
    return not engine.schemes or demand.model.source.partition("://")[0] in engine.schemes


def prepared(demand: Demand, pool: Pool, engine: EngineFacts) -> tuple[Dtype, ...]:
    """Dtypes that the model was prepared in there for the engine; empty = any, as one form at least names none."""
    forms = dict(pool.forms).get(demand.model.source, frozenset())
    found: set[Dtype] = set()
    for form in forms if engine.formats else ():
        if form.format in engine.formats:
            if form.dtype is None:
                return ()
            found.add(form.dtype)
    return tuple(sorted(found))


def _held(demand: Demand, pool: Pool, engine: EngineFacts) -> tuple[Artifact, ...]:
    """What is compiled there of the model, for an engine that runs nothing else."""
    if not engine.build_s:
        return ()
    name = pool.device_class.name
    held = (a for a in pool.artifacts if a.model == demand.id and a.device_class == name)
    return tuple(sorted(held, key=str))


def _layouts(
    demand: Demand,
    facts: ModelFacts,
    pool: Pool,
    engine: EngineFacts,
    held: tuple[Artifact, ...],
) -> Iterator[Layout]:
    """Layouts that the model, the engine, what is compiled and the memory of a device allow."""
    if engine.build_s and not held and demand.build == "never":
        return
    stages = range(1, min(engine.pp, facts.layers) + 1)
    for dtype in _dtypes(demand, facts, pool, engine, held):
        for tp, pp in product(sizes(facts, pool, engine), stages):
            needed = _memory(demand, facts, pool, engine, Layout(dtype=dtype, tp=tp, pp=pp))
            for shares in _shares(demand, pool):
                layout = Layout(dtype=dtype, tp=tp, pp=pp, shares=shares)
                fits = needed <= pool.memory_bytes * shares // pool.shares
                if fits and (not held or any(_runs(a, demand, layout) for a in held)):
                    yield layout


def _memory(
    demand: Demand, facts: ModelFacts, pool: Pool, engine: EngineFacts, layout: Layout
) -> int:
    """Bytes on each device; none of ours on an endpoint."""
    if pool.device_class.endpoint is not None:
        return 0
    weights = weights_bytes(facts, layout.dtype, stored=engine.stored_weights)
    kv = kv_bytes_per_token(facts, demand.arithmetic) * demand.context * demand.concurrency
    split = weights / layout.tp + kv / min(layout.tp, max(facts.kv_heads, 1))
    return ceil(ceil(facts.layers / layout.pp) / facts.layers * split + engine.overhead_bytes)


def _dtypes(
    demand: Demand,
    facts: ModelFacts,
    pool: Pool,
    engine: EngineFacts,
    held: tuple[Artifact, ...],
) -> tuple[Dtype, ...]:
    """Dtypes in which the engine may run the model: as asked, else as compiled, as stored, as prepared, or the
    first that it computes.
    """
    offered = {dtype for dtype, _ in pool.device_class.flops} & set(engine.dtypes)
    if demand.arithmetic == "exact" and engine.exact_dtypes:
        offered &= set(engine.exact_dtypes)
    if pool.device_class.endpoint is not None:
        wanted: tuple[Dtype, ...] = (remote_layout(demand).dtype,)
    elif demand.dtype is not None:
        wanted = (demand.dtype,)
    else:
        wanted = tuple(sorted({a.dtype for a in held if a.dtype is not None}))
    if offered and engine.stored_weights and facts.weights_bytes > 0:
        stored = stored_dtype(facts)
        return (stored,) if not wanted or stored in wanted else ()
    settled = prepared(demand, pool, engine)
    if settled:
        offered &= set(settled)
        wanted = wanted or settled
    able = tuple(dtype for dtype in wanted or _AUTO if dtype in offered)
    return able if wanted else able[:1]


def sizes(facts: ModelFacts, pool: Pool, engine: EngineFacts) -> tuple[int, ...]:
    """Tensor-parallel sizes that the model may have there."""
    return tuple(tp for tp in engine.tp if _divides(facts, pool, tp))


def _divides(facts: ModelFacts, pool: Pool, tp: int) -> bool:
    """Whether heads divide over groups of `tp`, and an island holds one."""
    if facts.heads % tp or (facts.kv_heads % tp and tp % facts.kv_heads):
        return False
    return tp == 1 or (pool.device_class.link_bytes_per_s > 0 and pool.largest >= tp)


def _runs(artifact: Artifact, demand: Demand, layout: Layout) -> bool:
    """Whether a compiled model has that TP size and dtype, and holds what is asked at once."""
    return (
        artifact.tp == layout.tp
        and artifact.dtype in (None, layout.dtype)
        and (artifact.batch == 0 or artifact.batch >= demand.concurrency)
        and (artifact.length == 0 or artifact.length >= demand.context)
    )


def _shares(demand: Demand, pool: Pool) -> tuple[int, ...]:
    """Powers of two, and the whole device; of an endpoint one per sequence."""
    if pool.device_class.endpoint is not None:
        return (remote_layout(demand).shares,)
    whole = pool.shares
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

    def __init__(self, hop: Hop, calibrations: tuple[Calibration, ...]) -> None:
        self._hop = hop
        self._calibrations = calibrations
        self._known: dict[object, Predicted] = {}

    def of(
        self,
        demand: Demand,
        facts: ModelFacts,
        pool: Pool,
        engine: EngineFacts,
        layout: Layout,
        held: tuple[Artifact, ...],
    ) -> Predicted:
        """The figures of a replica in that layout; `held` is compiled for it there."""
        asked = (facts, demand.arithmetic, demand.context, demand.concurrency, demand.rate)
        where = (pool.device_class.name, pool.shares, pool.emulated, engine.name)
        key = (*asked, *where, layout, held)
        if key not in self._known:
            self._known[key] = predicted(
                demand,
                facts,
                pool.device_class,
                engine,
                layout,
                device_shares=pool.shares,
                hop=self._hop,
                evidence=Evidence(artifacts=held, calibrations=self._calibrations),
            )
        return self._known[key]
