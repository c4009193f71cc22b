"""Better chains near a good one: nodes and layers move between stages as long as the score rises.

Flow makes all stages equally wide; KV cache and waiting do not ask for that. The search is greedy,
deterministic and ends after a number of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from .staged import NodeClass, Stage

Score = Callable[[tuple[Stage, ...]], float]


def refine(
    chain: tuple[Stage, ...], classes: tuple[NodeClass, ...], score: Score, most: int
) -> tuple[tuple[Stage, ...], float]:
    """Return a chain no worse than `chain` and its score, after at most `most` scores; higher is
    better.
    """
    best, value = chain, score(chain)
    left = most
    improved = True
    while improved and left > 0:
        improved = False
        for other in _neighbours(best, classes):
            if left <= 0:
                break
            left -= 1
            found = score(other)
            if found > value * (1 + 1e-9):
                best, value, improved = other, found, True
                break
    return best, value


def spread(chain: Sequence[Stage]) -> tuple[Stage, ...]:
    """Put stages of one node evenly among those of several: they gather what parallel nodes
    scattered.
    """
    alone = [s for s in chain if sum(s.counts) == 1]
    wide = [s for s in chain if sum(s.counts) != 1]
    places = [((i + 0.25) / len(alone), s) for i, s in enumerate(alone)]
    places += [((i + 0.5) / len(wide), s) for i, s in enumerate(wide)]
    return tuple(s for _, s in sorted(places, key=lambda place: place[0]))


def _neighbours(
    chain: tuple[Stage, ...], classes: tuple[NodeClass, ...]
) -> Iterator[tuple[Stage, ...]]:
    """Yield chains with one idle node more, and those in which two stages exchange a layer, a node
    or both, or a stage is split or two are one.
    """
    kinds = {stage: i for i, stage in reversed(list(enumerate(chain)))}
    for c, node in enumerate(classes):
        if sum(s.counts[c] for s in chain) < node.count:
            for a in kinds.values():
                yield from _kept(chain, classes, {a: _node(chain[a], c, 1)})
    pairs = [(a, b) for a in kinds.values() for b in _others(chain, a)]
    for a, b in pairs:
        yield from _kept(chain, classes, {a: _layer(chain[a], -1), b: _layer(chain[b], 1)})
        for c in range(len(classes)):
            gave, got = _node(chain[a], c, -1), _node(chain[b], c, 1)
            yield from _kept(chain, classes, {a: gave, b: got})
            if gave and got:
                yield from _kept(chain, classes, {a: _layer(gave, -1), b: _layer(got, 1)})
                yield from _kept(chain, classes, {a: _layer(gave, 1), b: _layer(got, -1)})
    for a in kinds.values():
        yield from _split(chain, classes, a)


def _others(chain: tuple[Stage, ...], a: int) -> list[int]:
    first: dict[Stage, int] = {}
    for i, stage in enumerate(chain):
        if i != a:
            first.setdefault(stage, i)
    return list(first.values())


def _layer(stage: Stage | None, by: int) -> Stage | None:
    return replace(stage, layers=stage.layers + by) if stage else None


def _node(stage: Stage, c: int, by: int) -> Stage | None:
    counts = list(stage.counts)
    counts[c] += by
    return replace(stage, counts=tuple(counts)) if counts[c] >= 0 else None


def _kept(
    chain: tuple[Stage, ...], classes: tuple[NodeClass, ...], changed: dict[int, Stage | None]
) -> Iterator[tuple[Stage, ...]]:
    """Yield the changed chain if every stage still has layers, nodes and room; a stage left without
    either goes.
    """
    stages = [changed.get(i, stage) for i, stage in enumerate(chain)]
    if any(s is None for s in stages):
        return
    kept = tuple(s for s in stages if s is not None and s.layers > 0)
    freed = any(s is not None and s.layers == 0 and sum(s.counts) for s in stages)
    if not freed and all(_fits(s, classes) for s in kept):
        yield kept


def _fits(stage: Stage, classes: tuple[NodeClass, ...]) -> bool:
    return sum(stage.counts) > 0 and all(
        n == 0 or c.of(stage.layers) > 0 for n, c in zip(stage.counts, classes, strict=True)
    )


def _split(
    chain: tuple[Stage, ...], classes: tuple[NodeClass, ...], a: int
) -> Iterator[tuple[Stage, ...]]:
    """Yield chains in which one node of a stage takes half of its layers, and those where two
    stages share their nodes.
    """
    stage = chain[a]
    if sum(stage.counts) > 1 and stage.layers > 1:
        half = stage.layers // 2
        for c, n in enumerate(stage.counts):
            if n:
                lone = Stage(layers=half, counts=tuple(int(i == c) for i in range(len(classes))))
                rest = _node(replace(stage, layers=stage.layers - half), c, -1)
                yield from ((*k, lone) for k in _kept(chain, classes, {a: rest}))
    for b in _others(chain, a):
        joined = Stage(
            layers=stage.layers + chain[b].layers,
            counts=tuple(m + n for m, n in zip(stage.counts, chain[b].counts, strict=True)),
        )
        if _fits(joined, classes):
            yield (*(s for i, s in enumerate(chain) if i not in (a, b)), joined)
