"""What every built-in probe promises, on every recorded machine and on an empty one."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

import pytest
from support.hosts import RECORDINGS, FakeHost

import actors.probes
from actors.host import Fetched, Host, RecordedHost
from actors.names import EMULATE_ENV
from actors.probe import Absent, Broken, Found, LiveProbe, Probe
from actors.prober import Prober
from actors.tools import Completed
from placement.catalog import catalog
from placement.ids import NodeId

NODE = NodeId("n-1")


def built_in() -> list[type[Probe]]:
    modules = pkgutil.iter_modules(actors.probes.__path__)
    found = (vars(importlib.import_module(f"actors.probes.{m.name}")).values() for m in modules)
    return [
        value
        for values in found
        for value in values
        if isinstance(value, type)
        and value.__module__.startswith("actors.probes.")
        and hasattr(value, "probe")
    ]


def machines() -> list[tuple[str, Host]]:
    recorded = [(f.parent.name, RecordedHost(f.parent)) for f in RECORDINGS.rglob("host.toml")]
    declared = (
        '{"cpu": {"cores": 4, "memory_gib": 8}, "devices": [{"class": "FURIOSA_RNGD", "count": 2}]}'
    )
    return [
        *sorted(recorded, key=lambda pair: pair[0]),
        ("declared", FakeHost(variables={EMULATE_ENV: declared})),
        ("empty", FakeHost()),
        ("garbage", Garbage()),
    ]


class Garbage:
    """Every file and tool answers, with nonsense."""

    def read(self, path):
        return "\x1b[31m:::\nprocessor : -1\n\nMemTotal: 99999999999999999999999 kB\nmax max,-3\n"

    def list(self, path):
        return ("node0", "node-1", "nodeX", "cpu0", "\x00")

    def run(self, argv, timeout_s):
        return Completed(rc=0, out='\x1b[31m| 0 | ??? | -1 C |\n{"devices": [1, {}, null]}', err="")

    def env(self, name):
        return "\x00{"

    def resolve(self, path):
        return "/\x1b[31m"

    def access(self, path):
        return "ok"

    def ask(self, library, question, timeout_s):
        return Completed(
            rc=0, out='[{"uuid": -1, "memory": {"total": 18446744073709551616}}, 7, null]', err=""
        )

    def fetch(self, url, timeout_s, headers=None):
        return Fetched(status=200, text="<html>", seconds=-1.0)

    def clock_s(self):
        return 0.0


PROBES = built_in()
MACHINES = machines()
everywhere = pytest.mark.parametrize("host", [h for _, h in MACHINES], ids=[n for n, _ in MACHINES])
each = pytest.mark.parametrize("probe", PROBES, ids=[p.name for p in PROBES])


def test_names_are_unique_and_the_list_is_not_empty():
    names = [probe.name for probe in PROBES]
    assert {"cpu", "emulated"} <= set(names)
    assert len(set(names)) == len(names)


@each
@everywhere
def test_a_probe_answers_and_never_raises(probe, host):
    assert isinstance(probe().probe(host, NODE), Found | Absent | Broken)


@each
@everywhere
def test_the_same_machine_gets_the_same_answer(probe, host):
    assert probe().probe(host, NODE) == probe().probe(host, NODE)


@each
@everywhere
def test_what_it_finds_is_believed_and_of_known_classes(probe, host):
    report = Prober(host, NODE, [probe()]).report()
    outcome = probe().probe(host, NODE)
    if isinstance(outcome, Found):
        numbered = [d for d in report.devices if d not in outcome.devices]
        assert len(numbered) == len(report.devices) - len(outcome.devices)
        left_out = {a.identity for a in outcome.accelerators} - {d.identity for d in numbered}
        assert {d.identity for d in numbered} <= {a.identity for a in outcome.accelerators}
        assert not left_out or report.broken, "what is not believed is named"
        known = {*catalog(), *(c.name for c in outcome.classes)}
        assert {d.device_class for d in (*outcome.devices, *outcome.accelerators)} <= known
    if isinstance(outcome, Broken):
        assert outcome.reason
        assert outcome.hint


@each
@everywhere
def test_a_poll_tells_of_its_own_devices_only_whatever_became_of_the_machine(probe, host):
    made = probe()
    found = made.probe(host, NODE)
    if not isinstance(found, Found) or not isinstance(made, LiveProbe):
        return
    own = {d.identity for d in (*found.devices, *found.accelerators)}
    fewer = replace(found, devices=found.devices[1:], accelerators=found.accelerators[1:])
    left = {d.identity for d in (*fewer.devices, *fewer.accelerators)}
    for now in (host, Garbage(), FakeHost(), host):
        assert set(made.poll(now, found)) <= own
        assert set(made.poll(now, fewer)) <= left
        assert set(probe().poll(now, found)) <= own, "by an instance that never looked"


@each
def test_nothing_is_found_where_nothing_is(probe):
    outcome = probe().probe(FakeHost(), NODE)
    assert not isinstance(outcome, Found) or outcome.devices == ()
