"""Best-fit packing: the fullest place that has room, what runs stays, another replica makes way, domains are kept."""

from __future__ import annotations

from collections.abc import Sequence

from support.labs import app, demand
from support.tables import candidate, pool

from placement.constraint import Pool
from placement.demand import Budgets, Demand
from placement.fill import Fill
from placement.floor import Floor, Request
from placement.ids import DeviceId, NodeId, slot_id
from placement.plan import Slot, Stage


def request(asked: Demand, there: Pool, current: Slot | None = None, **layout) -> Request:
    config = candidate(asked, there=there, **layout)
    return Request(candidate=0, config=config, demand=asked, current=current)


def fill(there: Pool, requests: Sequence[Request], **rest) -> Fill:
    asked = {r.demand.id: r.demand for r in requests}
    return Fill(Floor(app(*asked.values(), **rest), [there], set()), [there], requests)


def nodes(found: Fill) -> list[list[str]]:
    return [[seat.block.node for seat in seats] for seats in found.seats]


def running(node: str, *devices: str) -> Slot:
    """A slot of model m on these devices."""
    config = candidate(demand("m"))
    stage = Stage(layers=(0, 32), node=NodeId(node), devices=tuple(DeviceId(d) for d in devices))
    return Slot(
        id=slot_id(config.model, 0),
        model=config.model,
        engine="vllm",
        device_class="NVIDIA_L4_24G",
        dtype="bf16",
        tp=len(devices),
        pp=1,
        stages=(stage,),
        predicted=config.predicted,
        kv_bytes=0,
    )


def test_the_fullest_place_that_fits_is_taken() -> None:
    there = pool(("big", 4), ("small", 2))
    found = fill(there, [request(demand("m"), there, tp=2), request(demand("n"), there, tp=4)])
    assert found.run() is None
    assert nodes(found) == [["small"], ["big"]]


def test_a_group_lies_in_one_island_and_no_device_is_given_out_twice() -> None:
    there = pool(("a", 3), ("a", 3))
    found = fill(there, [request(demand(f"m{k}"), there, tp=t) for k, t in enumerate((2, 2, 1, 1))])
    assert found.run() is None
    taken = [device for seats in found.seats for seat in seats for device in seat.devices]
    assert len(taken) == len(set(taken)) == 6
    assert all(set(s.devices) <= set(s.block.devices) for seats in found.seats for s in seats)


def test_stages_of_one_replica_stay_together() -> None:
    """The second island of a comes after that of b, which is just as full."""
    there = pool(("a", 1), ("b", 1), ("a", 1))
    found = fill(there, [request(demand("m"), there, pp=2)])
    assert found.run() is None
    assert nodes(found) == [["a", "a"]]


def test_shares_of_one_device_are_filled_up_first() -> None:
    there = pool(("a", 1), ("b", 1), shares=4)
    found = fill(
        there, [request(demand(f"m{k}"), there, shares=s) for k, s in enumerate((2, 1, 1, 4))]
    )
    assert found.run() is None
    assert nodes(found) == [["a"], ["a"], ["a"], ["b"]]


def test_what_runs_stays_though_another_place_fits_better() -> None:
    there = pool(("big", 4), ("small", 1))
    found = fill(there, [request(demand("m"), there, running("big", "big/0.2"))])
    assert found.run() is None
    assert found.seats[0][0].devices == ("big/0.2",)


def test_another_replica_makes_way() -> None:
    """Best fit puts s on the small node, which the second copy of m needs."""
    there = pool(("one", 1), ("two", 2))
    spread = demand("m", replicas=2, spread="node")
    found = fill(
        there, [request(demand("s"), there), request(spread, there), request(spread, there)]
    )
    assert found.run() is None
    assert nodes(found)[0] == ["two"]
    assert sorted(name for (name,) in nodes(found)[1:]) == ["one", "two"]


def test_what_ran_already_is_the_last_to_make_way() -> None:
    there = pool(("one", 1), ("two", 1), ("three", 2))
    spread = demand("w", replicas=3, spread="node")
    stays = request(demand("m"), there, running("one", "one/0.0"))
    new = request(demand("n"), there)
    found = fill(there, [stays, new, request(spread, there), request(spread, there)])
    assert found.run() is None
    assert nodes(found)[0] == ["one"]


def test_copies_of_a_spread_model_share_no_domain() -> None:
    racks = {"a": "r1", "b": "r1", "c": "r2"}
    there = pool(("a", 4), ("b", 4), ("c", 4), racks=racks)
    apart = demand("m", replicas=2, spread="rack")
    found = fill(there, [request(apart, there), request(apart, there)])
    assert found.run() is None
    assert {racks[name] for (name,) in nodes(found)} == {"r1", "r2"}
    crowded = fill(there, [request(apart, there) for _ in range(3)])
    assert crowded.run() == 0


def test_a_node_draws_no_more_than_its_budget() -> None:
    there = pool(("a", 4), ("b", 4))
    hot = [request(demand(f"m{k}"), there, power_w=60.0) for k in range(3)]
    two = fill(there, hot[:2], budgets=Budgets(node_w=100.0))
    assert two.run() is None
    assert sorted(nodes(two)) == [["a"], ["b"]]
    assert fill(there, hot, budgets=Budgets(node_w=100.0)).run() == 0


def test_a_replica_that_finds_no_place_leaves_nothing_behind() -> None:
    there = pool(
        ("a", 2),
    )
    found = fill(there, [request(demand("m"), there), request(demand("n"), there, pp=2)])
    assert found.run() == 0
    assert found.seats[1] == []
    assert len(found.seats[0]) == 1
