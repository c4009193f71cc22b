"""One model over mixed device classes: stages with the largest flow, and what none can beat.

A *stage* is a set of nodes that hold the same layers; a staged layout is a chain of stages. Flow
here is compute alone: links are for `flow.py`, waiting and KV cache for `decode.py`. Nodes of one
class are alike, so that the state of the search is how many of each class are used, not which.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from .errors import PlacementError

# States times options above which classes are counted in bundles: keeps one probe under about 20
# ms.
_CELLS = 400_000
_OPTIONS = 400
_STATES = 8_000
_CLOSE = 1e-9

_Option = tuple[tuple[int, ...], int]


class BadChain(PlacementError):
    """Figures of a node class from which nothing can be computed."""

    code = "bad_chain"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeClass:
    """Nodes that differ in nothing that placement can see.

    Attributes:
        count: how many there are.
        flow: tokens/s of one node when it holds 1, 2, ... layers; its length is the most layers
            that fit.
    """

    name: str
    count: int
    flow: tuple[float, ...]

    def __post_init__(self) -> None:
        figures = (float(self.count), *self.flow)
        if any(not math.isfinite(figure) or figure < 0 for figure in figures):
            raise BadChain(
                f"node class {self.name!r} has a negative or unbounded figure",
                hint="counts and tokens/s are finite and not negative",
            )

    def of(self, layers: int) -> float:
        """Return tokens/s of one node that holds `layers`, 0 where they do not fit."""
        return self.flow[layers - 1] if 0 < layers <= len(self.flow) else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Nodes that hold the same `layers` consecutive layers; `counts` has one entry a class."""

    layers: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A chain of stages, in no particular order, and its flow in tokens/s without links."""

    stages: tuple[Stage, ...]
    flow: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Staged layouts from few stages and little flow to many and much.

    Attributes:
        exact: no staged layout has more flow than the last point; False when classes had to be
            bundled or options cut.
        bound: tokens/s that no layout of intervals exceeds, staged or not.
    """

    points: tuple[Staged, ...]
    exact: bool
    bound: float


def stage_flow(classes: tuple[NodeClass, ...], stage: Stage) -> float:
    """Return tokens/s of a stage."""
    return sum(n * c.of(stage.layers) for n, c in zip(stage.counts, classes, strict=True))


def flow_bound(classes: tuple[NodeClass, ...], layers: int) -> float:
    """Return the largest F with sum over nodes of max_k k * min(T(k), F) >= F * layers.

    Every layer needs nodes with F tokens/s together, and a node gives at most min(T(k), F) to each
    of its k layers: this holds for every layout of intervals.
    """
    top = max((flow for c in classes if c.count for flow in c.flow), default=0.0) * sum(
        c.count for c in classes
    )
    low, high = 0.0, top
    for _ in range(100):
        middle = (low + high) / 2
        enough = _slack(classes, layers, middle) >= -_CLOSE * layers * middle
        low, high = (middle, high) if enough else (low, middle)
    return _exact_root(classes, layers, low)


def _work(node: NodeClass, flow: float) -> tuple[float, int]:
    """Return the most layer-tokens/s of one node at `flow`, and how many layers give it."""
    return max(
        ((k * min(tokens, flow), k) for k, tokens in enumerate(node.flow, 1)), default=(0.0, 0)
    )


def _slack(classes: tuple[NodeClass, ...], layers: int, flow: float) -> float:
    return sum(c.count * _work(c, flow)[0] for c in classes) - flow * layers


def _exact_root(classes: tuple[NodeClass, ...], layers: int, flow: float) -> float:
    """Solve the piece of the piecewise linear slack in which `flow` lies."""
    fixed, slope = 0.0, -float(layers)
    for c in classes:
        _, k = _work(c, flow)
        tokens = c.of(k)
        fixed += c.count * k * tokens if tokens <= flow else 0.0
        slope += c.count * k if tokens > flow else 0
    root = -fixed / slope if slope < 0 else flow
    return root if abs(root - flow) <= 1e-6 * max(flow, 1.0) else flow


def front(
    classes: tuple[NodeClass, ...],
    layers: int,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    tolerance: float = 0.004,
    regions: tuple[int, ...] = (),
) -> Front:
    """Return the front of stages against flow; empty when the layers do not fit at all.

    The last point is found exactly among the finitely many stage flows; those before it are within
    `tolerance` of the best for their depth. With `regions`, a number for each class, no stage mixes
    nodes of two regions.
    """
    return _Search(classes, layers, should_stop, tolerance, regions).front()


