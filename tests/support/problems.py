"""Hypothesis strategies: small placement problems in which every hard rule can bind."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from support.labs import LLAMA_8B, SMOLLM2, app, cpu, demand, devices, inventory, node

from placement import Problem
from placement.demand import App, Budgets, Demand, Tenant
from placement.engine_facts import EngineFacts
from placement.ids import NodeId
from placement.inventory import Artifact, Inventory, ModelForm, ModelPresence, Node
from placement.layout import layer_ranges
from placement.plan import Plan, Slot
from placement.policy import POLICIES

CLASSES = ("NVIDIA_L4_24G", "NVIDIA_T4_16G", "RBLN_ATOM", "NVIDIA_A100_40G")
ENGINES = frozenset({"vllm", "openvino", "onnxruntime", "rbln", "emulated", "theirs"})
THEIRS = EngineFacts(
    name="theirs",
    drives=frozenset({"nvidia/gpu/NVIDIA_T4_16G", "generic/cpu"}),
    yields=frozenset({"generic/cpu"}),
    dtypes=("fp16", "int4"),
    offers=frozenset({"logprobs"}),
    tp=(1, 2),
)
"""An engine that the catalog does not have."""
FORMS = {
    "cpu": (
        (),
        (),
        (ModelForm(format="gguf"), ModelForm(format="onnx", dtype="int4")),
        (ModelForm(format="onnx", dtype="fp32"), ModelForm(format="onnx", dtype="int4")),
    ),
    "any": ((), (), (ModelForm(format="safetensors"),)),
}
NODES = ("n0", "n1", "n2")
MODELS = ("m1", "m2")


@st.composite
def nodes(draw, name: str) -> Node:
    """A node of one or two accelerators of a class, or of a small CPU; now and then sick, cordoned or emulated."""
    kind = draw(st.sampled_from((*CLASSES, "cpu")))
    rack = draw(st.sampled_from(("r1", "r2")))
    emulated = draw(st.booleans()) and draw(st.booleans())
    cordoned = draw(st.integers(0, 9)) == 0
    if kind == "cpu":
        found = cpu(
            name, draw(st.sampled_from((1, 2))), draw(st.sampled_from((4, 40))), emulated=emulated
        )
    else:
        count = draw(st.sampled_from((1, 2, 2, 3)))
        found = devices(
            name,
            kind,
            count,
            islands=((0, 1), (2,)) if count == 3 else (),
            unhealthy=(0,) if draw(st.integers(0, 7)) == 0 else (),
            emulated=emulated,
        )
        if draw(st.integers(0, 5)) == 0:
            slow = draw(st.sampled_from((0.25, 0.5, 0.75)))
            found = (replace(found[0], speed=slow), *found[1:])
    compiled = draw(st.sampled_from((0, 0, 1, 2))) if kind == "RBLN_ATOM" else 0
    told = draw(st.sampled_from(FORMS["cpu" if kind == "cpu" else "any"]))
    models = tuple(
        ModelPresence(
            source=f"file:///models/{model}", present=True, forms=told if model == "m1" else ()
        )
        for model in MODELS
    )
    held = (Artifact(model="m1", device_class=kind, tp=compiled),) if compiled else ()
    return node(
        name, found, rack=rack, cordoned=cordoned, artifacts=held, models=models if told else None
    )


@st.composite
def inventories(draw) -> Inventory:
    """One to three nodes; now and then with an engine of somebody else's."""
    found = inventory(*(draw(nodes(name)) for name in NODES[: draw(st.integers(1, 3))]))
    return replace(found, engines=draw(st.sampled_from(((), (), (THEIRS,)))))


