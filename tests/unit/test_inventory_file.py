"""What an inventory file may say, and that writing one back plans the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.inventory_dump import dump_inventory
from orchestrator.inventory_file import load_inventory, parse_inventory
from orchestrator.lab_file import load_lab
from placement.catalog import catalog
from placement.devices import Health
from placement.errors import SpecError
from placement.ids import DeviceId, NodeId

EXAMPLES = Path(__file__).parents[2] / "examples"

FULL = """\
generation: 12
nodes:
  gpu-2:
    rack: r1
    cpu: {cores: 64, memory_gib: 1024}
    devices:
      - {class: NVIDIA_H100_80G, count: 4, islands: [[0, 1], [2, 3]], unhealthy: [3]}
      - {class: NVIDIA_H100_80G, emulated: true}
  npu-1:
    rack: r2
    cordoned: true
    devices:
      - {class: MY_CARD, count: 2, memory_gib: 24, memory_gbyte_per_s: 600, tflops: {fp16: 80, int8: 160}, watts: 150}
    artifacts: [{model: llama70, class: MY_CARD, tp: 2}]
    engines: [vllm]
    models: [{source: "file:///m", present: false, reason: no such file, hint: copy it}]
  npu-2:
    emulated: true
    devices:
      - {class: MY_CARD}
links:
  - {between: nodes, gbit_per_s: 100, latency_us: 20}
  - {between: [gpu-2, npu-1], gbit_per_s: 400}