class _Search:
    """Probes of one problem: for a flow F, the fewest stages that reach it."""

    def __init__(
        self,
        classes: tuple[NodeClass, ...],
        layers: int,
        should_stop: Callable[[], bool],
        tolerance: float,
        regions: tuple[int, ...],
    ) -> None:
        self._all = classes
        self._regions = regions
        self._bundle = _bundles(classes)
        self._counts = tuple(c.count // b for c, b in zip(classes, self._bundle, strict=True))
        self._layers = layers
        self._should_stop = should_stop
        self._tolerance = tolerance
        self._exact = all(b == 1 for b in self._bundle) and len(set(regions)) <= 1
        self._probes: dict[float, Staged | None] = {}
        self._strides = _strides(self._counts)
        self._states = np.array(list(np.ndindex(*[n + 1 for n in self._counts])), np.int32)

    def front(self) -> Front:
        bound = flow_bound(self._all, self._layers)
        best = self._largest(bound)
        points = self._between(best) if best else ()
        return Front(points=points, exact=self._exact and bool(points), bound=bound)

    def _largest(self, bound: float) -> Staged | None:
        """Bisect over the finitely many flows that a stage can have."""
        flows = self._stage_flows(bound)
        low, high, best = 0, len(flows) - 1, None
        while low <= high and not self._stopped():
            middle = (low + high) // 2
            found = self._probe(float(flows[middle]))
            best = found or best
            low, high = (middle + 1, high) if found else (low, middle - 1)
        return best

    def _stage_flows(self, bound: float) -> np.ndarray:
        """Return every flow of a stage up to the bound, rising."""
        counts = self._states * np.array(self._bundle)
        longest = max((len(c.flow) for c in self._all), default=0)
        table = np.array([[c.of(k) for k in range(1, longest + 1)] for c in self._all])
        flows = np.unique(counts @ table) if longest else np.zeros(0)
        return flows[(flows > 0) & (flows <= bound * (1 + _CLOSE))]

    def _between(self, best: Staged) -> tuple[Staged, ...]:
        """Return the points from the shallowest layout to the one with the largest flow."""
        found = {len(best.stages): best}
        least = self._probe(float(self._stage_flows(best.flow)[0]))
        if least is not None:
            found.setdefault(len(least.stages), least)
            self._halve((least.flow, len(least.stages)), (best.flow, len(best.stages)), found)
        points: list[Staged] = []
        for point in (found[depth] for depth in sorted(found)):
            if not points or point.flow > points[-1].flow * (1 + _CLOSE):
                points.append(point)
        return tuple(points)

    def _halve(
        self, low: tuple[float, int], high: tuple[float, int], found: dict[int, Staged]
    ) -> None:
        """Fill in the depths between two (flow, stages), as long as their flows differ enough."""
        apart = high[0] - low[0] > self._tolerance * high[0]
        if low[1] >= high[1] or not apart or self._stopped():
            return
        flow = (low[0] + high[0]) / 2
        point = self._probe(flow)
        if point is None:
            return
        depth = len(point.stages)
        if depth not in found or point.flow > found[depth].flow:
            found[depth] = point
        self._halve(low, (flow, depth), found)
        self._halve((max(point.flow, flow), depth), high, found)

    def _stopped(self) -> bool:
        stopped = self._should_stop()
        self._exact = self._exact and not stopped
        return stopped

    def _probe(self, flow: float) -> Staged | None:
        """Return a layout of fewest stages with at least `flow`, or None."""
        if flow not in self._probes:
            self._probes[flow] = self._solve(flow * (1 - _CLOSE))
        return self._probes[flow]

    def _solve(self, flow: float) -> Staged | None:
        options = self._options(flow)
        if not options:
            return None
        before, valid, gain = self._table(options)
        reach = np.zeros(len(self._states), np.int32)
        steps: list[np.ndarray] = []
        for _ in range(self._layers):
            gained = np.where(valid, reach[before] + gain, -1)
            step = gained.argmax(axis=1)
            best = gained[np.arange(len(step)), step]
            grown = np.maximum(best, reach)
            if (grown == reach).all():
                return None
            steps.append(np.where(best >= reach, step, -1))
            reach = grown
            if reach[-1] >= self._layers:
                return self._trace(options, steps, flow)
        return None

    def _table(self, options: list[_Option]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return, for each state and option: the state before it, whether it fits, its layers."""
        used = np.array([vector for vector, _ in options], np.int32)
        valid = np.ones((len(self._states), len(options)), bool)
        for column in range(used.shape[1]):
            valid &= self._states[:, column, None] >= used[None, :, column]
        index = np.arange(len(self._states))[:, None] - (used @ self._strides)[None, :]
        gain = np.array([k for _, k in options], np.int32)
        return np.where(valid, index, 0), valid, gain[None, :]

    def _trace(self, options: list[_Option], steps: list[np.ndarray], flow: float) -> Staged | None:
        """Walk back from the state with all nodes and take surplus layers off; None, and no longer
        exact, when that costs flow.
        """
        state = len(self._states) - 1
        chosen: list[Stage] = []
        for step in reversed(steps):
            option = int(step[state])
            if option >= 0:
                vector, k = options[option]
                counts = tuple(n * b for n, b in zip(vector, self._bundle, strict=True))
                chosen.append(Stage(layers=k, counts=counts))
                state -= int(np.dot(vector, self._strides))
        kept = _trimmed(self._all, chosen, sum(s.layers for s in chosen) - self._layers, flow)
        if kept is None:
            self._exact = False
            return None
        return Staged(stages=kept, flow=min(stage_flow(self._all, s) for s in kept))

    def _options(self, flow: float) -> list[_Option]:
        """Return the minimal count vectors that reach `flow`, each with the most layers it can
        hold.
        """
        most: dict[tuple[int, ...], int] = {}
        longest = max((len(c.flow) for c in self._all), default=0)
        for k in range(1, longest + 1):
            tokens = [c.of(k) * b for c, b in zip(self._all, self._bundle, strict=True)]
            for vector in itertools.islice(_minimal(tokens, self._counts, flow), _OPTIONS * 4):
                if self._together(vector):
                    most[vector] = k
        kept = _undominated(most)
        limit = max(1, min(_OPTIONS, _CELLS // len(self._states)))
        if len(kept) > limit:
            self._exact = False
        return kept[:limit]

    def _together(self, vector: tuple[int, ...]) -> bool:
        return len({r for r, n in zip(self._regions, vector, strict=False) if n}) <= 1


def _trimmed(
    classes: tuple[NodeClass, ...], stages: list[Stage], surplus: int, flow: float
) -> tuple[Stage, ...] | None:
    """Take so many layers off the stages that each keeps `flow`, or goes; fewer layers may flow
    less where tables are not monotone.
    """
    ways: dict[int, tuple[Stage, ...]] = {0: ()}
    for stage in stages:
        fewer = [replace(stage, layers=stage.layers - less) for less in range(stage.layers)]
        kept = {stage.layers - s.layers: (s,) for s in fewer if stage_flow(classes, s) >= flow} | {
            stage.layers: ()
        }
        grown: dict[int, tuple[Stage, ...]] = {}
        for taken, way in ways.items():
            for less, left in kept.items():
                if taken + less <= surplus:
                    grown.setdefault(taken + less, way + left)
        ways = grown
    return ways.get(surplus)


def _strides(counts: tuple[int, ...]) -> np.ndarray:
    sizes = [n + 1 for n in counts]
    return np.array([math.prod(sizes[i + 1 :]) for i in range(len(sizes))], np.int64)


def _bundles(classes: tuple[NodeClass, ...]) -> tuple[int, ...]:
    """Return how many nodes of each class count as one, so that the states stay few."""
    bundle = [1] * len(classes)
    while math.prod(c.count // b + 1 for c, b in zip(classes, bundle, strict=True)) > _STATES:
        widest = max(range(len(classes)), key=lambda i: classes[i].count // bundle[i])
        bundle[widest] += 1
    return tuple(bundle)


def _minimal(
    tokens: list[float], counts: tuple[int, ...], flow: float
) -> Iterator[tuple[int, ...]]:
    """Yield the count vectors that reach `flow` and of which no node can be spared."""
    order = sorted(range(len(tokens)), key=lambda i: -tokens[i])

    def fill(position: int, missing: float, vector: list[int]) -> Iterator[tuple[int, ...]]:
        if missing <= 0:
            spare = min((tokens[i] for i in range(len(vector)) if vector[i]), default=0.0)
            if missing + spare > 0:
                yield tuple(vector)
            return
        if position == len(order) or tokens[order[position]] <= 0:
            return
        index = order[position]
        most = min(counts[index], math.ceil(missing / tokens[index] - _CLOSE))
        for n in range(most, -1, -1):
            vector[index] = n
            yield from fill(position + 1, missing - n * tokens[index], vector)
        vector[index] = 0

    yield from fill(0, flow, [0] * len(tokens))


def _undominated(most: dict[tuple[int, ...], int]) -> list[_Option]:
    """Drop vectors that use no less of any class than another which holds as many layers."""
    kept: list[_Option] = []
    for vector, k in sorted(most.items(), key=lambda item: (-item[1], sum(item[0]), item[0])):
        if not any(all(a <= b for a, b in zip(v, vector, strict=True)) for v, _ in kept):
            kept.append((vector, k))
    return kept
