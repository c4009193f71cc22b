"""One model over mixed device classes: depth against flow, what that decodes, and the choice.

More stages let more tokens flow and make every token travel further; `decode.py` says what that
costs. Layouts come from `staged.py`, and those with the best outlook are improved by moving nodes
and layers between stages. Knows classes and the links between them, not nodes: `seats` gives each
node its layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from .decode import Decoder, Outlook, Profile, Wire, Workload
from .flow import Span, max_flow
from .front_point import FrontPoint
from .refine import refine, spread
from .staged import Front, NodeClass, Stage, front, stage_flow

Goal = Literal["throughput", "latency"]
Proof = Literal["bound", "staged", "none"]
Stop = Callable[[], bool]

ALIKE = 0.02
"""Rates closer than this are alike: then the lower latency decides."""

_REFINED = 4
_SCORES = 600
_ORDERS = 24
_CLOSE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One model, the classes of nodes that could hold its layers, and how it is used."""

    layers: int
    classes: tuple[NodeClass, ...]
    profiles: tuple[Profile, ...]
    wire: Wire
    workload: Workload = field(default_factory=Workload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A chain of stages in order, its flow over the links in tokens/s, and its outlook."""

    stages: tuple[Stage, ...]
    flow: float
    outlook: Outlook


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipelines:
    """Every layout that was weighed.

    Attributes:
        front: from few stages to many; each has more flow than those before it.
        widest: the largest flow found.
        chosen: the best for the goal; as a rule improved beyond the front.
        bound: tokens/s that no layout of intervals exceeds.
        proof: why nothing flows more than `widest`: it meets the bound, or no other staged layout
            has more; or not known.
    """

    front: tuple[Pipeline, ...]
    widest: Pipeline
    chosen: Pipeline
    bound: float
    proof: Proof


def pipelines(
    chain: Chain, goal: Goal = "throughput", should_stop: Stop = lambda: False
) -> Pipelines | None:
    """Return the layouts of one model over mixed classes, or None where its layers do not fit.

    Deterministic as long as `should_stop` never fires; when it does, the best so far is returned
    and nothing is called proven that is not.
    """
    search = _Search(chain, should_stop)
    fronts = search.fronts()
    laid = [p for f in fronts for point in f.points for p in search.orders(point.stages)]
    if not laid:
        return None
    improved = search.improved(laid)
    widest = max((*laid, *improved), key=lambda p: (p.flow, p.outlook.decode_tokens_per_s))
    return Pipelines(
        front=_rising(laid),
        widest=widest,
        chosen=choose((*laid, *improved), goal, chain.workload.output_tokens),
        bound=fronts[0].bound,
        proof=_proof(fronts[0], widest),
    )


def stage_front(
    chain: Chain, goal: Goal = "throughput", should_stop: Stop = lambda: False
) -> tuple[FrontPoint, ...]:
    """Return the front and the choice as values to show; empty where the layers do not fit."""
    found = pipelines(chain, goal, should_stop)
    if found is None:
        return ()
    points = [_point(p, p is found.chosen) for p in found.front]
    if not any(p.chosen for p in points):
        points.append(_point(found.chosen, True))
    return tuple(sorted(points, key=lambda p: (p.stages, p.flow_tokens_per_s)))


def choose(candidates: Sequence[Pipeline], goal: Goal, answer_tokens: float) -> Pipeline:
    """Return the pipeline that serves the goal.

    Throughput: the highest rate, and of rates alike the lowest latency. Latency: the shortest
    answer among those with at least half of the highest rate.
    """
    best = max(p.outlook.decode_tokens_per_s for p in candidates)
    share = 1 - ALIKE if goal == "throughput" else 0.5
    good = [p for p in candidates if p.outlook.decode_tokens_per_s >= share * best]
    return min(
        good, key=lambda p: (p.outlook.token_s + p.outlook.ttft_s / answer_tokens, len(p.stages))
    )


def seats(stages: Sequence[Stage], members: Sequence[Sequence[int]]) -> dict[int, Span]:
    """Return the layers of each node in use; `members` are the nodes of each class, in order."""
    free = [iter(nodes) for nodes in members]
    spans: dict[int, Span] = {}
    start = 0
    for stage in stages:
        span = Span(start=start, end=start + stage.layers)
        for nodes, n in zip(free, stage.counts, strict=True):
            spans.update(dict.fromkeys(itertools.islice(nodes, n), span))
        start = span.end
    return spans


def chain_flow(chain: Chain, stages: Sequence[Stage]) -> float:
    """Return the maximum flow of stages in order, over their links.

    Nodes of a class are alike, so that some maximum flow treats them alike: one arc stands for all
    links between two classes.
    """
    narrowest = min(stage_flow(chain.classes, s) for s in stages)
    if _narrow(chain.wire) >= narrowest:
        return narrowest
    arcs: list[tuple[int, int, float]] = []
    source, outside = 0, len(chain.classes)
    tails: list[tuple[int, int, int]] = [(source, outside, 1)]
    free = 1
    for stage in stages:
        heads: list[tuple[int, int, int]] = []
        for c, n in enumerate(stage.counts):
            if n:
                arcs.append((free, free + 1, n * chain.classes[c].of(stage.layers)))
                arcs += [(tail, free, n * m * _tokens(chain.wire, a, c)) for tail, a, m in tails]
                heads.append((free + 1, c, n))
                free += 2
        tails = heads
    arcs += [(tail, free, m * _tokens(chain.wire, a, outside)) for tail, a, m in tails]
    return max_flow(arcs, source, free)[0]


def _tokens(wire: Wire, a: int, b: int) -> float:
    """Return tokens/s of one link between two classes, or a class and the coordinator."""
    outside = len(wire.bytes_per_s) - 1
    size = wire.token_bytes if outside in (a, b) else wire.activation_bytes
    return wire.bytes_per_s[a][b] / size if size > 0 else float("inf")


def _narrow(wire: Wire) -> float:
    """Return tokens/s of the narrowest link."""
    size = range(len(wire.bytes_per_s))
    links = [_tokens(wire, a, b) for a in size for b in size if (a, b) != (size[-1], size[-1])]
    return min(links, default=float("inf"))


def _regions(wire: Wire) -> tuple[int, ...]:
    """Number the classes so that those joined by fast links share a number."""
    count = len(wire.bytes_per_s) - 1
    fast = 0.5 * max(
        (wire.bytes_per_s[a][b] for a in range(count) for b in range(count)), default=0
    )
    region = list(range(count))
    for a, b in itertools.combinations(range(count), 2):
        if wire.bytes_per_s[a][b] >= fast:
            old, new = region[b], region[a]
            region = [new if r == old else r for r in region]
    return tuple(region)


def _rising(laid: Sequence[Pipeline]) -> tuple[Pipeline, ...]:
    points: list[Pipeline] = []
    for p in sorted(laid, key=lambda p: (len(p.stages), -p.flow, -p.outlook.decode_tokens_per_s)):
        if not points or p.flow > points[-1].flow * (1 + _CLOSE):
            points.append(p)
    return tuple(points)


def _proof(found: Front, widest: Pipeline) -> Proof:
    if widest.flow >= found.bound * (1 - _CLOSE):
        return "bound"
    reached = found.points[-1].flow if found.points else 0.0
    return "staged" if found.exact and widest.flow >= reached * (1 - _CLOSE) else "none"


def _point(p: Pipeline, chosen: bool) -> FrontPoint:
    return FrontPoint(
        stages=len(p.stages),
        flow_tokens_per_s=p.flow,
        decode_tokens_per_s=p.outlook.decode_tokens_per_s,
        ttft_s=p.outlook.ttft_s,
        token_s=p.outlook.token_s,
        chosen=chosen,
    )


class _Search:
    """What one call works with."""

    def __init__(self, chain: Chain, should_stop: Stop) -> None:
        self._chain = chain
        self._should_stop = should_stop
        self._regions = _regions(chain.wire)
        self._decoder = Decoder(
            classes=chain.classes,
            profiles=chain.profiles,
            workload=chain.workload,
            wire=chain.wire,
        )

    def fronts(self) -> list[Front]:
        """Return the front without links and, where links bind, fronts that ask less of them."""
        classes, layers = self._chain.classes, self._chain.layers
        found = [front(classes, layers, should_stop=self._should_stop)]
        if len(set(self._regions)) > 1:
            found.append(
                front(classes, layers, should_stop=self._should_stop, regions=self._regions)
            )
        narrow = _narrow(self._chain.wire)
        for links in (1, 2, 4):
            if any(narrow * links < point.flow for point in found[0].points):
                capped = tuple(
                    replace(c, flow=tuple(min(f, narrow * links) for f in c.flow)) for c in classes
                )
                found.append(front(capped, layers, should_stop=self._should_stop))
        return found

    def pipeline(self, stages: tuple[Stage, ...]) -> Pipeline:
        """Evaluate stages in this order."""
        flow = chain_flow(self._chain, stages)
        return Pipeline(stages=stages, flow=flow, outlook=self._decoder.outlook(stages, flow))

    def orders(self, stages: tuple[Stage, ...]) -> Iterator[Pipeline]:
        """Yield the orders in which the stages could follow each other: one where all links are
        fast.
        """
        regions = sorted(set(self._regions))
        for order in itertools.islice(itertools.permutations(regions), _ORDERS):
            if not self._should_stop() or order == tuple(regions):
                yield self.pipeline(self._arranged(stages, order))

    def _arranged(self, stages: Sequence[Stage], order: Sequence[int]) -> tuple[Stage, ...]:
        """Keep stages of a region together, and spread single nodes within it."""

        def place(stage: Stage) -> float:
            counts = [
                (order.index(r), n) for r, n in zip(self._regions, stage.counts, strict=True) if n
            ]
            return sum(i * n for i, n in counts) / max(1, sum(n for _, n in counts))

        ranked = sorted(stages, key=place)
        return tuple(
            s for _, group in itertools.groupby(ranked, place) for s in spread(list(group))
        )

    def improved(self, laid: Sequence[Pipeline]) -> list[Pipeline]:
        """Return what local search makes of the layouts with the best outlook."""
        best = sorted(laid, key=lambda p: -p.outlook.decode_tokens_per_s)[:_REFINED]
        rate = best[0].outlook.decode_tokens_per_s
        orders = tuple(
            itertools.islice(itertools.permutations(sorted(set(self._regions))), _ORDERS)
        )
        found: list[Pipeline] = []
        for p in best:
            order = max(orders, key=lambda o: self._rate(self._arranged(p.stages, o), rate))

            def score(stages: tuple[Stage, ...], order: tuple[int, ...] = order) -> float:
                return (
                    0.0 if self._should_stop() else self._rate(self._arranged(stages, order), rate)
                )

            stages, _ = refine(p.stages, self._chain.classes, score, _SCORES)
            found.append(self.pipeline(self._arranged(stages, order)))
        return found

    def _rate(self, stages: tuple[Stage, ...], rate: float) -> float:
        return self._decoder.rate_at(stages, chain_flow(self._chain, stages), rate)
