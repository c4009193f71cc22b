"""What a user may get wrong: each is a clear error or a value, never a traceback, and large input is read in time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.inventory_file import parse_inventory
from orchestrator.offline import plan_files
from orchestrator.spec import dump_app, parse_app, pin_notes
from placement.demand import App
from placement.errors import SpecError
from placement.inventory import Inventory
from placement.plan import Infeasible, Plan
from placement.problem import Problem
from placement.solve import solve

ROOT = Path(__file__).parents[2]
FACTS = (
    "{parameters: 8.03e9, layers: 32, hidden: 4096, heads: 32, kv_heads: 8, head_dim: 128, ffn: 14336,"
    " vocab: 128256, window: 8192, architecture: llama}"
)
APP = f"""\
models:
  m:
    source: file:///models/m
    facts: {FACTS}
    context: 1024
    concurrency: 1
"""
INVENTORY = """\
nodes:
  a:
    devices: [{class: NVIDIA_L4_24G, count: 2}]
  b:
    devices: [{class: NVIDIA_A100_80G}]
"""
CARD = "{class: NEW_CARD, memory_gib: 24, memory_gbyte_per_s: 600, tflops: {bf16: 80}, watts: 150}"


def solved(app: str = APP, inventory: str = INVENTORY) -> Plan | Infeasible:
    return solve(
        Problem(
            inventory=parse_inventory(inventory, "inventory.yaml"), app=parse_app(app, "app.yaml")
        )
    )


def constrained(rules: str) -> str:
    return f"{APP}    constraints: {rules}\n"


def constraints_of(result: Plan | Infeasible) -> set[str]:
    assert isinstance(result, Infeasible)
    return {r.constraint for r in result.rejections}


# -- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["0", "-24", ".nan", ".inf", "-.inf", "1e99", "lots", "true", "[]"]
)
@pytest.mark.parametrize("key", ["memory_gib: 24", "memory_gbyte_per_s: 600", "bf16: 80"])
def test_an_impossible_figure_of_a_device_is_named_with_its_line(key: str, value: str) -> None:
    name = key.partition(":")[0]
    text = f"nodes:\n  a:\n    devices:\n      - {CARD.replace(key, f'{name}: {value}')}\n"
    with pytest.raises(SpecError) as caught:
        parse_inventory(text, "inventory.yaml")
    assert caught.value.message.startswith("inventory.yaml:4: nodes.a.devices[0].")
    assert name in caught.value.message


def test_a_processor_needs_memory_wherever_it_is_declared() -> None:
    with pytest.raises(SpecError, match="CPU has no memory of its own") as caught:
        parse_inventory("nodes: {a: {devices: [{class: CPU}]}}", "inventory.yaml")
    assert "memory_gib" in caught.value.hint
    with pytest.raises(SpecError, match="memory_gib"):
        parse_inventory("nodes: {a: {cpu: {cores: 4, memory_gib: 0}}}", "inventory.yaml")


@pytest.mark.parametrize("value", ["0", "-1", ".nan", ".inf"])
@pytest.mark.parametrize("key", ["parameters: 8.03e9", "layers: 32", "heads: 32", "head_dim: 128"])
def test_an_impossible_fact_of_a_model_is_named_with_its_line(key: str, value: str) -> None:
    name = key.partition(":")[0]
    with pytest.raises(SpecError) as caught:
        parse_app(APP.replace(key, f"{name}: {value}"), "app.yaml")
    assert caught.value.message.startswith(f"app.yaml:4: models.m.facts.{name}")


@pytest.mark.parametrize("value", ["-1", ".nan", ".inf", "1e9"])
def test_an_impossible_weight_is_named(value: str) -> None:
    with pytest.raises(SpecError, match=r"app.yaml:1: policy.weights.latency"):
        parse_app(f"policy: {{weights: {{latency: {value}}}}}\n{APP}", "app.yaml")
    with pytest.raises(SpecError, match=r"app.yaml:1: policies.mine.latency"):
        parse_app(f"policies: {{mine: {{latency: {value}}}}}\n{APP}", "app.yaml")


# -- names ----------------------------------------------------------------------------------------------------------


def test_what_is_given_twice_names_both_lines() -> None:
    with pytest.raises(SpecError, match=r"models.m: stands twice, in lines 2 and 7"):
        parse_app(APP + "  m: {source: 'file:///x'}\n", "app.yaml")
    with pytest.raises(SpecError, match=r"nodes.a: stands twice, in lines 2 and 6"):
        parse_inventory(INVENTORY + "  a: {}\n", "inventory.yaml")


def test_duplicate_ids_that_never_were_in_a_file_are_refused() -> None:
    inventory, app = parse_inventory(INVENTORY, "i"), parse_app(APP, "a")
    first = inventory.nodes[0]
    twice = Inventory(nodes=(first, first))
    with pytest.raises(SpecError, match="node a is given twice"):
        solve(Problem(inventory=twice, app=app))
    double = App(name="x", demands=(*app.demands, *app.demands))
    with pytest.raises(SpecError, match="model m is given twice"):
        solve(Problem(inventory=inventory, app=double))


def test_own_policies_have_names_and_survive_being_written_back() -> None:
    text = f"policy: mine\npolicies: {{mine: {{throughput: 1, energy: 0.3}}}}\n{APP}"
    app = parse_app(text, "app.yaml")
    assert (app.policy.name, app.policy.throughput, app.policy.energy) == ("mine", 1, 0.3)
    assert parse_app(dump_app(app), "again") == app
    with pytest.raises(SpecError, match=r"app.yaml:1: policy: no policy is called mien") as caught:
        parse_app(text.replace("policy: mine", "policy: mien"), "app.yaml")
    assert caught.value.hint == "did you mean mine?"
    with pytest.raises(SpecError, match=r"app.yaml:1: policies.cost: .* built-in"):
        parse_app(f"policies: {{cost: {{cost: 1}}}}\n{APP}", "app.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tenants: {research: {max_devices: {NVIDIA_L4_24G: -1}}}", "greater than or equal to 0"),
        ("tenants: {research: {max_device: {}}}", "unknown key"),
        ("tenants: {research: {exclusive_nodes: maybe}}", "boolean"),
        ("tenants: {research: 3}", "mapping"),
    ],
)
def test_a_wrong_tenant_is_named_with_its_line(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=f"app.yaml:1: tenants.research.*{says}"):
        parse_app(f"{text}\n{APP}", "app.yaml")


def test_a_tenant_nobody_declared_and_a_class_nobody_has_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no tenant is called reserch") as caught:
        parse_app(f"tenants: {{research: {{}}}}\n{APP}    tenant: reserch\n", "app.yaml")
    assert caught.value.hint == "did you mean research?"
    spec, inventory = tmp_path / "app.yaml", tmp_path / "inventory.yaml"
    inventory.write_text(INVENTORY)
    spec.write_text(f"tenants: {{research: {{max_devices: {{NVIDIA_L4: 1}}}}}}\n{APP}")
    with pytest.raises(SpecError, match="max_devices: no device class NVIDIA_L4"):
        plan_files(spec, inventory)


# -- device classes -------------------------------------------------------------------------------------------------


def test_an_unknown_class_with_its_figures_is_planned_on_with_a_note() -> None:
    text = f"nodes: {{a: {{devices: [{CARD}]}}}}"
    inventory = parse_inventory(text, "inventory.yaml")
    assert [note.partition(" ")[0] for note in inventory.notes] == ["NEW_CARD"] * 3
    said = " ".join(inventory.notes)
    assert "not in the catalog" in said
    assert "no `vendor`" in said
    assert "no price_per_hour, link_gbyte_per_s: counted as 0" in said
    result = solved(inventory=text)
    assert isinstance(result, Plan)
    assert [(s.device_class, s.engine) for s in result.slots] == [("NEW_CARD", "vllm")]


def test_a_class_of_the_catalog_needs_no_note() -> None:
    assert parse_inventory(INVENTORY, "inventory.yaml").notes == ()


def test_an_unknown_class_without_figures_names_those_that_are_needed() -> None:
    with pytest.raises(SpecError, match="NEW_CARD is not in the catalog") as caught:
        parse_inventory("nodes: {a: {devices: [{class: NEW_CARD, count: 2}]}}", "inventory.yaml")
    assert "memory_gib, memory_gbyte_per_s, tflops" in caught.value.hint


# -- what cannot be placed is a value -------------------------------------------------------------------------------


def test_a_pin_to_a_node_that_is_not_there_is_refused_and_noted() -> None:
    text = constrained("{pin: {node: [aa]}}")
    assert "pins" in constraints_of(solved(text))
    inventory = parse_inventory(INVENTORY, "inventory.yaml")
    (note,) = pin_notes(parse_app(text, "app.yaml"), [n.id for n in inventory.nodes])
    assert note == "models.m.constraints.pin: no node is called aa; did you mean a?"
    assert pin_notes(parse_app(constrained("{pin: {node: [a]}}"), "app.yaml"), ["a", "b"]) == ()


def test_a_pin_to_a_node_whose_every_class_is_banned_is_infeasible() -> None:
    text = constrained("{pin: {node: [a]}, banned_hardware: [NVIDIA_L4_24G]}")
    assert {"pins"} <= constraints_of(solved(text))
    result = solved(constrained("{pin: {node: [b]}, banned_hardware: [NVIDIA_L4_24G]}"))
    assert isinstance(result, Plan)


def test_heads_that_a_group_does_not_divide_are_refused() -> None:
    odd = APP.replace("heads: 32, kv_heads: 8", "heads: 9, kv_heads: 3").replace("8.03e9", "16e9")
    result = solved(odd, "nodes: {a: {devices: [{class: NVIDIA_L4_24G, count: 8}]}}")
    if isinstance(result, Plan):
        assert all(9 % slot.tp == 0 for slot in result.slots)
    reasons = {r.reason for r in result.rejections}
    assert any("9 heads do not divide over tp" in reason for reason in reasons)


def test_a_model_that_fits_nowhere_says_by_how_much() -> None:
    huge = APP.replace("8.03e9", "4e12")
    result = solved(huge)
    assert "memory" in constraints_of(result)
    assert all(r.shortage > 0 for r in result.rejections if r.constraint == "memory")


def test_an_inventory_without_devices_is_a_value_and_one_without_nodes_an_error() -> None:
    assert "inventory" in constraints_of(solved(inventory="nodes: {a: {}}"))
    with pytest.raises(SpecError, match="nodes: is required"):
        parse_inventory("", "inventory.yaml")
    with pytest.raises(SpecError, match="should have at least 1 item"):
        parse_inventory("nodes: {}", "inventory.yaml")
    nothing = Problem(inventory=Inventory(), app=parse_app(APP, "app.yaml"))
    assert isinstance(solve(nothing), Infeasible)


# -- size and installation ------------------------------------------------------------------------------------------


def test_ten_thousand_nodes_and_a_thousand_models_are_read() -> None:
    node = "{rack: r1, devices: [{class: NVIDIA_L4_24G, count: 8}]}"
    nodes = "".join(f"  n{k}: {node}\n" for k in range(10_000))
    inventory = parse_inventory(f"nodes:\n{nodes}", "inventory.yaml")
    assert sum(len(n.devices) for n in inventory.nodes) == 80_000
    model = APP.partition("  m:\n")[2]
    models = "".join(f"  m{k}:\n{model}" for k in range(1000))
    assert len(parse_app(f"models:\n{models}", "app.yaml").demands) == 1000


def test_the_other_library_of_the_same_name_gives_one_clear_message(tmp_path: Path) -> None:
    fake = tmp_path / "constraint"
    fake.mkdir()
    (fake / "__init__.py").write_text("class Problem: pass\nclass BacktrackingSolver: pass\n")
    spec, inventory = tmp_path / "app.yaml", tmp_path / "inventory.yaml"
    spec.write_text(APP)
    inventory.write_text(INVENTORY)
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from orchestrator.cli import main\n"
        f"main(['plan', '--inventory', {str(inventory)!r}, {str(spec)!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "error: the package `constraint` is not the one of python-constraint2" in done.stderr
    assert "pip uninstall -y python-constraint" in done.stderr
