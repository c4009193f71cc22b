"""Fronts of depth against flow, what they would decode, and the choice among them."""

from __future__ import annotations

import pytest
from support.chains import FAST, SLOW, chain, classes

from placement.flow import layout_flow
from placement.pipeline import chain_flow, pipelines, seats, stage_front
from placement.refine import spread
from placement.staged import BadChain, NodeClass, Stage, flow_bound, front


def test_one_class_is_a_chain_of_its_nodes() -> None:
    found = front((NodeClass(name="a", count=4, flow=(40.0, 20.0, 10.0)),), 4)
    assert found.exact
    assert found.points[-1].flow == found.bound == pytest.approx(40.0)
    assert [len(p.stages) for p in found.points] == [2]


def test_a_table_that_rises_again_loses_no_flow_to_surplus_layers() -> None:
    # Two layers flow less than three: the four layers are 3 + 1, never 2 + 2 nor a trimmed 3 + 3.
    found = front((NodeClass(name="a", count=2, flow=(90.0, 10.0, 50.0)),), 4)
    assert found.points[-1].flow == pytest.approx(50.0)


def test_a_model_that_does_not_fit_has_no_front() -> None:
    assert front((NodeClass(name="a", count=2, flow=(40.0,)),), 4).points == ()
    assert pipelines(chain(classes(a=1), layers=80)) is None
    assert stage_front(chain(classes(a=1), layers=80)) == ()


def test_no_nodes_at_all() -> None:
    assert front((), 4).points == ()
    assert flow_bound((), 4) == 0.0


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), -1.0])
def test_figures_from_which_nothing_follows_are_refused(figure: float) -> None:
    with pytest.raises(BadChain, match="negative or unbounded"):
        NodeClass(name="a", count=1, flow=(figure,))


def test_the_bound_is_reached_only_when_it_is_proven() -> None:
    found = pipelines(chain(classes(a=4, b=8)))
    assert found is not None
    assert found.widest.flow <= found.bound * (1 + 1e-9)
    assert found.proof in {"bound", "staged"}


def test_more_flow_costs_depth_and_waiting() -> None:
    found = pipelines(chain(classes(a=4, b=8)))
    assert found is not None
    flows = [p.flow for p in found.front]
    assert flows == sorted(flows)
    assert [len(p.stages) for p in found.front] == sorted({len(p.stages) for p in found.front})
    shallow, deep = found.front[0], found.front[-1]
    assert shallow.outlook.token_s < deep.outlook.token_s
    assert all(
        p.outlook.decode_tokens_per_s * 0.98 <= found.chosen.outlook.decode_tokens_per_s
        for p in found.front
    )


def test_latency_is_shorter_when_it_is_asked_for() -> None:
    fast, much = (pipelines(chain(classes(a=4, b=8)), goal) for goal in ("latency", "throughput"))
    assert fast is not None
    assert much is not None
    assert fast.chosen.outlook.token_s <= much.chosen.outlook.token_s
    assert fast.chosen.outlook.decode_tokens_per_s <= much.chosen.outlook.decode_tokens_per_s * 1.02


def test_slow_links_bind_the_flow_and_the_choice() -> None:
    near, far = (pipelines(chain(classes(a=4, b=8), link=link)) for link in (FAST, SLOW))
    assert near is not None
    assert far is not None
    assert far.widest.flow < near.widest.flow
    assert far.proof == "none"
    assert far.chosen.outlook.decode_tokens_per_s < near.chosen.outlook.decode_tokens_per_s
    assert far.chosen.outlook.ttft_s > near.chosen.outlook.ttft_s


@pytest.mark.parametrize("link", [FAST, SLOW])
def test_flow_by_classes_is_flow_by_nodes(link: tuple[float, float]) -> None:
    problem = chain(classes(a=4, b=8), link=link)
    found = pipelines(problem)
    assert found is not None
    kinds = [0] * 4 + [1] * 8
    for p in (*found.front, found.chosen):
        spans = seats(p.stages, [range(4), range(4, 12)])
        by_nodes = layout_flow(
            spans,
            problem.layers,
            node=lambda node, layers: problem.classes[kinds[node]].of(layers),
            link=lambda a, b: link[0] / (2.0 if None in (a, b) else problem.wire.activation_bytes),
        )
        assert (
            by_nodes.value == pytest.approx(p.flow) == pytest.approx(chain_flow(problem, p.stages))
        )


def test_every_layer_is_seated_once_a_stage() -> None:
    found = pipelines(chain(classes(a=4, b=8)))
    assert found is not None
    for p in (*found.front, found.widest, found.chosen):
        assert sum(s.layers for s in p.stages) == 20
        assert all(sum(s.counts[c] for s in p.stages) <= n for c, n in enumerate((4, 8)))
        spans = seats(p.stages, [range(4), range(4, 12)])
        assert {s.start for s in spans.values()} | {20} == {0} | {s.end for s in spans.values()}


def test_a_stop_gives_the_best_so_far_and_no_proof() -> None:
    asked = iter(range(1000))
    found = pipelines(chain(classes(a=4, b=8)), should_stop=lambda: next(asked) > 3)
    assert found is not None
    assert found.proof in {"bound", "none"}


def test_many_classes_are_bounded_and_honest() -> None:
    many = tuple(
        NodeClass(name=f"c{i}", count=12, flow=tuple(100.0 * (i + 1) / k for k in range(1, 6)))
        for i in range(6)
    )
    found = front(many, 40)
    assert found.points
    assert not found.exact
    assert found.points[-1].flow <= found.bound


def test_the_front_as_values_names_the_choice() -> None:
    points = stage_front(chain(classes(a=4, b=8)))
    assert sum(p.chosen for p in points) == 1
    assert [p.stages for p in points] == sorted(p.stages for p in points)
    assert all(p.ttft_s > p.token_s > 0 for p in points)


def test_single_nodes_are_spread_among_wide_stages() -> None:
    alone, wide = Stage(layers=1, counts=(1,)), Stage(layers=1, counts=(2,))
    assert spread([alone, alone, wide, wide]) == (alone, wide, alone, wide)
