"""Pipelines whose stages lie in several pools: the option space of such chains, and what a chain does.

Defined once, for who plans and for who verifies. A chain of a model is
- a *family* of sites: one engine (all its facts alike, stages limited by `EngineFacts.chain`), one vendor, all real or all
  emulated; sites are the pools that the model may use with that engine, by name;
- one dtype: the one asked for, else the first of bf16, fp16, fp32 that every site of the chain and the engine compute, with
  the arithmetic that is asked for, and in which the model was prepared on each site where that is told;
- one tensor-parallel size, which every site of the chain takes;
- a multiset of sites, 2 stages or more, not more of a site than it has groups of that size, on two sites at least or
  of one site more stages than `EngineFacts.pp`. When there are more than `MULTISETS` of these, the stage limit
  is lowered until there are not;
- `split` decides the layers of each stage; a multiset whose stages cannot hold all layers, or of which a stage is left
  without any, is no chain;
- stages stand in the order of their sites, of one site those with more layers first.
Of those that keep to the model's own limits (latency, power, price), `kept` drops what a part of the same chain does as well.

Which models have chains at all is `chained`; what a chain does, and the watts of its stages, is `chain_figures.predict_chain`.
Knows no nodes and no rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .catalog import EngineFacts
from .chain_figures import ChainModel, Mask, Vector, predicted_of
from .demand import App, Demand
from .devices import DeviceClass, Dtype
from .layout import Layout
from .modelspec import ModelFacts
from .plan import Predicted
from .roofline import Hop
from .score import quality, weight_of

Counts: TypeAlias = NDArray[np.int64]

MULTISETS = 21_000
"""Of one family, dtype and tensor-parallel size, at most."""

FEW = 2_000
"""Multisets of all models together up to which every model has chains."""

EXACT = 600
"""Chains up to which each is compared with each."""

MARGIN = 0.01
"""Among more than `EXACT` chains: gain in worth for which one more stage is kept."""

_AUTO: tuple[Dtype, ...] = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A pool as chains see it, for one model.

    Attributes:
        memory_bytes: of each device.
        islands: devices of each.
        tp: sizes of a tensor-parallel group that the model may have there.
        settled: dtypes that the model was prepared in there; empty = any.
    """

    name: str
    device_class: DeviceClass
    engine: EngineFacts
    emulated: bool
    memory_bytes: int
    islands: tuple[int, ...]
    tp: tuple[int, ...]
    settled: tuple[Dtype, ...] = ()

    def groups(self, tp: int) -> int:
        """Groups of that size that the islands hold."""
        return sum(devices // tp for devices in self.islands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One pipeline.

    Attributes:
        stages: site and number of layers of each.
        stage_power_w: of each.
        value: worth of a replica under the policy; that of the first stage's class where a class is preferred.
    """

    engine: EngineFacts
    layout: Layout
    stages: tuple[tuple[str, int], ...]
    predicted: Predicted
    stage_power_w: tuple[float, ...]
    value: float


def chained(
    multisets: Mapping[str, int], copies: Mapping[str, int], wanted: Mapping[str, int]
) -> frozenset[str]:
    """The models that have chains.

    All, while their multisets are few together (`FEW`); else those that could not have all their copies within single
    pools even if each were alone.

    Args:
        multisets: of each model, as `multiset_count` counts them.
        copies: of each model, the sum over pools of its units by the fewest units of an allowed configuration.
        wanted: most copies of each model.
    """
    if sum(multisets.values()) <= FEW:
        return frozenset(multisets)
    return frozenset(m for m in multisets if copies.get(m, 0) < wanted[m])


def multiset_count(demand: Demand, facts: ModelFacts, sites: Sequence[Site]) -> int:
    """Multisets of stages that a model has to choose from, of whatever size; those that do not fit count too."""
    return sum(
        _count([s.groups(tp) for s in own], _limit(own, facts, tp))
        for own, _, _, tp in _spaces(demand, sites)
    )


def chains(
    demand: Demand, facts: ModelFacts, sites: Sequence[Site], app: App, hop: Hop
) -> tuple[Chain, ...]:
    """Every chain of a model that could be worth choosing, in a fixed order."""
    found: list[Chain] = []
    for own, dtype, early, tp in _spaces(demand, sites):
        space = _Space(demand, facts, own, dtype, tp, app, hop)
        found.extend(space.chains(early))
    return tuple(found)


# -- spaces -----------------------------------------------------------------------------------------------------------

_Part: TypeAlias = tuple[tuple[Site, ...], Dtype, tuple[bool, ...], int]
"""Sites of one family, dtype, which of them compute a dtype that comes before it, tensor-parallel size."""


def _spaces(demand: Demand, sites: Sequence[Site]) -> Iterable[_Part]:
    families: dict[tuple[EngineFacts, str, bool], list[Site]] = {}
    for site in sorted(sites, key=lambda s: s.name):
        if site.engine.chain > 1:
            key = (site.engine, site.device_class.vendor, site.emulated)
            families.setdefault(key, []).append(site)
    for family in families.values():
        known: set[str] = set()
        for dtype in _AUTO if demand.dtype is None else (demand.dtype,):
            able = [s for s in family if _computes(s, dtype, demand)]
            for tp in family[0].engine.tp:
                own = tuple(s for s in able if tp in s.tp and s.groups(tp))
                early = tuple(s.name in known for s in own)
                if own and not all(early):
                    yield own, dtype, early, tp
            known.update(s.name for s in able)


def _computes(site: Site, dtype: Dtype, demand: Demand) -> bool:
    able = site.engine.runs(demand.arithmetic)
    prepared = not site.settled or dtype in site.settled
    return prepared and dtype in able and dtype in dict(site.device_class.flops)


def _limit(sites: Sequence[Site], facts: ModelFacts, tp: int) -> int:
    """Most stages: as the engine takes, lowered until the multisets are not too many."""
    groups = [site.groups(tp) for site in sites]
    stages = min(sites[0].engine.chain, facts.layers)
    while stages > 2 and _count(groups, stages) > MULTISETS:
        stages -= 1
    return stages


def _count(groups: Sequence[int], stages: int) -> int:
    """Multisets of 1 to `stages` stages."""
    ways = [1] + [0] * stages
    for most in groups:
        ways = [sum(ways[max(0, n - most) : n + 1]) for n in range(stages + 1)]
    return sum(ways) - 1


def _multisets(groups: Sequence[int], stages: int) -> Counts:
    """Every multiset of 1 to `stages` stages: a row of counts each."""
    found = np.zeros((1, len(groups)), np.int64)
    for k, most in enumerate(groups):
        total = found.sum(axis=1)
        parts = []
        for n in range(min(most, stages) + 1):
            part = found[total + n <= stages].copy()
            part[:, k] = n
            parts.append(part)
        found = np.concatenate(parts)
    return found[found.sum(axis=1) > 0]


def split(counts: Counts, most: Vector, speed: Vector, layers: int) -> tuple[Vector, Vector]:
    """Layers of the stages on each site, so that the slowest stage is fastest.

    Stages of one site take equally many, give or take one; a stage holds `most` at most and takes layers / speed seconds. The
    remainder goes layer by layer to the stage that then takes least time, of equals to the first site.

    Args:
        counts: of stages, shape (multisets, sites); they hold all layers.
        most, speed: of each site.

    Returns:
        Layers of all stages of a site together, and of its fullest one.
    """
    low, high = np.zeros(len(counts)), np.full(len(counts), (most / speed).max() + 1.0)
    for _ in range(50):
        middle = (low + high) / 2
        held = (counts * np.minimum(most, speed * middle[:, None])).sum(axis=1)
        low, high = np.where(held < layers, middle, low), np.where(held < layers, high, middle)
    each = np.floor(np.minimum(most, speed * low[:, None]))
    more = np.zeros_like(each)
    missing = layers - (counts * each).sum(axis=1)
    for _ in range(int(missing.max(initial=0.0))):
        time = np.where((counts > 0) & (each < most), (each + 1) / speed, inf)
        rows = np.flatnonzero(missing > 0)
        site = time[rows].argmin(axis=1)
        more[rows, site] += 1
        missing[rows] -= 1
        full = more == np.maximum(counts, 1)
        each, more = each + full, np.where(full, 0, more)
    whole = counts * each + more
    return whole.astype(np.float64), np.where(counts > 0, each + (more > 0), 0.0)


class _Space:
    """The chains of one model over sites of one family, in one dtype and tensor-parallel size."""

    def __init__(
        self,
        demand: Demand,
        facts: ModelFacts,
        sites: tuple[Site, ...],
        dtype: Dtype,
        tp: int,
        app: App,
        hop: Hop,
    ) -> None:
        self._demand, self._facts, self._app = demand, facts, app
        self._sites, self._dtype, self._tp = sites, dtype, tp
        self._engine = sites[0].engine
        self._limit = _limit(sites, facts, tp)
        self._model = ChainModel(
            demand,
            facts,
            self._engine,
            [site.device_class for site in sites],
            dtype,
            tp,
            hop,
            self._limit,
        )

    def chains(self, early: tuple[bool, ...]) -> list[Chain]:
        """Those kept; without those whose sites all compute an earlier dtype."""
        most = np.array([self._model.most_layers(s.memory_bytes) for s in self._sites], float)
        groups = [s.groups(self._tp) if m else 0 for s, m in zip(self._sites, most, strict=True)]
        counts = _multisets(groups, self._limit)
        counts = counts[counts @ most >= self._facts.layers]
        if not len(counts):
            return []
        layers, top = split(counts, most, self._model.speed, self._facts.layers)
        figures, watts = self._model.figures(counts.astype(float), layers, top)
        values = self._worth(counts, figures)
        allowed = self._allowed(figures) & ((layers >= counts).all(axis=1))
        values = np.where(allowed, values, -inf)
        useful = kept(counts, values, *self._besides(counts, figures, watts))
        stages, spread = counts.sum(axis=1), (counts > 0).sum(axis=1)
        useful &= (stages > 1) & ((spread > 1) | (stages > self._engine.pp))
        useful &= (counts[:, ~np.array(early)] > 0).any(axis=1)
        return [
            self._chain(counts[k], layers[k], watts[k], predicted_of(figures, k), float(values[k]))
            for k in np.flatnonzero(useful).tolist()
        ]

    def _chain(
        self, counts: Counts, layers: Vector, watts: Vector, predicted: Predicted, value: float
    ) -> Chain:
        stages: list[tuple[str, int]] = []
        power: list[float] = []
        for k, n in enumerate(counts.tolist()):
            size, rest = divmod(int(layers[k]), n) if n else (0, 0)
            stages.extend((self._sites[k].name, size + (i < rest)) for i in range(n))
            power.extend([float(watts[k])] * n)
        layout = Layout(dtype=self._dtype, tp=self._tp, pp=len(stages))
        return Chain(
            engine=self._engine,
            layout=layout,
            stages=tuple(stages),
            predicted=predicted,
            stage_power_w=tuple(power),
            value=value,
        )

    def _worth(self, counts: Counts, figures: Mapping[str, Vector]) -> Vector:
        demand = self._demand
        liked = np.array([s.device_class.name in demand.preferred for s in self._sites])
        bonus = 0.1 * liked[(counts > 0).argmax(axis=1)]
        good = quality(self._app.policy, figures, demand.concurrency, self._facts.parameters)
        return weight_of(demand) * (1.0 + 0.9 * good + bonus)

    def _besides(
        self, counts: Counts, figures: Mapping[str, Vector], watts: Vector
    ) -> list[Vector]:
        """What chains take of limits: watts in all and of each stage, tokens that they do not serve."""
        demand, budgets = self._demand, self._app.budgets
        limits = (budgets.cluster_w, budgets.rack_w, budgets.node_w, demand.power_budget_w)
        costs = [] if demand.min_tokens_per_s is None else [-figures["tokens_per_s"]]
        if any(limit is not None for limit in limits):
            costs += [figures["power_w"], *np.where(counts > 0, watts, 0.0).T]
        return costs

    def _allowed(self, figures: Mapping[str, Vector]) -> Mask:
        demand = self._demand
        limits = {
            "ttft_s": demand.max_ttft_s,
            "token_s": demand.max_token_s,
            "power_w": demand.power_budget_w,
            "price_per_hour": demand.max_price_per_hour,
        }
        passed = [figures[n] <= limit for n, limit in limits.items() if limit is not None]
        return np.logical_and.reduce([np.ones(len(figures["token_s"]), np.bool_), *passed])


def kept(counts: Counts, values: Vector, *costs: Vector) -> Mask:
    """Multisets of which no part is worth as much; among few, no part that also costs no more of anything.

    Args:
        values: worth of each, -inf where it is not allowed.
        costs: of each, besides its stages; only what is limited.
    """
    if len(counts) > EXACT:
        return _rising(counts, values)
    found = np.isfinite(values)
    for k in np.flatnonzero(found).tolist():
        part = (counts <= counts[k]).all(axis=1) & (values >= values[k])
        for cost in costs:
            part &= cost <= cost[k]
        part[k] = False
        found[k] = not part.any()
    return found


def _rising(counts: Counts, values: Vector) -> Mask:
    """Multisets worth more, by `MARGIN`, than the best part of them that is kept."""
    base = (int(counts.max()) + 1) ** np.arange(counts.shape[1], dtype=np.int64)
    keys = counts @ base
    order = np.argsort(keys)
    ranked, stages = keys[order], counts.sum(axis=1)
    best, found = np.zeros(len(counts)), np.zeros(len(counts), np.bool_)
    for size in range(1, int(stages.max()) + 1):
        rows = np.flatnonzero(stages == size)
        for site in range(counts.shape[1]):
            own = rows[counts[rows, site] > 0]
            at = np.minimum(np.searchsorted(ranked, keys[own] - base[site]), len(keys) - 1)
            there = ranked[at] == keys[own] - base[site]
            best[own] = np.maximum(best[own], np.where(there, best[order[at]], 0.0))
        found[rows] = values[rows] > best[rows] * (1 + MARGIN)
        best[rows] = np.where(found[rows], values[rows], best[rows])
    return found
