"""The journal: what was saved is what comes back, and a damaged file is kept aside instead of believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.control_plane import a_plan, a_slot, yaml_of

from orchestrator.journal import FileJournal
from orchestrator.ports import Desired

DESIRED = Desired(yaml=yaml_of(), revision=3, plan=a_plan(a_slot("tiny/r0", "n1/cpu0")))


def test_the_first_start_finds_nothing(tmp_path: Path) -> None:
    assert FileJournal(tmp_path / "state" / "journal.json").load() is None


@pytest.mark.parametrize("desired", [DESIRED, Desired(yaml="", revision=0, plan=None)])
def test_what_was_saved_comes_back(tmp_path: Path, desired: Desired) -> None:
    FileJournal(tmp_path / "new" / "journal.json").save(desired)
    assert FileJournal(tmp_path / "new" / "journal.json").load() == desired


def test_a_later_save_replaces_the_earlier_one(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal.json")
    journal.save(DESIRED)
    journal.save(Desired(yaml="x", revision=4, plan=None))
    assert journal.load() == Desired(yaml="x", revision=4, plan=None)
    assert [p.name for p in tmp_path.iterdir()] == ["journal.json"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_file_is_kept_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal.json"
    FileJournal(path).save(DESIRED)
    text = path.read_text()
    broken = {
        "cut": text[:-20],
        "flip": text.replace('"revision": 3', '"revision": 9'),
        "empty": "",
        "other": '{"body": 1}',
    }
    path.write_text(broken[damage])
    assert FileJournal(path).load() is None
    assert (tmp_path / "journal.damaged").read_text() == broken[damage]
