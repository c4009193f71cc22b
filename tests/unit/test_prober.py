"""The prober: no probe hides another, nonsense is dropped with a reason, reports travel as JSON."""

from __future__ import annotations

import dataclasses
import sys
import threading
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from support.hosts import FakeHost, in_memory

from actors.host import RealHost
from actors.machine import node_name
from actors.names import EMULATE_ENV, NODE_ENV, RACK_ENV
from actors.node_engines import NodeEngines
from actors.plugins import ENGINES_GROUP, load_plugins
from actors.probe import Absent, Broken, Found
from actors.prober import Prober, prober_of_this_node
from actors.probes.cpu import CpuProbe
from actors.report import BrokenProbe, CpuFacts, NodeReport
from actors.versions import code_hash, versions
from placement.codec import decode, encode
from placement.devices import Device, DeviceClass, Health, Kind
from placement.ids import DeviceId, NodeId
from placement.inventory import ModelPresence
from placement.modelspec import ModelFacts

NODE = NodeId("n")


class Answering:
    """A probe that says what it is told to say, and counts how often it was asked."""

    name = "answering"

    def __init__(self, *answers, name: str = "answering") -> None:
        self.name = name
        self._answers = answers
        self.asked = 0

    def probe(self, host, node):
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Hanging:
    """A probe that answers when the test lets it."""

    name = "hanging"

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked = 0

    def probe(self, host, node):
        self.asked += 1
        self.release.wait(30)
        return Found(devices=(device("late"),))


def device(name: str = "0", **changes) -> Device:
    whole = Device(id=DeviceId(f"n/{name}"), node=NODE, device_class="X", memory_bytes=2**30)
    return dataclasses.replace(whole, **changes)


def prober(*probes, **options) -> Prober:
    return Prober(FakeHost(), NODE, probes, **options)


def ids(report: NodeReport) -> list[str]:
    return [d.id for d in report.devices]


@pytest.mark.parametrize(
    "failing",
    [
        Answering(RuntimeError("driver says no"), name="bad"),
        Answering(SystemExit(3), name="bad"),
        Answering(None, name="bad"),
        Answering([device()], name="bad"),
        Answering(Found(devices=None), name="bad"),  # type: ignore[arg-type]
        Answering(Broken(reason="tool prints garbage", hint="update it"), name="bad"),
    ],
)
def test_a_failing_probe_is_reported_and_hides_nobody(failing):
    report = prober(failing, Answering(Found(devices=(device(),)))).report()
    assert ids(report) == ["n/0"]
    (broken,) = report.broken
    assert broken.name == "bad"
    assert broken.reason


def test_a_broken_probe_keeps_its_reason_and_hint():
    report = prober(
        Answering(Broken(reason="no permission", hint="add the user to render"))
    ).report()
    assert report.broken == (
        BrokenProbe(name="answering", reason="no permission", hint="add the user to render"),
    )


def test_a_hanging_probe_is_given_up_and_not_started_again():
    hanging = Hanging()
    eager = prober(hanging, Answering(Found(devices=(device(),))), deadline_s=0.1)
    first = eager.report()
    assert ids(first) == ["n/0"]
    assert "no answer within 0.1 s" in first.broken[0].reason
    eager.refresh()
    assert hanging.asked == 1
    hanging.release.set()
    patient = prober(hanging, deadline_s=10.0)
    assert ids(patient.report()) == ["n/late"]


def test_absent_is_neither_device_nor_fault():
    report = prober(Answering(Absent())).report()
    assert (report.devices, report.broken) == ((), ())
    assert report.cores is None
    assert report.memory_bytes is None


@pytest.mark.parametrize(
    "nonsense",
    [
        device("bad", memory_bytes=-1),
        device("bad", memory_bytes=0),
        device("bad", memory_bytes=2**64),
        device("bad", memory_bytes=float("nan")),
        device("bad", memory_bytes=True),
        device("bad", memory_bytes="17179869184"),
        device("bad", shares=0),
        device("bad", shares=10**9),
        device("bad", device_class=""),
        device("bad", handle=7),
        device("bad", health="fine"),
        device("bad", node=NodeId("other")),
        device("bad", id=DeviceId("other/0")),
        device("0"),
        device("bad", identity="uuid-1"),
        "not a device",
    ],
)
def test_nonsense_is_dropped_with_a_reason(nonsense):
    good = device("0", identity="uuid-1")
    report = prober(Answering(Found(devices=(good, nonsense)))).report()
    assert report.devices == (good,)
    assert len(report.broken) == 1
    assert report.broken[0].reason


