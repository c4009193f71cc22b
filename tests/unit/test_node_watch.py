"""What is known of a node stays fresh, and a look that hangs delays no report."""

from __future__ import annotations

import threading

from support.hosts import FakeHost

from actors.node_watch import NodeWatch, Presences
from actors.probe import Found
from actors.prober import Prober
from actors.report import NodeReport
from placement.ids import NodeId
from placement.inventory import ModelPresence

DEADLINE_S = 10.0


def present(source: str) -> ModelPresence:
    return ModelPresence(source=source, present=True)


def missing(source: str) -> ModelPresence:
    return ModelPresence(source=source, present=False, reason="not here")


class EmptyProbe:
    """Finds nothing, quickly."""

    name = "empty"

    def probe(self, host: object, node: NodeId) -> Found:
        return Found()


def a_watch(resolve, on_probed=lambda report: None) -> NodeWatch:
    prober = Prober(FakeHost({}), NodeId("n1"), [EmptyProbe()], incarnation="i1")
    return NodeWatch(prober, resolve, on_probed)


def report_when(watch: NodeWatch, good) -> NodeReport:
    for _ in range(100):
        report = watch.report()
        if report is not None and good(report):
            return report
        watch.wait(DEADLINE_S / 100)
    raise AssertionError("no such report in time")


def test_there_is_a_report_after_the_first_look_and_it_was_declared_before() -> None:
    declared: list[NodeReport] = []
    watch = a_watch(present, declared.append)
    assert watch.report() is None
    watch.start()
    report = report_when(watch, lambda r: True)
    assert declared == [report]


def test_a_source_that_nobody_answers_for_delays_no_report() -> None:
    asked, answer = threading.Event(), threading.Event()

    def silent(source: str) -> ModelPresence:
        asked.set()
        answer.wait(DEADLINE_S)
        return present(source)

    watch = a_watch(silent)
    watch.start()
    watch.want(("hf://silent",))
    assert asked.wait(DEADLINE_S)
    assert report_when(watch, lambda r: True).models == ()
    answer.set()
    assert report_when(watch, lambda r: bool(r.models)).models == (present("hf://silent"),)


def test_a_missing_source_is_looked_for_again_but_not_at_once() -> None:
    now = [0.0]
    looked: list[str] = []

    def resolve(source: str) -> ModelPresence:
        looked.append(source)
        return missing(source) if len(looked) == 1 else present(source)

    presences = Presences(resolve, lambda: now[0])
    presences.look(("a",))
    now[0] = 1.0
    presences.look(("a",))
    assert presences.known() == (missing("a"),)
    now[0] = 60.0
    presences.look(("a",))
    presences.look(("a",))
    assert presences.known() == (present("a"),)
    assert looked == ["a", "a"]


def test_answers_are_remembered_after_nobody_asks_any_more() -> None:
    presences = Presences(present)
    presences.look(("b", "a"))
    presences.look(())
    assert [p.source for p in presences.known()] == ["a", "b"]
