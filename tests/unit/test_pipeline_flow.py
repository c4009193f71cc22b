"""Maximum flow of layouts, on an instance that is worked out by hand."""

from __future__ import annotations

import pytest

from placement.flow import Place, Span, layout_flow, max_flow

# Four layers. Node 0 holds 0-1, nodes 1 and 2 hold 2-3, node 3 holds 1-3 and so can take over from
# nobody's end but inside its range.
SPANS = {
    0: Span(start=0, end=2),
    1: Span(start=2, end=4),
    2: Span(start=2, end=4),
    3: Span(start=1, end=4),
}
TOKENS = {0: 100.0, 1: 30.0, 2: 40.0, 3: 20.0}


def tokens(node: int, layers: int) -> float:
    assert layers == SPANS[node].layers
    return TOKENS[node]


def wide(a: Place, b: Place) -> float:
    return 1000.0


def test_a_node_hands_over_where_its_range_ends() -> None:
    flow = layout_flow(SPANS, 4, node=tokens, link=wide)
    assert flow.value == pytest.approx(70.0)
    assert flow.stages() == 2


def test_inside_a_range_when_that_is_allowed() -> None:
    assert layout_flow(SPANS, 4, node=tokens, link=wide, partial=True).value == pytest.approx(90.0)


def test_links_bind() -> None:
    def link(a: Place, b: Place) -> float:
        return 25.0 if (a, b) == (0, 2) else 1000.0

    assert layout_flow(SPANS, 4, node=tokens, link=link).value == pytest.approx(55.0)


def test_what_is_carried_is_conserved() -> None:
    flow = layout_flow(SPANS, 4, node=tokens, link=wide)
    into = sum(f for _, b, f in flow.links if b == 0)
    out = sum(f for a, _, f in flow.links if a == 0)
    assert into == pytest.approx(out) == pytest.approx(70.0)


def test_a_layer_that_nobody_holds_stops_everything() -> None:
    spans = {0: Span(start=0, end=2), 1: Span(start=3, end=4)}
    flow = layout_flow(spans, 4, node=lambda node, layers: 10.0, link=wide)
    assert flow.value == 0.0
    assert flow.stages() == 0


def test_the_longest_path_counts() -> None:
    spans = {
        0: Span(start=0, end=4),
        1: Span(start=0, end=1),
        2: Span(start=1, end=2),
        3: Span(start=2, end=4),
    }
    assert layout_flow(spans, 4, node=lambda node, layers: 10.0, link=wide).stages() == 3


def test_flow_goes_back_over_a_bad_choice() -> None:
    # The short path 0-1-2-3 would block both detours; only 2 units pass when it is undone.
    arcs = [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0), (1, 3, 1.0), (2, 3, 1.0)]
    value, flows = max_flow(arcs, 0, 3)
    assert value == pytest.approx(2.0)
    assert flows[2] == pytest.approx(0.0)