def test_a_device_seen_by_two_probes_counts_once():
    one = Found(devices=(device(),))
    report = prober(Answering(one, name="a"), Answering(one, name="b")).report()
    assert ids(report) == ["n/0"]
    assert [b.name for b in report.broken] == ["b"]


def test_nonsense_figures_of_a_class_are_dropped():
    figures = DeviceClass(
        name="X",
        vendor="v",
        kind=Kind.NPU,
        memory_bytes=1,
        bandwidth_bytes_per_s=1.0,
        flops=(("fp16", 1.0),),
        power_w=1.0,
    )
    bad = (
        dataclasses.replace(figures, power_w=-1.0),
        dataclasses.replace(figures, flops=(("fp16", float("nan")),)),
        dataclasses.replace(figures, flops=None),  # type: ignore[arg-type]
        "X",
    )
    report = prober(Answering(Found(classes=(figures, *bad)))).report()  # type: ignore[arg-type]
    assert report.classes == (figures,)
    assert len(report.broken) == len(bad)


def test_facts_are_kept_until_refreshed():
    probe = Answering(Found(devices=(device(),)), Found(devices=(device(), device("1"))))
    node = prober(probe)
    assert node.report() is node.report()
    assert probe.asked == 1
    assert ids(node.refresh()) == ["n/0", "n/1"]
    assert ids(node.report()) == ["n/0", "n/1"]


def test_a_declaration_stands_for_the_whole_node():
    real = Answering(Found(devices=(device("cpu0"),), cpu=CpuFacts(cores=64)), name="real")
    pretended = Found(devices=(device("0", emulated=True),), rack="r2", instead=True)
    report = prober(real, Answering(pretended)).report()
    assert ids(report) == ["n/0"]
    assert (report.emulated, report.rack, report.cpu) == (True, "r2", None)


def test_the_operators_rack_wins_over_a_declared_one():
    report = prober(Answering(Found(rack="r2")), rack="r1").report()
    assert report.rack == "r1"


def test_cores_and_memory_are_those_of_the_cpu_devices():
    host = in_memory("cpu", "synthetic-dual-socket-smt")
    report = Prober(host, NODE, [CpuProbe(), Answering(Found(devices=(device(),)))]).report()
    assert report.cores == 32
    assert report.memory_bytes == sum(d.memory_bytes for d in report.devices if d.id != "n/0")
    assert report.hostname == "cpu-server"


def test_a_report_survives_json_whole():
    facts = ModelFacts(
        parameters=1.3e8,
        layers=30,
        hidden=576,
        heads=9,
        kv_heads=3,
        head_dim=64,
        ffn=1536,
        vocab=49152,
        window=8192,
        architecture="llama",
    )
    presence = ModelPresence(source="package://x", present=True, path="/x", facts=facts)
    host = in_memory("cpu", "synthetic-dual-socket-smt")
    seen = Prober(
        host,
        NODE,
        [CpuProbe()],
        engines=lambda: NodeEngines(names=frozenset({"openvino"})),
        rack="r",
    ).report()
    sick = dataclasses.replace(seen.devices[0], health=Health.LOST)
    report = dataclasses.replace(seen, models=(presence,), devices=(sick, *seen.devices[1:]))
    codec = TypeAdapter(NodeReport)
    assert codec.validate_json(codec.dump_json(report)) == report


def test_a_node_of_64_devices_reports_in_less_than_100_kb():
    many = tuple(
        device(str(k), identity=f"vendor:serial-{k:032}:0000:{k:02x}:00.0") for k in range(64)
    )
    report = prober(Answering(Found(devices=many))).report()
    assert len(TypeAdapter(NodeReport).dump_json(report)) < 100_000