"""


def refusal(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_inventory(text, "lab.yaml")
    return caught.value


def changed(old: str, new: str) -> str:
    assert old in FULL
    return FULL.replace(old, new, 1)


def test_devices_count_over_the_list_and_the_cpu_is_a_device() -> None:
    inventory = parse_inventory(FULL, "lab.yaml")
    node = inventory.node(NodeId("gpu-2"))
    assert node is not None
    assert [d.id for d in node.devices] == [f"gpu-2/{k}" for k in (0, 1, 2, 3, 4, "cpu0")]
    assert [d.island for d in node.devices[:5]] == [0, 0, 1, 1, 2]
    assert node.devices[3].health is Health.LOST
    assert node.devices[5].device_class == "CPU"
    assert (node.devices[5].shares, node.cores) == (64, 64)
    assert node.memory_bytes == 1024 * 1024**3
    assert inventory.generation == 12


def test_an_entry_or_a_node_is_emulated() -> None:
    inventory = parse_inventory(FULL, "lab.yaml")
    emulated = {d.id for n in inventory.nodes for d in n.devices if d.emulated}
    assert emulated == {DeviceId("gpu-2/4"), DeviceId("npu-2/0")}


def test_a_class_of_the_users_own_needs_its_figures_once() -> None:
    inventory = parse_inventory(FULL, "lab.yaml")
    (own,) = inventory.classes
    assert (own.name, own.bandwidth_bytes_per_s, own.power_w) == ("MY_CARD", 600e9, 150)
    assert dict(own.flops) == {"fp16": 80e12, "int8": 160e12}
    assert inventory.device(DeviceId("npu-2/0")).memory_bytes == 24 * 1024**3  # type: ignore[union-attr]


def test_the_order_in_which_figures_are_written_makes_no_other_class() -> None:
    again = "{class: MY_CARD, memory_gib: 24, memory_gbyte_per_s: 600, tflops: {int8: 160, fp16: 80}, watts: 150}"
    inventory = parse_inventory(changed("- {class: MY_CARD}", f"- {again}"), "lab.yaml")
    assert [c.name for c in inventory.classes] == ["MY_CARD"]


def test_what_a_node_says_of_itself_is_read() -> None:
    node = parse_inventory(FULL, "lab.yaml").node(NodeId("npu-1"))
    assert node is not None
    assert node.cordoned
    assert node.engines == frozenset({"vllm"})
    assert node.artifacts[0].tp == 2
    presence = node.presence("file:///m")
    assert presence is not None
    assert (presence.present, presence.reason) == (False, "no such file")


def test_links_are_converted() -> None:
    first, second = parse_inventory(FULL, "lab.yaml").links
    assert (first.between, first.bytes_per_s, first.latency_s) == ("nodes", 12.5e9, 20e-6)
    assert second.between == ("gpu-2", "npu-1")


@pytest.mark.parametrize(
    ("old", "new", "line", "says", "hint"),
    [
        ("class: NVIDIA_H100_80G, count", "class: NVIDA_H100_80G, count", 7,
         "NVIDA_H100_80G is not in the catalog", "did you mean NVIDIA_H100_80G? Otherwise give its facts"),
        ("count: 4", "cuont: 4", 7, "nodes.gpu-2.devices[0].cuont: unknown key", "count?"),
        ("cordoned:", "cordonned:", 11, "nodes.npu-1.cordonned: unknown key", "cordoned?"),
        ("nodes:\n", "ndoes:\n", 2, "ndoes: unknown key", "nodes?"),
        ("count: 4", "count: -4", 7, "greater than or equal to 1", ""),
        ("unhealthy: [3]", "unhealthy: [4]", 7, "position 4 of 4 devices", ""),
        ("cores: 64", "cores: 0", 5, "nodes.gpu-2.cpu.cores", ""),
        ("memory_gib: 24", "memory_gib: -24", 13, "memory_gib", ""),
        ("emulated: true}", "emulated: 7}", 8, "should be true or false, not 7", ""),
        ("tflops: {fp16: 80, int8: 160}", "tflops: {}", 13, "should have at least 1 item", ""),
        ("memory_gbyte_per_s: 600", "memory_gbyte_per_s: 1e-99", 13, "equal to 0.000001", ""),
        ("- {class: MY_CARD}", "- {class: MY_CARD, tflops: {fp16: 1}}", 19, "other figures", "two names"),
        ("between: nodes", "between: nodez", 22, "not nodez", ""),
        ("[gpu-2, npu-1]", "[gpu-2, npu-9]", 23, "no node is called npu-9", "npu-"),
        ("[gpu-2, npu-1]", "[[gpu-2], npu-1]", 23, "no node is called", ""),
        ("gbit_per_s: 100", "gbit_per_s: 0", 22, "greater than 0, not 0", ""),
        ("generation: 12", "generation: -1", 1, "greater than or equal to 0, not -1", ""),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_line(
    old: str, new: str, line: int, says: str, hint: str
) -> None:
    error = refusal(changed(old, new))
    assert says in error.message
    assert error.message.startswith(f"lab.yaml:{line}: ")
    assert hint in error.hint


def test_an_empty_inventory_is_refused() -> None:
    assert "nodes: is required" in refusal("").message


def test_an_inventory_written_back_reads_the_same() -> None:
    inventory = parse_inventory(FULL, "lab.yaml")
    assert parse_inventory(dump_inventory(inventory), "again") == inventory


def test_a_missing_position_is_written_as_unhealthy_so_that_ids_stay() -> None:
    from dataclasses import replace

    inventory = parse_inventory(FULL, "lab.yaml")
    node = inventory.nodes[0]
    without = replace(node, devices=tuple(d for d in node.devices if d.id != "gpu-2/1"))
    again = parse_inventory(dump_inventory(replace(inventory, nodes=(without,), links=())), "again")
    healthy = [d.id for d in again.nodes[0].devices if d.health is Health.HEALTHY]
    assert healthy == ["gpu-2/0", "gpu-2/2", "gpu-2/4", "gpu-2/cpu0"]


CLASSES = sorted(name for name, known in catalog().items() if known.kind != "cpu")
ENTRIES = st.integers(1, 6).flatmap(
    lambda count: st.fixed_dictionaries(
        {"class": st.sampled_from(CLASSES), "count": st.just(count)},
        optional={
            "unhealthy": st.lists(st.integers(0, count - 1), unique=True),
            "islands": st.just(
                [list(range(count))[: count // 2], list(range(count))[count // 2 :]]
            ),
            "memory_gib": st.floats(0.5, 500),
            "emulated": st.booleans(),
        },
    )
)
NODES = st.fixed_dictionaries(
    {"devices": st.lists(ENTRIES, max_size=4)},
    optional={
        "rack": st.sampled_from(["", "r1"]),
        "cpu": st.fixed_dictionaries(
            {"cores": st.integers(1, 256), "memory_gib": st.floats(0.5, 4096)}
        ),
        "cordoned": st.booleans(),
        "emulated": st.booleans(),
    },
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), NODES, min_size=1, max_size=4))
def test_any_inventory_survives_a_round_trip(nodes: dict[str, object]) -> None:
    import yaml

    inventory = parse_inventory(yaml.safe_dump({"nodes": nodes}), "generated")
    text = dump_inventory(inventory)
    again = parse_inventory(text, "again")
    assert [n.id for n in again.nodes] == [n.id for n in inventory.nodes]
    assert dump_inventory(again) == text
    for before, after in zip(inventory.nodes, again.nodes, strict=True):
        assert [
            (d.id, d.device_class, d.memory_bytes, d.health, d.emulated) for d in before.devices
        ] == [(d.id, d.device_class, d.memory_bytes, d.health, d.emulated) for d in after.devices]


def test_a_lab_is_an_inventory_whose_nodes_are_emulated() -> None:
    lab = load_lab(EXAMPLES / "mixed-lab" / "lab.yaml")
    assert lab.spec == EXAMPLES / "mixed-lab" / "app.yaml"
    assert all(d.emulated for n in lab.inventory.nodes for d in n.devices)
    kinds = {d.device_class for n in lab.inventory.nodes for d in n.devices}
    assert kinds == {"NVIDIA_H100_80G", "RBLN_ATOM", "FURIOSA_RNGD", "CPU"}
    assert {node.id for node in lab.nodes} == {node.id for node in lab.inventory.nodes}


def test_a_lab_with_real_hardware_is_refused() -> None:
    with pytest.raises(SpecError, match="a lab starts emulated nodes only"):
        load_lab(EXAMPLES / "mixed-lab" / "inventory.yaml")


def test_the_declaration_of_a_lab_node_gives_its_devices() -> None:
    from actors.declared import devices_of

    lab = load_lab(EXAMPLES / "mixed-lab" / "lab.yaml")
    for node in lab.nodes:
        found, _ = devices_of(node.id, node.declaration, catalog(), emulated=True)
        known = lab.inventory.node(node.id)
        assert known is not None
        assert found == known.devices


def test_the_example_inventory_is_read() -> None:
    assert len(load_inventory(EXAMPLES / "mixed-lab" / "inventory.yaml").nodes) == 5


def test_a_degraded_device_stays_degraded_in_what_is_written_back():
    text = (
        "nodes:\n  n:\n    devices: [{class: RBLN_ATOM, count: 3, unhealthy: [0], degraded: [2]}]\n"
    )
    read = parse_inventory(text, "x.yaml")
    healths = [d.health for d in read.nodes[0].devices]
    assert healths == [Health.LOST, Health.HEALTHY, Health.DEGRADED]
    assert parse_inventory(dump_inventory(read), "y.yaml").nodes == read.nodes


def test_a_degraded_position_that_is_not_there_is_named():
    text = "nodes:\n  n:\n    devices: [{class: RBLN_ATOM, degraded: [1]}]\n"
    with pytest.raises(SpecError, match=r"degraded: position 1 of 1 devices"):
        parse_inventory(text, "x.yaml")


ENGINES = """
nodes:
  n:
    cpu: {cores: 2, memory_gib: 8}
    models: [{source: "file:///m", forms: [{format: safetensors}, {format: onnx, dtype: int4}]}]
engines:
  theirs: {drives: [generic/cpu], yields: [generic/cpu], dtypes: [fp32], offers: [seed], overhead_gib: 1.5}
"""


def test_engines_and_forms_survive_a_round_trip() -> None:
    read = parse_inventory(ENGINES, "x.yaml")
    (theirs,) = read.engines
    assert (theirs.name, theirs.dtypes, theirs.overhead_bytes) == ("theirs", ("fp32",), 3 << 29)
    assert read.nodes[0].models is not None
    assert [(f.format, f.dtype) for f in read.nodes[0].models[0].forms] == [
        ("safetensors", None),
        ("onnx", "int4"),
    ]
    assert parse_inventory(dump_inventory(read), "again") == read


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("theirs:", "openvino:", "engine of the catalog"),
        ("[generic/cpu], yields", "[CPU], yields", "engines.theirs.drives"),
        ("[seed]", "[vision]", "engines.theirs.offers"),
        ("dtype: int4", "dtype: int3", "forms"),
    ],
)
def test_engines_and_forms_that_make_no_sense_are_refused(
    before: str, after: str, says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        parse_inventory(ENGINES.replace(before, after), "x.yaml")
