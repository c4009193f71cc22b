"""An engine that takes more memory than was planned is told of, before the kernel has to act."""

from __future__ import annotations

import os
from pathlib import Path

from actors.memory_watch import MemoryWatch, outgrown, taken_bytes
from placement.units import GIB


def test_this_process_takes_something() -> None:
    assert taken_bytes([os.getpid()]) > 1_000_000


def test_processes_that_are_gone_take_nothing(tmp_path: Path) -> None:
    assert taken_bytes([1, 2], tmp_path) == 0


def test_shared_memory_counts_by_its_part(tmp_path: Path) -> None:
    for number in (7, 8):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "smaps_rollup").write_text("Rss:  4096 kB\nPss:   2048 kB\n")
        (tmp_path / str(number) / "status").write_text("VmRSS:\t 4096 kB\n")
    assert taken_bytes([7, 8], tmp_path) == 4096 * 1024
    (tmp_path / "8" / "smaps_rollup").unlink()
    assert taken_bytes([7, 8], tmp_path) == (2048 + 4096) * 1024


def test_more_than_planned_is_said_with_both_figures() -> None:
    says = outgrown(3 * GIB, 2 * GIB)
    assert "3.0 GiB" in says
    assert "2.0 GiB" in says


def test_a_little_more_and_nothing_planned_are_fine() -> None:
    assert outgrown(int(2.1 * GIB), 2 * GIB) == ""
    assert outgrown(3 * GIB, 0) == ""


def test_what_is_said_moves_in_steps() -> None:
    assert outgrown(3 * GIB, 2 * GIB) == outgrown(3 * GIB + GIB // 8, 2 * GIB)


def test_the_watch_asks_for_the_processes_each_time(tmp_path: Path) -> None:
    (tmp_path / "9").mkdir()
    known: list[tuple[int, ...]] = [(), (os.getpid(),)]
    watch = MemoryWatch(lambda: known.pop(0), 1)
    assert watch.look() == ""
    assert "planned" in watch.look()
