"""What the probe of Rebellions' NPUs makes of their management daemon's answers."""

from __future__ import annotations

import json

import pytest
from support.hosts import FakeHost, in_memory

from actors.probe import Found
from actors.probes.rebellions import RebellionsProbe
from actors.readers.rbln_daemon import place_of_daemon
from actors.tools import Completed
from placement.devices import Health
from placement.ids import NodeId
from placement.units import GIB

NODE = NodeId("n")
TABLE = "   0: 0100007F:C383 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1\n"


def found(host, probe=None) -> Found:
    outcome = (probe or RebellionsProbe()).probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def polled(host):
    probe = RebellionsProbe()
    outcome = found(host, probe)
    readings = probe.poll(host, outcome)
    return {a.handle: readings[a.identity] for a in outcome.accelerators if a.identity in readings}


def daemon(**info) -> str:
    said = {"name": "rbln0", "total_mem": 15.72, "used_mem": 3.5, "dev_status": 0, "p_state": 2}
    return json.dumps(
        {
            "devices": [{"name": "rbln0", "uuid": "U-1", "pci_bus_id": "0000:03:00.0"}],
            "places": [],
            "infos": [{**said, **info}],
            "events": [
                {"dev_name": "rbln0", "value": 2, "kernel_time": 980.0},
                {"dev_name": "rbln0", "value": 0, "kernel_time": 12.0},
                {"dev_name": "rbln0", "value": 0, "kernel_time": 99999.0},
            ],
        }
    )


def watched(**info) -> FakeHost:
    """The captured machine with a daemon, which is seen by its port."""
    answers = {f"rbln_daemon_{what}.tcp.50051": daemon(**info) for what in ("devices", "live")}
    return in_memory("rebellions", "captured-8x-ca22-loaded").but(
        {"/proc/net/tcp": TABLE, "/proc/uptime": "1000.25 3000.00\n"}, libraries=answers
    )


@pytest.mark.parametrize(
    ("info", "power_w", "temperature_c"),
    [
        ({"watt": 18477963.0, "temperature": 32000.0}, 18.477963, 32.0),
        ({"watt": 18.5, "temperature": 32.0}, 18.5, 32.0),
        ({"watt": 0.0, "temperature": 0.0}, None, None),
        ({"watt": -5.0, "temperature": float("nan")}, None, None),
    ],
)
def test_the_daemon_is_asked_for_live_values(info, power_w, temperature_c):
    readings = polled(watched(**info))
    reading = readings["0"]
    assert reading.power_w == (None if power_w is None else pytest.approx(power_w))
    assert reading.temperature_c == temperature_c
    assert reading.memory_used_bytes == int(3.5 * GIB)
    assert reading.faults == ("TDR: the driver gave up waiting for it",), (
        "older events do not count"
    )


def test_what_the_daemon_calls_invalid_is_unknown():
    readings = polled(watched(err_status=1, watt=18e6))
    assert readings["0"].power_w is None
    assert readings["0"].memory_used_bytes is None
    assert "cannot read" in readings["0"].faults[0]


def test_the_daemon_stands_in_for_a_tool_that_is_missing():
    outcome = found(watched().but({}, tools={}))
    first = outcome.accelerators[0]
    assert first.uuid == "U-1"
    assert first.memory_bytes == round(15.72 * GIB)
    assert len(outcome.broken) == 7, "the daemon of this test knows one card"
    assert all("tells no memory" in b.reason for b in outcome.broken)


@pytest.mark.parametrize(
    "answer", ["", "[]", "{", Completed(rc=1, out="", err="UNAVAILABLE"), '{"infos": 7}']
)
def test_a_daemon_without_an_answer_gives_way_to_the_tool(answer):
    host = watched().but({}, libraries={"rbln_daemon_live.tcp.50051": answer})
    probe = RebellionsProbe()
    outcome = found(host, probe)
    probe.poll(host, outcome)
    later = probe.poll(host, outcome)
    expected = {} if answer == '{"infos": 7}' else {a.identity for a in outcome.accelerators}
    assert set(later) == set(expected)


@pytest.mark.parametrize(
    ("host", "place"),
    [
        (FakeHost(), None),
        (FakeHost({"/proc/net/tcp": TABLE}), "tcp.50051"),
        (FakeHost({"/proc/net/tcp": TABLE.replace(" 0A ", " 01 ")}), None),
        (FakeHost({"/proc/net/tcp": TABLE.replace("C383", "C384")}), None),
        (
            FakeHost({"/proc/net/tcp6": TABLE.replace("0100007F", "0" * 32)}),
            "tcp.50051",
        ),
        (FakeHost({"/var/run/rbln.sock": ""}), "socket"),
        (FakeHost({"/var/run/rbln.sock": ""}, denied=frozenset({"/var/run/rbln.sock"})), None),
        (FakeHost(variables={"RBLN_SMD_PORT": "6000"}), "tcp.6000"),
        (FakeHost(variables={"RBLN_SMD_PORT": "99999"}), None),
    ],
)
def test_the_daemon_is_found_where_it_listens(host, place):
    assert place_of_daemon(host) == place


def test_a_fault_that_only_the_daemon_tells_is_evidence():
    host = watched(dev_status=3).but({}, tools={})
    first = found(host).accelerators[0]
    assert first.health is Health.DEGRADED
    assert first.evidence == ("the daemon: state 3 (is faulty)",)