def test_placement_gets_what_was_reported():
    report = prober(
        Answering(Found(devices=(device(),))),
        rack="r",
        incarnation="i",
        engines=lambda: NodeEngines(names=frozenset({"e"})),
    ).report()
    node = report.as_node()
    assert (node.id, node.rack, node.incarnation) == (NODE, "r", "i")
    assert (node.devices, node.engines, node.models) == ((device(),), {"e"}, ())
    assert not node.cordoned


def test_a_real_machine_has_a_cpu_and_a_version():
    host = RealHost()
    report = Prober(host, node_name(host), [CpuProbe()]).report()
    assert report.broken == ()
    assert report.cores
    assert report.versions == versions()
    assert report.versions.python == ".".join(map(str, sys.version_info[:3]))


def test_the_prober_of_a_node_knows_all_built_ins_and_its_names():
    machine = in_memory("cpu", "captured-epyc-2cpu")
    named = FakeHost(machine.files, variables={NODE_ENV: "gpu-1", RACK_ENV: "r1"})
    report = prober_of_this_node(named, "incarnation-1").report()
    assert (report.node, report.rack, report.incarnation) == ("gpu-1", "r1", "incarnation-1")
    assert ids(report) == ["gpu-1/cpu0"]
    assert "emulated" in report.engines
    assert not report.emulated
    anonymous = prober_of_this_node(machine, "i").report()
    assert anonymous.node == node_name(machine)


def test_a_lab_node_offers_what_is_declared_and_nothing_else():
    machine = in_memory("cpu", "captured-epyc-2cpu")
    declared = '{"devices": [{"class": "FURIOSA_RNGD", "count": 2}]}'
    lab = FakeHost(machine.files, variables={NODE_ENV: "npu-1", EMULATE_ENV: declared})
    report = prober_of_this_node(lab, "i").report()
    assert ids(report) == ["npu-1/0", "npu-1/1"]
    assert report.emulated
    assert all(d.emulated for d in report.devices)


def test_the_code_hash_follows_content_and_name(tmp_path: Path):
    folder = tmp_path / "actors"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n")
    before = code_hash(tmp_path)
    (folder / "notes.txt").write_text("no code")
    assert code_hash(tmp_path) == before
    (folder / "a.py").write_text("x = 2\n")
    changed = code_hash(tmp_path)
    (folder / "a.py").rename(folder / "b.py")
    assert len({before, changed, code_hash(tmp_path)}) == 3


THEIRS = """
from placement.engine_facts import EngineFacts
class Theirs:
    name = "theirs"
    facts = EngineFacts(name="theirs", drives=frozenset({"generic/cpu"}), dtypes=("fp32",))
class Silent:
    name = "silent"
class Thief:
    name = "thief"
    facts = EngineFacts(name="openvino", drives=frozenset({"generic/cpu"}), dtypes=("fp32",))
class Torn:
    name = "torn"
    facts = EngineFacts(name="torn", drives=frozenset({"generic/cpu"}), dtypes=("fp3",))
class Empty:
    name = "empty"
    facts = EngineFacts(name="empty", drives=frozenset({"generic/cpu"}), dtypes=("fp32",), tp=())
"""


def test_the_prober_tells_what_other_peoples_engines_say_of_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engines_of_theirs.py").write_text(THEIRS)
    info = tmp_path / "engines_of_theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: engines-of-theirs\nVersion: 1.0\n")
    points = [
        f"{n.lower()} = engines_of_theirs:{n}"
        for n in ("Theirs", "Silent", "Thief", "Torn", "Empty")
    ]
    (info / "entry_points.txt").write_text("\n".join([f"[{ENGINES_GROUP}]", *points]))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    load_plugins.cache_clear()
    try:
        report = prober_of_this_node(in_memory("cpu", "captured-epyc-2cpu"), "i").report()
    finally:
        load_plugins.cache_clear()
    assert [facts.name for facts in report.engine_facts] == ["theirs"]
    assert {"theirs", "silent"} <= report.engines
    assert decode(NodeReport, encode(report)).engine_facts == report.engine_facts
    broken = {b.name: b.reason for b in report.broken}
    assert "NoneType, not EngineFacts" in broken["engine silent"]
    assert "those of 'openvino'" in broken["engine thief"]
    assert "make no sense" in broken["engine torn"]
    assert "tp ()" in broken["engine empty"]
