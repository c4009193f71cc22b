"""Maximum flow of tokens through a layout: what nodes and links let pass, whatever the wait.

Each node holds one range of layers. Under the *chain* rule a node hands over only where its range
ends and the next one's begins (end_i == start_j); under the *partial* rule also inside the next
one's range (start_j <= end_i < end_j). Knows no classes and no devices; nodes are numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_NOTHING = 1e-9
_MOST_PHASES = 10_000

Place = int | None
"""A node by number; None is the coordinator, where tokens start and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Layers start .. end - 1."""

    start: int
    end: int

    @property
    def layers(self) -> int:
        """How many layers."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutFlow:
    """A maximum flow: tokens/s in all, and on each link that carries any."""

    value: float
    links: tuple[tuple[Place, Place, float], ...]

    def stages(self) -> int:
        """Return the nodes on the longest path that carries tokens."""
        after: dict[Place, list[Place]] = {}
        for a, b, _ in self.links:
            after.setdefault(a, []).append(b)
        depth: dict[int, int] = {}
        return max((_depth(node, after, depth) for node in after.get(None, [])), default=0)


def _depth(node: Place, after: Mapping[Place, list[Place]], known: dict[int, int]) -> int:
    if node is None:
        return 0
    if node not in known:
        known[node] = 1 + max((_depth(n, after, known) for n in after.get(node, [])), default=0)
    return known[node]


def layout_flow(
    spans: Mapping[int, Span],
    layers: int,
    *,
    node: Callable[[int, int], float],
    link: Callable[[Place, Place], float],
    partial: bool = False,
) -> LayoutFlow:
    """Return the maximum flow of a layout.

    Args:
        spans: the layers of each node that holds any.
        layers: of the model.
        node: tokens/s of a node (first argument) with so many layers (second).
        link: tokens/s of a link; 0 where there is none.
        partial: allow hand-over inside the next node's range.
    """
    index = {n: i for i, n in enumerate(sorted(spans))}
    source, sink = 2 * len(index), 2 * len(index) + 1
    arcs = [(2 * i, 2 * i + 1, node(n, spans[n].layers)) for n, i in index.items()]
    ends = _hand_overs(spans, layers, partial)
    for a, b in ends:
        tail = source if a is None else 2 * index[a] + 1
        head = sink if b is None else 2 * index[b]
        arcs.append((tail, head, link(a, b)))
    value, flows = max_flow(arcs, source, sink)
    carried = zip(ends, flows[len(index) :], strict=True)
    return LayoutFlow(
        value=value, links=tuple((a, b, flow) for (a, b), flow in carried if flow > _NOTHING)
    )


def _hand_overs(spans: Mapping[int, Span], layers: int, partial: bool) -> list[tuple[Place, Place]]:
    pairs: list[tuple[Place, Place]] = []
    for a in sorted(spans):
        if spans[a].start == 0:
            pairs.append((None, a))
        if spans[a].end == layers:
            pairs.append((a, None))
        pairs += [(a, b) for b in sorted(spans) if a != b and _follows(spans[a], spans[b], partial)]
    return pairs


def _follows(a: Span, b: Span, partial: bool) -> bool:
    return b.start <= a.end < b.end if partial else a.end == b.start


def max_flow(
    arcs: Sequence[tuple[int, int, float]], source: int, sink: int
) -> tuple[float, list[float]]:
    """Return the maximum flow from source to sink and the flow on each arc (tail, head, capacity),
    by Dinic's algorithm.
    """
    network = _Network(arcs, source, sink)
    value = 0.0
    for _ in range(_MOST_PHASES):
        if not network.level():
            break
        value += network.block()
    return value, [network.rest[2 * i + 1] for i in range(len(arcs))]


class _Network:
    """Residual network; arc 2i is arc i, arc 2i + 1 its reverse."""

    def __init__(self, arcs: Sequence[tuple[int, int, float]], source: int, sink: int) -> None:
        size = max([source, sink, *(max(a, b) for a, b, _ in arcs)]) + 1
        self.source, self.sink = source, sink
        self.heads: list[int] = []
        self.rest: list[float] = []
        self.out: list[list[int]] = [[] for _ in range(size)]
        self.levels: list[int] = []
        self.next: list[int] = []
        for tail, head, capacity in arcs:
            for node, other, rest in ((tail, head, capacity), (head, tail, 0.0)):
                self.out[node].append(len(self.heads))
                self.heads.append(other)
                self.rest.append(rest)

    def level(self) -> bool:
        """Number the nodes by distance from the source; False when the sink is cut off."""
        self.levels = [-1] * len(self.out)
        self.levels[self.source] = 0
        queue = [self.source]
        for node in queue:
            for arc in self.out[node]:
                head = self.heads[arc]
                if self.levels[head] < 0 and self.rest[arc] > _NOTHING:
                    self.levels[head] = self.levels[node] + 1
                    queue.append(head)
        self.next = [0] * len(self.out)
        return self.levels[self.sink] >= 0

    def block(self) -> float:
        """Push along shortest paths until each of them has a full arc."""
        value = 0.0
        path: list[int] = []
        node = self.source
        while True:
            if node == self.sink:
                pushed = min(self.rest[arc] for arc in path)
                value += pushed
                for arc in path:
                    self.rest[arc] -= pushed
                    self.rest[arc ^ 1] += pushed
                path.clear()
                node = self.source
                continue
            arc = self._advance(node)
            if arc is not None:
                path.append(arc)
                node = self.heads[arc]
            elif path:
                self.next[self.heads[path[-1] ^ 1]] += 1
                node = self.heads[path.pop() ^ 1]
            else:
                return value

    def _advance(self, node: int) -> int | None:
        """Return the next arc of a node that leads closer to the sink."""
        while self.next[node] < len(self.out[node]):
            arc = self.out[node][self.next[node]]
            closer = self.levels[self.heads[arc]] == self.levels[node] + 1
            if closer and self.rest[arc] > _NOTHING:
                return arc
            self.next[node] += 1
        return None
