"""The Ascend probe on recorded machines, and on tables that are cut, coloured or nonsense."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hosts import in_memory, recorded

from actors.host import command_name
from actors.probe import Absent, Broken, Found
from actors.probes.ascend import AscendProbe
from actors.readers.npu_smi import logical_ids, overview, topology
from actors.tools import Completed
from placement.devices import Health
from placement.ids import NodeId
from placement.interconnect import LinkKind
from placement.units import GIB, MIB

NODE = NodeId("n")
INFO, MAPPING, TOPOLOGY = (
    command_name(["npu-smi", *words.split()]) for words in ("info", "info -m", "info -t topo")
)


def found(host) -> Found:
    outcome = AscendProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def changed(name: str, edit, of: str = INFO):
    host = in_memory("ascend", name)
    text = host.tools[of]
    assert isinstance(text, str)
    return host.but({}, tools={**host.tools, of: edit(text)})


def test_chips_given_to_a_container_keep_their_addresses_and_count_from_zero():
    outcome = found(recorded("ascend", "captured-910b2c-4"))
    assert [(a.identity, a.handle) for a in outcome.accelerators] == [
        ("ascend:@0000:d9:00.0", "0"),
        ("ascend:@0000:98:00.0", "1"),
        ("ascend:@0000:b9:00.0", "2"),
        ("ascend:@0000:c9:00.0", "3"),
    ]
    one = outcome.accelerators[0]
    assert (one.product, one.device_class) == ("Ascend 910B2C", "ASCEND_910B2_64G")
    assert (one.memory_bytes, one.driver, one.health) == (64 * GIB, "23.0.3", Health.HEALTHY)
    assert "info -m" in outcome.broken[0].reason, "assumed handles are said to be assumed"


def test_a_card_of_two_dies_is_two_devices_and_its_power_counts_once():
    host = recorded("ascend", "captured-910c-16")
    outcome = found(host)
    assert len(outcome.accelerators) == 16
    assert {a.device_class for a in outcome.accelerators} == {"ASCEND_910C_DIE_64G"}
    assert outcome.links is not None
    assert {link.kind for link in outcome.links.values()} == {LinkKind.SAME}
    assert len(outcome.links) == 8
    readings = AscendProbe().poll(host, outcome)
    assert [readings[a.identity].power_w for a in outcome.accelerators[:3]] == [178.9, None, 186.1]
    assert sum(r.power_w or 0.0 for r in readings.values()) == pytest.approx(1458.4)


def test_dies_and_switches_of_a_topology_table():
    host = in_memory("ascend", "captured-910c-16")
    names = [f"Phy-ID{k}" for k in range(16)]
    rows = [" ".join([one, *(word(k, j) for j in range(16))]) for k, one in enumerate(names)]
    table = "\n".join([" ".join(names), *rows, "", "Legend:", "SIO = Path traversing the SIO bus"])
    outcome = found(host.but({}, tools={**host.tools, TOPOLOGY: table}))
    assert outcome.links is not None
    kinds = [link.kind for link in outcome.links.values()]
    assert (kinds.count(LinkKind.SAME), kinds.count(LinkKind.DIRECT)) == (8, 112)


def word(one: int, other: int) -> str:
    if one == other:
        return "X"
    return "SIO" if one // 2 == other // 2 else "HCCS_SW"


def test_memory_without_hbm_is_what_the_chip_shares():
    host = recorded("ascend", "captured-310p3-2")
    outcome = found(host)
    one, other = outcome.accelerators
    assert (one.device_class, one.memory_bytes) == ("ASCEND_310P_24G", 21527 * MIB)
    reading = AscendProbe().poll(host, outcome)[other.identity]
    assert reading.memory_used_bytes == 1764 * MIB
    assert reading.power_w is None, "NA is not 0 W"
    assert (reading.temperature_c, reading.utilisation) == (48.0, 0.0)


def test_a_mesh_is_told_by_the_topology_table():
    outcome = found(recorded("ascend", "synthetic-910b2-8"))
    assert outcome.links is not None
    assert len(outcome.links) == 28
    assert {link.kind for link in outcome.links.values()} == {LinkKind.DIRECT}
    assert outcome.broken == ()
    assert [a.numa_node for a in outcome.accelerators] == [6, 0, 6, 0, 4, 2, 4, 2]


def test_the_handle_is_the_logical_id_not_the_card_number():
    def edit(text: str) -> str:
        return (
            text.replace("\t0   ", "\t9   ").replace("\t1   ", "\t0   ").replace("\t9   ", "\t1   ")
        )

    outcome = found(changed("synthetic-910b2-8", edit, of=MAPPING))
    assert [(a.pci, a.handle) for a in outcome.accelerators][:2] == [
        ("0000:c1:00.0", "1"),
        ("0000:01:00.0", "0"),
    ]


def test_identities_stay_when_cards_are_listed_in_another_order():
    def reverse(text: str) -> str:
        lines = text.splitlines()
        first = next(k for k, line in enumerate(lines) if "910B2C" in line)
        cards = [lines[first + 3 * k : first + 3 * k + 3] for k in range(4)]
        return "\n".join([*lines[:first], *(line for card in reversed(cards) for line in card)])

    host = recorded("ascend", "captured-910b2c-4")
    outcome = found(host)
    moved = found(changed("captured-910b2c-4", reverse))
    assert {a.identity for a in moved.accelerators} == {a.identity for a in outcome.accelerators}


@pytest.mark.parametrize(
    ("word", "health"),
    [
        ("OK", Health.HEALTHY),
        ("Warning", Health.DEGRADED),
        ("Alarm", Health.DEGRADED),
        ("Critical", Health.LOST),
        ("UNKNOWN", Health.LOST),
        ("Offline", Health.LOST),
    ],
)
def test_the_health_column(word, health):
    host = changed("captured-910b2c-4", lambda text: text.replace("| OK ", f"| {word} ", 1))
    outcome = found(host)
    first, second, *_ = outcome.accelerators
    assert (first.health, second.health) == (health, Health.HEALTHY)
    assert bool(first.evidence) == (health is not Health.HEALTHY)
    faults = AscendProbe().poll(host, outcome)[first.identity].faults
    assert any(word in fault for fault in faults) == (health is not Health.HEALTHY)


def coloured(text: str) -> str:
    return "\ufeff\x1b[1;32m" + text.replace("OK", "\x1b[32mOK\x1b[0m").replace("\n", "\r\n")


def narrow(text: str) -> str:
    return "\n".join(
        " | ".join(part.strip() for part in line.split("|")) for line in text.split("\n")
    )


@pytest.mark.parametrize("edit", [coloured, narrow])
def test_the_layout_of_a_table_does_not_matter(edit):
    plainly = found(recorded("ascend", "captured-910b2c-4")).accelerators
    assert found(changed("captured-910b2c-4", edit)).accelerators == plainly


def recorded_text(name: str) -> str:
    text = in_memory("ascend", name).tools[INFO]
    assert isinstance(text, str)
    return text


def test_a_card_that_is_listed_once_with_two_chips_is_two_chips():
    text = (
        "| NPU   Name      | Health | Power(W)  Temp(C)  Hugepages-Usage(page) |\n"
        "| Chip  Phy-ID    | Bus-Id | AICore(%) Memory-Usage(MB) HBM-Usage(MB) |\n"
        "| 1     Ascend910 | OK     | 150.0     44       0 / 0 |\n"
        "| 0     2         | 0000:9E:00.0 | 0   0 / 0   3343 / 65536 |\n"
        "| 1     3         | 0000:9F:00.0 | 7   0 / 0   3343 / 65536 |\n"
    )
    first, second = overview(text).chips
    assert [(c.npu, c.chip, c.physical) for c in (first, second)] == [(1, 0, 2), (1, 1, 3)]
    assert (first.power_w, second.power_w, second.utilisation) == (150.0, None, 0.07)


@pytest.mark.parametrize("lines", [8, 10, 12, 14])
def test_a_cut_table_gives_what_is_whole(lines):
    whole = found(recorded("ascend", "captured-910b2c-4")).accelerators
    host = changed("captured-910b2c-4", lambda text: "\n".join(text.split("\n")[:lines]))
    outcome = AscendProbe().probe(host, NODE)
    assert isinstance(outcome, Found | Broken)
    if isinstance(outcome, Found):
        kept = outcome.accelerators
        assert kept == whole[: len(kept)]
        assert any("0000:c9:00.0" in b.reason for b in outcome.broken)


@pytest.mark.parametrize("total", ["-65536", str(2**64), "65536 XB", "?", "0"])
def test_nonsense_memory_is_unknown(total):
    def edit(text: str) -> str:
        return text.replace("65536", total, 1)

    chips = overview(edit(recorded_text("captured-910b2c-4"))).chips
    assert [c.memory_bytes for c in chips[:2]] == [None, 64 * GIB]
    assert chips[0].memory_used_bytes is None


def test_an_unlisted_chip_gets_a_class_of_its_own():
    outcome = found(changed("captured-910b2c-4", lambda text: text.replace("910B2C", "950PR ")))
    assert {c.name for c in outcome.classes} == {"HUAWEI_ASCEND_950PR_64G"}
    assert {a.device_class for a in outcome.accelerators} == {"HUAWEI_ASCEND_950PR_64G"}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Completed(rc=0, out="", err=""), "printed nothing"),
        (Completed(rc=-9, out="| 0 ", err="", ended="timeout"), "did not answer"),
        (Completed(rc=-9, out="x" * 100, err="", ended="output_cap"), "without end"),
        (Completed(rc=255, out="", err="dcmi model initialized failed"), "dcmi model"),
        (Completed(rc=0, out="\ufffd\ufffd|\x00|?|\n| 1 |", err=""), "no chip"),
        (None, "not installed"),
    ],
)
def test_chips_on_pci_are_never_silently_absent(answer, says):
    host = in_memory("ascend", "captured-910b2c-4")
    tools = {} if answer is None else {INFO: answer}
    outcome = AscendProbe().probe(host.but({}, tools=tools), NODE)
    assert isinstance(outcome, Broken)
    assert says in outcome.reason
    assert "4 Ascend chips" in outcome.reason
    assert "driver" in outcome.hint


def test_a_control_device_that_may_not_be_opened_names_the_group():
    host = in_memory("ascend", "captured-910b2c-4")
    closed = host.but({}, tools={}, denied=frozenset({"/dev/davinci_manager"}))
    outcome = AscendProbe().probe(closed, NODE)
    assert isinstance(outcome, Broken)
    assert "usermod -aG HwHiAiUser" in outcome.hint


def test_a_chip_that_the_tool_does_not_list_is_named():
    host = in_memory("ascend", "captured-910b2c-4")
    extra = "/sys/bus/pci/devices/0000:3b:00.0"
    more = {f"{extra}/vendor": "0x19e5", f"{extra}/device": "0xd802", f"{extra}/class": "0x120000"}
    outcome = found(host.but(more))
    assert any("0000:3b:00.0" in b.reason for b in outcome.broken)


def test_a_network_card_of_the_same_vendor_is_not_an_accelerator():
    host = in_memory("ascend", "captured-910b2c-4")
    card = "/sys/bus/pci/devices/0000:3b:00.0"
    files = {f"{card}/vendor": "0x19e5", f"{card}/device": "0x0222", f"{card}/class": "0x020000"}
    assert AscendProbe().probe(type(host)(files=files), NODE) == Absent()


def test_without_a_table_of_links_chips_below_one_switch_are_close():
    host = in_memory("ascend", "captured-310p3-2")
    places = {
        f"/sys/bus/pci/devices/0000:{bus}:00.0": f"/sys/devices/pci0000:00/0000:00:02.0/0000:{bus}:00.0"
        for bus in ("01", "06")
    }
    moved = {
        path.replace(link, place): text
        for link, place in places.items()
        for path, text in host.files.items()
        if path.startswith(link)
    }
    gone = dict.fromkeys(places)
    outcome = found(host.but({**gone, **moved}, links=places))
    assert outcome.links is not None
    assert [link.kind for link in outcome.links.values()] == [LinkKind.SWITCH]


def test_a_tool_that_fails_between_two_looks_says_nothing():
    host = recorded("ascend", "captured-910b2c-4")
    outcome = found(host)
    silent = in_memory("ascend", "captured-910b2c-4").but({}, tools={})
    assert AscendProbe().poll(silent, outcome) == {}


def test_tables_of_other_shapes_say_nothing():
    assert logical_ids("NPU ID  Chip ID\n0 0 4\n1 0 4\n") == {}, "an id that repeats is not one"
    assert topology("NPU0 NPU1\nNPU0 X\nNPU1 ??? X") == {}
    assert topology("   Phy-ID12   Phy-ID13\nPhy-ID12   X   SIO\nPhy-ID13 SIO X") == {
        ("Phy-ID12", "Phy-ID13"): LinkKind.SAME
    }
    numbers = [c.npu for c in overview(recorded_text("captured-910c-16")).chips]
    assert all(a <= b for a, b in pairwise(numbers))


@given(st.text(alphabet="|+=-/:.,x0123NAPUChipOKTempBusHealth() \t\n\x1b[m", max_size=400))
def test_no_text_makes_the_tables_raise(text):
    head = (
        "| NPU Name | Health | Power(W) Temp(C) |\n| Chip Phy-ID | Bus-Id | HBM-Usage(MB) |\n"
        "| 0 910B2 | OK | 90 40 |\n"
    )
    for chip in overview(head + text).chips:
        assert chip.memory_bytes is None or chip.memory_bytes > 0
    assert all(logical >= 0 for logical in logical_ids(text).values())
    assert all(one != other for one, other in topology(text))
