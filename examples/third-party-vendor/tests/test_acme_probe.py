"""The vendor's probe on a made-up driver folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from shardyard_acme.probe import AcmeProbe

from actors.host import RealHost
from actors.probe import Absent, Found
from placement.ids import NodeId


def a_card(folder: Path, number: int, **files: str) -> None:
    card = folder / f"acme{number}"
    card.mkdir(parents=True)
    for name, text in ({"serial": f"AX{number:04}", "memory_bytes": "17179869184"} | files).items():
        (card / name).write_text(text)


def test_cards_are_found_by_their_serials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_card(tmp_path, 0)
    a_card(tmp_path, 1, state="burnt")
    monkeypatch.setenv("ACME_SYSFS", str(tmp_path))
    found = AcmeProbe().probe(RealHost(), NodeId("n"))
    assert isinstance(found, Found)
    assert [one.serial for one in found.accelerators] == ["AX0000", "AX0001"]
    assert [one.health for one in found.accelerators] == ["healthy", "degraded"]


def test_a_machine_without_cards_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_SYSFS", str(tmp_path / "none"))
    assert isinstance(AcmeProbe().probe(RealHost(), NodeId("n")), Absent)
