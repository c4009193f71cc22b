"""Tenstorrent's boards on recorded machines, with telemetry of the driver and without."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.hosts import FakeHost, in_memory, recorded

from actors.pci import DEVICES
from actors.probe import Broken, Found
from actors.probes.tenstorrent import TenstorrentProbe
from actors.tools import Completed
from placement.devices import Health
from placement.ids import NodeId
from placement.interconnect import LinkKind

NODE = NodeId("n")
P300 = "synthetic-p300"
OLD = "synthetic-wormhole-old-driver"


def found(host) -> Found:
    outcome = TenstorrentProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def chip(host: FakeHost, number: int = 0) -> str:
    folder = host.resolve(f"{DEVICES}/0000:0{3 + number}:00.0")
    return f"{folder}/tenstorrent/tenstorrent!{number}"


def test_two_chips_of_a_board_are_two_devices():
    outcome = found(recorded("tenstorrent", P300))
    first, second = outcome.accelerators
    assert first.serial == second.serial == "0000046131924055"
    assert first.identity != second.identity
    assert (first.device_class, first.handle) == ("TENSTORRENT_P300_32G", "0")
    assert (first.firmware, first.driver, first.power_limit_w) == ("19.4.2.0", "2.7.0", 150.0)
    (link,) = (outcome.links or {}).values()
    assert link.kind is LinkKind.SAME


def test_a_device_file_that_changes_its_number_is_the_same_device():
    host = in_memory("tenstorrent", P300)
    moved = {p.replace("tenstorrent!0", "tenstorrent!7"): t for p, t in host.files.items()}
    before = found(host).accelerators[0]
    after = found(replace(host, files={**moved, "/dev/tenstorrent/7": ""})).accelerators[0]
    assert before.identity == after.identity
    assert (before.handle, after.handle) == ("0", "7")


def test_an_old_driver_is_helped_by_the_tool():
    first, second = found(recorded("tenstorrent", OLD)).accelerators
    assert (first.product, first.device_class) == ("Tenstorrent n300 L", "TENSTORRENT_N300_24G")
    assert (first.power_limit_w, first.temperature_limit_c, first.handle) == (85.0, 83.0, "1")
    assert (second.power_limit_w, second.temperature_limit_c, second.firmware) == (None,) * 3
    assert second.health is Health.DEGRADED
    assert "memory" in second.evidence[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "not installed"),
        (Completed(rc=124, out="", err="", ended="timeout"), "in time"),
        (Completed(rc=0, out="x", err="", ended="output_cap"), "without end"),
        (Completed(rc=0, out="", err=""), "printed nothing"),
        (Completed(rc=0, out='{"device_info": "none"}', err=""), "makes no sense"),
        (Completed(rc=0, out='{"device_info": [3, {"board_info": []}]}', err=""), "lists no board"),
    ],
)
def test_boards_that_nobody_names_have_to_be_declared(answer, words):
    tools = {"tt-smi_-s": answer} if answer else {}
    outcome = found(in_memory("tenstorrent", OLD).but({}, tools=tools))
    assert outcome.accelerators == ()
    assert words in outcome.broken[0].reason
    assert all(
        "Tenstorrent 401e" in b.reason and "declare it" in b.hint for b in outcome.broken[1:]
    )


def test_the_tool_is_left_alone_when_the_driver_says_enough():
    host = in_memory("tenstorrent", P300)
    hangs = Completed(rc=124, out="", err="", ended="timeout")
    assert found(host.but({}, tools={"tt-smi_-s": hangs})).broken == ()


def test_what_a_chip_does_now():
    host = recorded("tenstorrent", P300)
    probe = TenstorrentProbe()
    outcome = probe.probe(host, NODE)
    assert isinstance(outcome, Found)
    readings = probe.poll(host, outcome)
    assert {(r.temperature_c, r.power_w) for r in readings.values()} == {(73.2, 80.0)}


def test_a_heartbeat_that_stands_still_is_a_fault():
    host = replace(in_memory("tenstorrent", P300), clock=[0.0, 0.0, 4.0, 4.0, 6.0, 6.0])
    probe = TenstorrentProbe()
    outcome = probe.probe(host, NODE)
    assert isinstance(outcome, Found)
    alive, dead = (a.identity for a in outcome.accelerators)
    beats = [host.but({f"{chip(host)}/tt_heartbeat": f"{1156 + k}\n"}) for k in range(3)]
    readings = [probe.poll(beat, outcome) for beat in beats]
    assert [bool(r[dead].faults) for r in readings] == [False, False, True]
    assert [bool(r[alive].faults) for r in readings] == [False, False, False]


def test_a_chip_that_was_too_hot_since_the_last_look_is_throttled():
    host = in_memory("tenstorrent", P300)
    probe = TenstorrentProbe()
    outcome = probe.probe(host, NODE)
    assert isinstance(outcome, Found)
    name = outcome.accelerators[0].identity
    assert probe.poll(host, outcome)[name].throttled == ()
    hotter = host.but({f"{chip(host)}/tt_therm_trip_count": "2\n"})
    assert probe.poll(hotter, outcome)[name].throttled == ("thermal",)


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        ("driver", "without their driver", "modprobe tenstorrent"),
        ("denied", "/dev/tenstorrent/0 is denied", "udev"),
        ("node", "/dev/tenstorrent/0 is absent", "--device /dev/tenstorrent"),
    ],
)
def test_boards_that_cannot_be_used_are_broken(change, words, hint):
    host = in_memory("tenstorrent", P300)
    both = [f"{chip(host, k)}" for k in (0, 1)]
    changed = {
        "driver": lambda: host.but(dict.fromkeys(both)),
        "denied": lambda: host.but(
            {}, denied=frozenset({"/dev/tenstorrent/0", "/dev/tenstorrent/1"})
        ),
        "node": lambda: host.but({"/dev": None}),
    }[change]()
    outcome = TenstorrentProbe().probe(changed, NODE)
    assert isinstance(outcome, Broken)
    assert words in outcome.reason
    assert hint in outcome.hint


def test_one_board_that_cannot_be_used_does_not_hide_the_other():
    host = in_memory("tenstorrent", P300).but({}, denied=frozenset({"/dev/tenstorrent/1"}))
    outcome = found(host)
    assert [a.handle for a in outcome.accelerators] == ["0"]
    assert "/dev/tenstorrent/1" in outcome.broken[0].reason