@st.composite
def demands(draw, name: str) -> Demand:
    """A small or a middling model, with rules of its own."""
    low = draw(st.integers(0, 2))
    return demand(
        name,
        draw(st.sampled_from((SMOLLM2, LLAMA_8B))),
        (low, max(low, draw(st.integers(1, 2)))),
        context=draw(st.sampled_from((512, 4096))),
        concurrency=draw(st.sampled_from((1, 8))),
        spread=draw(st.sampled_from(("none", "node", "rack"))),
        engines=ENGINES,
        arithmetic=draw(st.sampled_from(("fast", "fast", "fast", "exact"))),
        requires=draw(
            st.sampled_from(
                (frozenset(), frozenset(), frozenset({"seed"}), frozenset({"logprobs"}))
            )
        ),
        priority=draw(st.integers(0, 3)),
        preferred=draw(st.sampled_from((frozenset(), frozenset({"NVIDIA_T4_16G"})))),
        banned=draw(st.sampled_from((frozenset(), frozenset(), frozenset({"NVIDIA_L4_24G"})))),
        tenant=draw(st.sampled_from(("a", "b"))),
        power_budget_w=draw(st.sampled_from((None, None, 100.0))),
        min_tokens_per_s=draw(st.sampled_from((None, None, 300.0))),
        max_price_per_hour=draw(st.sampled_from((None, None, 1.0))),
        max_ttft_s=draw(st.sampled_from((None, None, 0.5))),
        pin_nodes=draw(st.sampled_from((None, None, frozenset({NodeId("n0")})))),
    )


@st.composite
def apps(draw) -> App:
    """One or two models, budgets and a tenant with limits."""
    asked = tuple(draw(demands(name)) for name in MODELS[: draw(st.integers(1, 2))])
    return app(
        *asked,
        policy=draw(st.sampled_from(tuple(POLICIES))),
        budgets=Budgets(
            cluster_w=draw(st.sampled_from((None, None, 200.0))),
            node_w=draw(st.sampled_from((None, None, 120.0))),
            rack_w=draw(st.sampled_from((None, None, 120.0))),
        ),
        tenants=(
            Tenant(
                name="a",
                max_devices=draw(st.sampled_from(((), (("NVIDIA_L4_24G", 1),)))),
                exclusive_nodes=draw(st.integers(0, 3)) == 0,
            ),
        ),
    )


@st.composite
def problems(draw) -> Problem:
    """What can be solved by trying everything."""
    return Problem(inventory=draw(inventories()), app=draw(apps()))


def renamed(problem: Problem, new: dict[str, str]) -> Problem:
    """The same problem with other names of nodes (hence devices) and models; names that are not in `new` stay."""
    return replace(
        problem,
        inventory=replace(
            inventory(*(_renamed_node(n, new) for n in problem.inventory.nodes)),
            engines=problem.inventory.engines,
        ),
        app=replace(
            problem.app, demands=tuple(_renamed_demand(d, new) for d in problem.app.demands)
        ),
    )


def _renamed_node(whole: Node, new: dict[str, str]) -> Node:
    name = NodeId(new.get(whole.id, whole.id))
    own = tuple(
        replace(d, node=name, id=type(d.id)(f"{name}/{d.id.partition('/')[2]}"))
        for d in whole.devices
    )
    held = tuple(replace(a, model=new.get(a.model, a.model)) for a in whole.artifacts)
    return replace(whole, id=name, devices=own, artifacts=held)


def _renamed_demand(asked: Demand, new: dict[str, str]) -> Demand:
    pins = asked.pin_nodes
    return replace(
        asked,
        model=replace(asked.model, id=type(asked.id)(new.get(asked.id, asked.id))),
        pin_nodes=None if pins is None else frozenset(NodeId(new.get(n, n)) for n in pins),
    )


def plain(problem: Problem, plan: Plan) -> bool:
    """Whether the oracles know every layout that a plan uses: equal layer ranges on one device class."""
    return all(_even(problem, slot) for slot in plan.slots)


def _even(problem: Problem, slot: Slot) -> bool:
    facts = next(d.model.facts for d in problem.app.demands if d.id == slot.model)
    assert facts is not None
    found = [problem.inventory.device(device) for device in slot.devices]
    return (
        tuple(stage.layers for stage in slot.stages) == layer_ranges(facts.layers, slot.pp)
        and len({device.device_class for device in found if device is not None}) == 1
    )
