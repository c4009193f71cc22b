"""UPMEM's ranks on recorded machines."""

from __future__ import annotations

import pytest
from support.hosts import in_memory, recorded

from actors.probe import Broken, Found
from actors.probes.upmem import RANKS, UpmemProbe
from placement.devices import Kind
from placement.ids import NodeId
from placement.interconnect import LinkKind
from placement.units import GIB

NODE = NodeId("n")


def found(host) -> Found:
    outcome = UpmemProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def test_a_rank_is_a_device():
    outcome = found(recorded("upmem", "synthetic-two-dimms"))
    first, second, third = outcome.accelerators
    assert first.identity == "upmem:B2103-0417/rank:0"
    assert second.identity == "upmem:B2103-0417/rank:1"
    assert (first.device_class, first.memory_bytes) == ("UPMEM_RANK", 4 * GIB)
    assert first.handle == "backend=hw,rankPath=/dev/dpu_rank0"
    assert ("processors", "64") in first.notes
    assert third.numa_node == 1
    links = outcome.links or {}
    assert links[first.identity, second.identity].kind is LinkKind.NUMA
    assert links[first.identity, third.identity].kind is LinkKind.SYSTEM


def test_a_rank_that_may_not_be_opened_is_named():
    (broken,) = found(recorded("upmem", "synthetic-two-dimms")).broken
    assert "dpu_rank3" in broken.reason
    assert "group" in broken.hint


def test_without_serial_numbers_the_machine_identifies_its_ranks():
    outcome = found(recorded("upmem", "synthetic-no-serial"))
    assert [a.part for a in outcome.accelerators] == ["dpu_rank0", "dpu_rank10"]
    machine = {a.serial for a in outcome.accelerators}
    assert len(machine) == 1
    assert "0123456789abcdef" not in str(machine), "a machine's id is not told"


def test_a_rank_with_a_dead_interface_is_smaller():
    outcome = found(recorded("upmem", "synthetic-no-serial"))
    assert outcome.accelerators[1].memory_bytes == 7 * 8 * 64 * 2**20
    (smaller,) = outcome.classes
    assert smaller.kind is Kind.PIM
    assert outcome.accelerators[1].device_class == smaller.name


@pytest.mark.parametrize("value", ["", "-8\n", f"{2**64}\n", "eight\n", "0\n"])
def test_a_size_that_makes_no_sense_is_unknown(value):
    host = in_memory("upmem", "synthetic-two-dimms").but({f"{RANKS}/dpu_rank0/mram_size": value})
    assert found(host).accelerators[0].memory_bytes is None


def test_ranks_without_device_files_are_broken():
    host = in_memory("upmem", "synthetic-no-serial").but({"/dev": None})
    outcome = UpmemProbe().probe(host, NODE)
    assert isinstance(outcome, Broken)
    assert "modprobe dpu" in outcome.hint
