from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from support.dataplane import MODEL, a_slot, a_table, an_entry

from orchestrator.routing.budget import RetryBudget
from orchestrator.routing.pick import Picked, Refusal, key_of, model_state, pick


@dataclass(frozen=True)
class Load:
    state: str = "ready"
    outstanding: int = 0


R0 = an_entry(a_slot(f"{MODEL}/r0"), 1)
R1 = an_entry(a_slot(f"{MODEL}/r1"), 2)
TABLE = a_table(R0, R1)


def loads(first: Load | None, second: Load | None) -> dict:
    given = {key_of(R0): first, key_of(R1): second}
    return {key: load for key, load in given.items() if load is not None}


def picked(**changes) -> str:
    choice = pick(TABLE, MODEL, **changes)
    assert isinstance(choice, Picked), choice
    return choice.replica.slot


def refused(**changes) -> Refusal:
    choice = pick(changes.pop("table", TABLE), changes.pop("model", MODEL), **changes)
    assert isinstance(choice, Refusal), choice
    return choice


def test_the_least_loaded_wins() -> None:
    assert picked(loads=loads(Load(outstanding=3), Load(outstanding=2))) == R1.slot


def test_load_is_relative_to_concurrency() -> None:
    wide = replace(R0, concurrency=32)
    choice = pick(a_table(wide, R1), MODEL, loads(Load(outstanding=8), Load(outstanding=4)))
    assert isinstance(choice, Picked)
    assert choice.replica.slot == wide.slot


def test_a_throttled_replica_counts_as_more_loaded_and_loses_among_equals() -> None:
    slow = replace(R0, speed=0.5)
    table = a_table(slow, R1)
    idle = pick(table, MODEL, loads(Load(), Load()))
    assert isinstance(idle, Picked)
    assert idle.replica.slot == R1.slot
    busy = pick(table, MODEL, loads(Load(outstanding=2), Load(outstanding=3)))
    assert isinstance(busy, Picked)
    assert busy.replica.slot == R1.slot
    full = pick(table, MODEL, loads(Load(outstanding=1), Load(outstanding=3)))
    assert isinstance(full, Picked)
    assert full.replica.slot == slow.slot
    assert "50%" in full.why


def test_equals_take_turns() -> None:
    same = loads(Load(), Load())
    assert {picked(loads=same, turn=turn) for turn in range(2)} == {R0.slot, R1.slot}


@pytest.mark.parametrize("bad", [Load("draining"), Load("down"), Load("failed"), None])
def test_only_ready_and_connected_replicas_answer(bad) -> None:
    assert picked(loads=loads(bad, Load(outstanding=7))) == R1.slot


def test_a_tried_replica_is_not_tried_again() -> None:
    assert picked(loads=loads(Load(), Load(outstanding=5)), exclude=[key_of(R0)]) == R1.slot


def test_an_unknown_model_names_the_nearest() -> None:
    refusal = refused(model="tinny", loads={})
    assert (refusal.reason, refusal.param) == ("model_not_found", "model")
    assert "did you mean tiny?" in refusal.message


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (Load(outstanding=16), Load(outstanding=16), "queue_full"),
        (Load("loading"), Load("down"), "model_loading"),
        (Load("down"), Load("failed"), "no_healthy_replica"),
    ],
)
def test_a_refusal_says_why_and_when_to_come_back(first, second, reason) -> None:
    refusal = refused(loads=loads(first, second))
    assert refusal.reason == reason
    assert refusal.retry_after_s
    assert [slot for slot, _ in refusal.considered] == [R0.slot, R1.slot]


def test_a_model_without_replicas_is_loading_unless_it_has_a_problem() -> None:
    assert refused(table=a_table(), loads={}).reason == "model_loading"
    assert refused(table=a_table(problem="no memory"), loads={}).reason == "no_healthy_replica"


def test_a_model_is_as_ready_as_its_replicas() -> None:
    entry = TABLE.models[0]
    assert model_state(entry, TABLE, loads(Load(), Load("loading"))) == ("ready", 1)
    assert model_state(entry, TABLE, loads(Load("loading"), Load("down"))) == ("loading", 0)
    assert model_state(entry, a_table(R0), loads(Load("failed"), None)) == ("failed", 0)
    assert model_state(replace(entry, problem="x"), a_table(), {}) == ("failed", 0)


def test_retries_are_a_fifth_of_the_traffic_and_at_least_three() -> None:
    budget = RetryBudget()
    assert [budget.take(0.0) for _ in range(4)] == [True, True, True, False]
    for _ in range(50):
        budget.count(1.0)
    assert sum(budget.take(1.0) for _ in range(20)) == 7
    assert not budget.take(11.0)
    assert budget.take(40.0)
