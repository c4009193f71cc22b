"""What each model can be: complete configurations that pass every option rule, and a ledger of what was refused.

The layouts that an engine takes of a model on a pool are a small problem for the CSP library; models that ask alike share
its answer. What a layout does is then predicted for all models and layouts of a pool at once. Knows pools and rules, but
not what other models take.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .artifacts import compiled_dtypes
from .calibration import Calibration
from .catalog import EngineFacts, engines_for
from .chain_options import chain_candidates
from .constraint import Block, Candidate, Columns, Option, Pool
from .demand import App, Demand
from .devices import Dtype
from .ids import DeviceId, ModelId, NodeId
from .layout import Layout, stored_dtype
from .ledger import nearest_misses, undriven
from .modelspec import ModelFacts
from .plan import Plan, Predicted, Rejection
from .policy import Policy
from .prediction import Evidence, adjusted, build_s
from .pyconstraint import BacktrackingSolver, Constraint, CspProblem
from .remote import remote_layout
from .roofline import CASE, Ground, Hop, demand_figures, dtype_figures, predict_columns
from .rules import ENGINE_RULES, LAYOUT_RULES, PREDICTED_RULES
from .score import quality, weight_of

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

VARIABLES = ("dtype", "tp", "pp", "shares")

_AUTO: tuple[Dtype, ...] = ("bf16", "fp16", "fp32")

_FIGURES = tuple(Predicted.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Allowed configurations of all models, and per model, class, engine and rule the nearest miss.

    Candidates of one model lie together, models in the order of the demands.
    """

    candidates: tuple[Candidate, ...]
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A demand with the facts of its model."""

    demand: Demand
    facts: ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """Layouts that an engine takes of a model on a pool; for each rule that refused some, one layout that it refused."""

    layouts: tuple[Layout, ...]
    refused: tuple[tuple[int, Layout], ...]


class _Rules(Constraint):
    """The layout rules as one constraint of the library; keeps what passes and what does not."""

    def __init__(self, option: Option) -> None:
        self._option = option
        self.admitted: list[Layout] = []
        self.refused: dict[int, tuple[float, Layout]] = {}

    def __call__(
        self,
        variables: Sequence[str],
        domains: dict[str, Any],
        assignments: dict[str, Any],
        forwardcheck: bool = False,
    ) -> bool:
        """True while some variable is open, then whether every rule passes."""
        if len(assignments) < len(VARIABLES):
            return True
        layout = Layout(**{name: assignments[name] for name in VARIABLES})
        option = replace(self._option, layout=layout)
        for index, rule in enumerate(LAYOUT_RULES):
            rejection = rule(option)
            if rejection is not None:
                known = self.refused.get(index)
                if known is None or rejection.shortage < known[0]:
                    self.refused[index] = (rejection.shortage, layout)
                return False
        self.admitted.append(layout)
        return True


def enumerate_options(
    asked: Sequence[Asked],
    pools: tuple[Pool, ...],
    app: App,
    hop: Hop,
    current: Plan | None = None,
    calibrations: tuple[Calibration, ...] = (),
    extra: tuple[EngineFacts, ...] = (),
) -> Options:
    """Every allowed configuration of each model that could be worth choosing, and why the others are not.

    A configuration is left out where another one of the same pool takes no more of anything and is worth as much, unless a
    replica of `current` runs in it. Those over several pools are as `chains` says. `extra` are engines that the catalog
    does not have.
    """
    candidates: dict[ModelId, list[Candidate]] = {a.demand.id: [] for a in asked}
    rejections: list[Rejection] = []
    running = _running(current)
    for pool in pools:
        members = tuple(a for a in asked if a.demand.id in pool.models)
        here = frozenset(entry for entry in running if entry[2] == pool.device_class.name)
        found = _on_pool(pool, members, app.policy, hop, here, calibrations, extra)
        for candidate in found.candidates:
            candidates[candidate.model].append(candidate)
        rejections.extend(found.rejections)
    pairs = [(a.demand, a.facts) for a in asked]
    for model, own in chain_candidates(pairs, pools, app, hop, candidates, extra).items():
        candidates[model].extend(own)
    return Options(
        candidates=tuple(c for own in candidates.values() for c in own),
        rejections=nearest_misses(rejections),
    )


def _outline(pool: Pool) -> Pool:
    """All of a pool that option rules look at: of its blocks the largest alone."""
    largest = max(pool.blocks, key=lambda block: len(block.devices))
    devices = tuple(DeviceId(str(k)) for k in range(len(largest.devices)))
    block = Block(node=NodeId(""), rack="", island=0, devices=devices)
    return replace(pool, blocks=(block,))


@lru_cache(maxsize=32)
def _on_pool(
    pool: Pool,
    members: tuple[Asked, ...],
    policy: Policy,
    hop: Hop,
    running: _Running,
    calibrations: tuple[Calibration, ...],
    extra: tuple[EngineFacts, ...],
) -> Options:
    """Options on one pool. Kept: when a node is lost or joins, all pools but its own stay as they were."""
    found = _on_outline(_outline(pool), members, policy, hop, running, calibrations, extra)
    return replace(
        found,
        candidates=tuple(replace(c, option=replace(c.option, pool=pool)) for c in found.candidates),
    )


@lru_cache(maxsize=32)
def _on_outline(
    pool: Pool,
    members: tuple[Asked, ...],
    policy: Policy,
    hop: Hop,
    running: _Running,
    calibrations: tuple[Calibration, ...],
    extra: tuple[EngineFacts, ...],
) -> Options:
    """Options on the outline of a pool, which mostly stays when a node is lost or joins."""
    candidates: list[Candidate] = []
    rejections: list[Rejection] = []
    engines = engines_for(pool.device_class, emulated=pool.emulated, extra=extra)
    if not engines:
        rejections.extend(undriven(a.demand, pool) for a in members)
    for engine in engines:
        ground = Ground(
            device_class=pool.device_class, engine=engine, device_shares=pool.shares, hop=hop
        )
        for layouts, batch in _batches(members, pool, engine, rejections).items():
            found = _Batch(ground, pool, layouts, batch, policy, running, calibrations)
            candidates.extend(found.candidates())
            rejections.extend(found.rejections())
    return Options(candidates=tuple(candidates), rejections=tuple(rejections))


_Running = frozenset[tuple[str, str, str, Layout]]


def _running(current: Plan | None) -> _Running:
    """Model, engine, class and layout of what runs now."""
    slots = current.slots if current else ()
    return frozenset(
        (
            slot.model,
            slot.engine,
            slot.device_class,
            Layout(dtype=slot.dtype, tp=slot.tp, pp=slot.pp, shares=slot.stages[0].shares),
        )
        for slot in slots
    )


# -- layouts --------------------------------------------------------------------------------------------------------


def _batches(
    members: Sequence[Asked], pool: Pool, engine: EngineFacts, rejections: list[Rejection]
) -> dict[tuple[Layout, ...], list[Asked]]:
    """Models by the layouts that are possible for them."""
    batches: dict[tuple[Layout, ...], list[Asked]] = defaultdict(list)
    known: dict[tuple[object, ...], _Cut] = {}
    for member in members:
        option = Option(demand=member.demand, facts=member.facts, pool=pool, engine=engine)
        rejection = next((r for rule in ENGINE_RULES if (r := rule(option))), None)
        if rejection is not None:
            rejections.append(rejection)
            continue
        key = _key(option)
        cut = known.get(key)
        if cut is None:
            cut = known[key] = _cut(option)
        for index, layout in cut.refused:
            refused = LAYOUT_RULES[index](replace(option, layout=layout))
            if refused is not None:
                rejections.append(refused)
        if cut.layouts:
            batches[cut.layouts].append(member)
    return batches


def _key(option: Option) -> tuple[object, ...]:
    """Everything of a model that layout rules look at on one pool and engine."""
    facts, demand = option.facts, option.demand
    return (
        facts.heads,
        facts.kv_heads,
        min(facts.layers, option.engine.pp),
        stored_dtype(facts) if facts.weights_bytes else "",
        demand.dtype,
        demand.arithmetic if option.engine.exact_dtypes else "fast",
        option.settled,
        *_compiled_key(option),
        demand.concurrency if option.pool.device_class.endpoint else 0,
    )


def _compiled_key(option: Option) -> tuple[object, ...]:
    """What the artifact rule looks at."""
    if not option.engine.build_s:
        return ((), 0, 0, "")
    demand = option.demand
    held = option.pool.compiled.get(demand.id, ())
    bucketed = any(a.batch or a.length for a in held)
    sizes = (demand.concurrency, demand.context) if bucketed else (0, 0)
    return (held, *sizes, demand.build)


def _cut(option: Option) -> _Cut:
    rules = _Rules(option)
    csp = CspProblem(BacktrackingSolver(forwardcheck=False))
    domains = {
        "dtype": _dtypes(option),
        "tp": option.engine.tp,
        "pp": tuple(range(1, option.engine.pp + 1)),
        "shares": _share_counts(option),
    }
    for name in VARIABLES:
        csp.addVariable(name, list(domains[name]))
    csp.addConstraint(rules, list(VARIABLES))
    csp.getSolutions()
    return _Cut(
        layouts=tuple(sorted(rules.admitted, key=lambda c: (c.units, c.pp, c.tp))),
        refused=tuple((index, layout) for index, (_, layout) in sorted(rules.refused.items())),
    )


def _dtypes(option: Option) -> tuple[Dtype, ...]:
    if option.pool.device_class.endpoint is not None:
        return (remote_layout(option.demand).dtype,)
    if option.demand.dtype is not None:
        return (option.demand.dtype,)
    compiled = compiled_dtypes(option.pool.artifacts, option.demand, option.pool.device_class.name)
    if option.engine.build_s and compiled:
        return compiled
    if option.engine.stored_weights and option.facts.weights_bytes:
        return (stored_dtype(option.facts),)
    if option.settled:
        return option.settled
    return tuple(d for d in _AUTO if d in option.computed)[:1] or _AUTO[:1]


def _share_counts(option: Option) -> tuple[int, ...]:
    """Powers of two, and the whole device; of an endpoint as many as there are sequences."""
    shares = option.pool.shares
    if option.pool.device_class.endpoint is not None:
        return (remote_layout(option.demand).shares,)
    powers = [2**k for k in range(shares.bit_length()) if 2**k <= shares]
    return tuple(sorted({*powers, shares}))


# -- figures --------------------------------------------------------------------------------------------------------


class _Batch:
    """Models that share their layouts on one pool and engine: arrays of shape (models, layouts)."""

    def __init__(
        self,
        ground: Ground,
        pool: Pool,
        layouts: tuple[Layout, ...],
        asked: list[Asked],
        policy: Policy,
        running: _Running,
        calibrations: tuple[Calibration, ...],
    ) -> None:
        self._ground = ground
        self._pool = pool
        self._layouts = layouts
        self._asked = asked
        self._shape = (len(asked), len(layouts))
        self._figures = self._predict(calibrations)
        demands = tuple(a.demand for a in asked)
        self._values = self._worth(demands, policy)
        columns = Columns(pool=pool, demands=demands, layouts=layouts, figures=self._figures)
        self._excess = [self._full(excess(columns)) for excess, _ in PREDICTED_RULES]
        self._allowed: Mask = np.logical_and.reduce([e <= 0 for e in self._excess])
        self._stays = self._running(running)
        self._rows = {name: self._full(self._figures[name]).tolist() for name in _FIGURES}

    def candidates(self) -> Iterator[Candidate]:
        """Allowed options, by model."""
        useful = self._allowed & (~self._dominated() | self._stays)
        values = self._values.tolist()
        for m, k in np.argwhere(useful).tolist():
            option = self._option(m, k)
            assert option.predicted is not None
            yield Candidate(
                option=option,
                layout=self._layouts[k],
                predicted=option.predicted,
                value=values[m][k],
            )

    def rejections(self) -> Iterator[Rejection]:
        """Per model and rule the nearest miss among the options that it is the first to refuse."""
        open_ = np.ones(self._shape, dtype=np.bool_)
        for excess, (_, check) in zip(self._excess, PREDICTED_RULES, strict=True):
            missed = open_ & (excess > 0)
            open_ &= ~missed
            if not missed.any():
                continue
            nearest = np.where(missed, excess, np.inf).argmin(axis=1)
            for m in np.flatnonzero(missed.any(axis=1)).tolist():
                rejection = check(self._option(m, int(nearest[m])))
                if rejection is not None:
                    yield rejection

    def _predict(self, calibrations: tuple[Calibration, ...]) -> Mapping[str, Any]:
        ground = self._ground
        asked = [(a.demand, a.facts) for a in self._asked]
        evidence = Evidence(artifacts=self._pool.artifacts, calibrations=calibrations)
        plain = {} if ground.device_class.endpoint else predict_columns(ground, self._cases())
        return adjusted(plain, asked, self._layouts, ground.device_class, ground.engine, evidence)

    def _cases(self) -> list[Any]:
        """Columns in the order of `CASE`: figures of models down, of layouts across."""
        demand = np.array([demand_figures(a.demand, a.facts) for a in self._asked], np.float64)
        dtypes = {layout.dtype for layout in self._layouts}
        by_dtype = {
            dtype: np.array(
                [dtype_figures(a.demand, a.facts, self._ground, dtype) for a in self._asked]
            )
            for dtype in dtypes
        }
        stored = np.stack([by_dtype[layout.dtype] for layout in self._layouts], axis=1)
        sizes = np.array([(c.tp, c.pp, c.shares) for c in self._layouts], np.float64)
        build = np.array([[self._build_s(a, c) for c in self._layouts] for a in self._asked])
        columns = [demand[:, k, None] for k in range(demand.shape[1])]
        columns += [stored[:, :, 0], stored[:, :, 1]]
        columns += [sizes[None, :, k] for k in range(3)]
        assert len(columns) + 1 == len(CASE)
        return [*columns, build]

    def _build_s(self, asked: Asked, layout: Layout) -> float:
        """Time to compile before the load: 0 where nothing is compiled and where an artifact lies ready."""
        ground, ready = self._ground, self._pool.compiled.get(asked.demand.id, ())
        return build_s(asked.demand, ground.device_class, ground.engine, layout, ready)

    def _worth(self, demands: tuple[Demand, ...], policy: Policy) -> Vector:
        name = self._pool.device_class.name
        parameters = np.array([[a.facts.parameters] for a in self._asked])
        concurrency = np.array([[float(d.concurrency)] for d in demands])
        weight = np.array([[weight_of(d)] for d in demands])
        bonus = np.array([[0.1 * (name in d.preferred)] for d in demands])
        good = quality(policy, self._figures, concurrency, parameters)
        return self._full(weight * (1.0 + 0.9 * good + bonus))

    def _full(self, values: Any) -> Vector:
        return np.broadcast_to(np.asarray(values, dtype=np.float64), self._shape)

    def _running(self, running: _Running) -> Mask:
        engine, name = self._ground.engine.name, self._pool.device_class.name
        stays = np.zeros(self._shape, dtype=np.bool_)
        for m, a in enumerate(self._asked if running else ()):
            for k, layout in enumerate(self._layouts):
                stays[m, k] = (a.demand.id, engine, name, layout) in running
        return stays

    def _dominated(self) -> Mask:
        """Options that another allowed one beats: no more of anything, and worth as much."""
        power, price = (
            self._full(self._figures["power_w"]),
            self._full(self._figures["price_per_hour"]),
        )
        tokens, values = self._full(self._figures["tokens_per_s"]), self._values
        found = np.zeros(self._shape, dtype=np.bool_)
        for a, small in enumerate(self._layouts):
            for b, large in enumerate(self._layouts):
                if a == b or not _within(small, large):
                    continue
                found[:, b] |= (
                    self._allowed[:, a]
                    & ~found[:, a]
                    & (values[:, a] >= values[:, b])
                    & (tokens[:, a] >= tokens[:, b])
                    & (power[:, a] / small.pp <= power[:, b] / large.pp)
                    & (power[:, a] <= power[:, b])
                    & (price[:, a] <= price[:, b])
                )
        return found

    def _option(self, m: int, k: int) -> Option:
        asked = self._asked[m]
        figures = {name: row[m][k] for name, row in self._rows.items()}
        predicted = Predicted(**{**figures, "memory_bytes": int(figures["memory_bytes"])})
        return Option(
            demand=asked.demand,
            facts=asked.facts,
            pool=self._pool,
            engine=self._ground.engine,
            layout=self._layouts[k],
            predicted=predicted,
        )


def _within(small: Layout, large: Layout) -> bool:
    """Whether wherever the large layout finds room, the small one does."""
    return small.tp <= large.tp and small.pp <= large.pp and small.shares <= large.shares
