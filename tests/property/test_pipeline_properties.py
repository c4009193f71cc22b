"""Staged layouts against brute force, and what holds for every one of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.staged import NodeClass, flow_bound, front, stage_flow

Counts = tuple[int, ...]


@st.composite
def node_classes(draw: st.DrawFn, most: int = 3) -> tuple[NodeClass, ...]:
    return tuple(
        NodeClass(
            name=f"c{i}",
            count=draw(st.integers(1, most)),
            flow=tuple(
                sorted(
                    draw(st.lists(st.integers(1, 50).map(float), min_size=1, max_size=4)),
                    reverse=True,
                )
            ),
        )
        for i in range(draw(st.integers(1, 2)))
    )


def stages_of(classes: tuple[NodeClass, ...], left: Counts) -> Iterator[tuple[Counts, int, float]]:
    longest = max(len(c.flow) for c in classes)
    for used in itertools.product(*[range(n + 1) for n in left]):
        for k in range(1, longest + 1) if any(used) else ():
            yield used, k, sum(n * c.of(k) for n, c in zip(used, classes, strict=True))


def brute_force(classes: tuple[NodeClass, ...], left: Counts, layers: int) -> float:
    """Largest flow of any staged layout, by trying all."""
    if layers == 0:
        return float("inf")
    best = 0.0
    for used, k, flow in stages_of(classes, left):
        if flow > best and k <= layers:
            rest = tuple(n - m for n, m in zip(left, used, strict=True))
            best = max(best, min(flow, brute_force(classes, rest, layers - k)))
    return best


@settings(max_examples=60, deadline=None)
@given(node_classes(), st.integers(1, 5))
def test_the_last_point_is_the_best_of_all(classes: tuple[NodeClass, ...], layers: int) -> None:
    found = front(classes, layers)
    best = brute_force(classes, tuple(c.count for c in classes), layers)
    assert (found.points[-1].flow if found.points else 0.0) == pytest.approx(best)
    assert best <= found.bound * (1 + 1e-6)
    assert found.exact == bool(found.points)


@settings(max_examples=100, deadline=None)
@given(node_classes(most=6), st.integers(1, 12))
def test_points_keep_to_the_nodes_and_cover_the_layers(
    classes: tuple[NodeClass, ...], layers: int
) -> None:
    for point in front(classes, layers).points:
        assert sum(s.layers for s in point.stages) == layers
        for c, node in enumerate(classes):
            assert sum(s.counts[c] for s in point.stages) <= node.count
        assert min(stage_flow(classes, s) for s in point.stages) == point.flow


@settings(max_examples=100, deadline=None)
@given(node_classes(most=6), st.integers(1, 12))
def test_the_front_rises(classes: tuple[NodeClass, ...], layers: int) -> None:
    points = front(classes, layers).points
    for shallow, deep in itertools.pairwise(points):
        assert len(shallow.stages) < len(deep.stages)
        assert shallow.flow < deep.flow


@settings(max_examples=100, deadline=None)
@given(node_classes(most=6), st.integers(1, 12))
def test_one_node_more_never_lowers_the_bound(classes: tuple[NodeClass, ...], layers: int) -> None:
    first = classes[0]
    more = (NodeClass(name=first.name, count=first.count + 1, flow=first.flow), *classes[1:])
    assert flow_bound(more, layers) >= flow_bound(classes, layers) * (1 - 1e-6)
