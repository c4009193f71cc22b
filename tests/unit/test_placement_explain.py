"""Explanations: prices and shortages in words, and large outputs that stay readable."""

from __future__ import annotations

from support.labs import LLAMA_8B, LLAMA_70B, app, demand, devices, inventory, node

from placement import Infeasible, Plan, Problem, solve
from placement.explain import explain, front_sentences, price_sentence
from placement.front_point import FrontPoint
from placement.ids import ModelId
from placement.plan import Addition, Rejection
from placement.row_words import shortage, unit


def planned() -> Plan:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 2)))
    asked = (demand(f"m{k}", LLAMA_8B, (0, 1), context=1024, concurrency=1) for k in range(3))
    result = solve(Problem(inventory=inv, app=app(*asked)))
    assert isinstance(result, Plan)
    return result


def test_a_price_is_said_in_words_and_compared() -> None:
    plan = planned()
    (said,) = [s for s in explain(plan).sentences if "would be worth" in s]
    assert said.startswith("One more NVIDIA_L4_24G would be worth ")
    assert "of an average replica" in said or "average replicas" in said


def test_prices_compare_with_a_replica() -> None:
    assert price_sentence("devices:A", 3.0, 1.5).endswith("as much as 2.0 average replicas")
    assert price_sentence("power:cluster", 0.001, 1.5) == (
        "100 W more for the cluster would be worth 0.001"
    )


def test_a_model_hears_only_of_what_it_pays_for() -> None:
    plan = planned()
    lost = next(name for name in ("m0", "m1", "m2") if f"{name}/r0" in plan.unplaced)
    assert not [s for s in explain(plan, lost).sentences if "would be worth" in s]
    kept = plan.slots[0].model
    assert [s for s in explain(plan, kept).sentences if "would be worth" in s]


def test_row_names_of_every_form_have_words() -> None:
    said = {
        "devices:X": "one more X",
        "devices:X#2": "one more X (its pool no. 2)",
        "devices:X:tp4": "one more group of 4 X that share an island",
        "devices:X:parts1": "one more part of a X large enough for one of 2 equal parts",
        "power:cluster": "100 W more for the cluster",
        "power:racks": "100 W more for the racks",
        "power:nodes:X": "100 W more for the nodes with X",
        "power:llama": "100 W more for llama",
        "price:llama": "1 more per hour for llama",
        "tenant:research:X": "one more X in the quota of tenant research",
        "spread:llama": "one more node or rack for llama to spread over",
        "throughput:llama": "asking for one of the tokens/s of llama less",
        "own:row": "one more of own:row",
    }
    assert {row: unit(row).one for row in said} == said
    assert shortage("power:cluster", 120.2) == "121 W for the cluster"
    assert shortage("price:llama", 1.25) == "1.25 per hour for llama"


def rejection(model: str, shortage: float, **rest: object) -> Rejection:
    return Rejection(
        model=model, constraint="memory", reason="too large", shortage=shortage, **rest
    )


def test_many_losses_are_put_together_by_rule_and_class() -> None:
    losses = tuple(
        rejection(f"m{k}", float(k), device_class=name) for k in range(1, 61) for name in ("A", "B")
    )
    failed = Infeasible(generation=0, policy="cost", seed=0, conflict=("m1",), rejections=losses)
    said = explain(failed).sentences
    assert len(said) == 3
    assert said[1].startswith("m1 not on A: memory: too large; likewise 59 more models")
    assert len(explain(failed, "m7").sentences) == 3
    assert explain(failed, "m7").sentences[1] == "m7 not on A: memory: too large"


def test_copies_that_look_alike_are_said_once_when_there_are_many() -> None:
    inv = inventory(*(node(f"n{k:02}", devices(f"n{k:02}", "NVIDIA_L4_24G", 1)) for k in range(30)))
    asked = app(demand("m", LLAMA_8B, 30, context=1024, concurrency=1))
    plan = solve(Problem(inventory=inv, app=asked))
    assert isinstance(plan, Plan)
    said = [s for s in explain(plan).sentences if s.startswith("m/r")]
    assert len(said) == 1
    assert said[0].endswith("; the same for 29 more copies")
    assert len([s for s in explain(plan, "m").sentences if s.startswith("m/r")]) == 30


def test_additions_are_said_with_what_to_type() -> None:
    failed = Infeasible(
        generation=0,
        policy="cost",
        seed=0,
        conflict=("m",),
        additions=(Addition(what_if="+1 A@n", says="1 more A on n"),),
    )
    assert explain(failed).sentences[-1] == 'This would help: 1 more A on n (--what-if "+1 A@n")'


def test_a_front_is_listed_by_depth_with_the_chosen_layout_marked() -> None:
    def point(stages: int, flow: float, decode: float, *, chosen: bool = False) -> FrontPoint:
        return FrontPoint(
            stages=stages,
            flow_tokens_per_s=flow,
            decode_tokens_per_s=decode,
            ttft_s=2.59,
            token_s=0.75,
            chosen=chosen,
        )

    model = ModelId("m")
    heading, shallow, deep = front_sentences(
        model, [point(24, 2045.64, 222.0), point(12, 1392.6, 275.4, chosen=True)]
    )
    assert "by depth" in heading
    assert shallow.startswith("  * 12 stages: flow 1392.6 tokens/s, decode 275.4 tokens/s")
    assert shallow.endswith("(chosen)")
    assert "24 stages" in deep
    assert front_sentences(model, ()) == ()
    plan, fronts = planned(), {model: [point(1, 1.0, 1.0)]}
    assert heading in explain(plan, fronts=fronts).sentences
    assert heading not in explain(plan, "other", fronts=fronts).sentences


def test_a_conflict_of_many_is_named_shortly() -> None:
    names = tuple(f"m{k}" for k in range(40))
    failed = Infeasible(generation=0, policy="cost", seed=0, conflict=names)
    said = explain(failed).sentences[0]
    assert said.endswith("m11 and 28 more cannot be placed together")


def test_a_loss_names_rule_figures_and_nearest_miss() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 2)))
    result = solve(Problem(inventory=inv, app=app(demand("m", LLAMA_70B, (0, 1)))))
    assert isinstance(result, Plan)
    assert any("memory: needs " in s and "NVIDIA_L4_24G" in s for s in explain(result).sentences)
