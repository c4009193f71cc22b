"""What a vendor tests: its probe on a made-up driver folder, and its engine with Shardyard's own conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from shardyard_acme.engine import AcmeStepper
from shardyard_acme.probe import AcmeProbe

from actors.conformance.plugin import engine
from actors.conformance.subject import Subject
from actors.conformance.test_engine import *  # noqa: F403 - the suite itself
from actors.engine import EngineConfig
from actors.host import RealHost
from actors.probe import Absent, Found
from actors.worker import WorkerEngine
from placement.ids import NodeId
from placement.modelspec import ModelFacts

__all__ = ["engine"]

FACTS = ModelFacts(
    parameters=1e6,
    layers=2,
    hidden=8,
    heads=4,
    kv_heads=2,
    head_dim=2,
    ffn=16,
    vocab=4000,
    window=4096,
    architecture="llama",
)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    model = tmp_path_factory.mktemp("model")
    config = EngineConfig(
        model_path=str(model),
        facts=FACTS,
        device_class="ACME_X1",
        arithmetic="exact",
        window=512,
        max_sequences=4,
        kv_bytes=1 << 20,
        threads=1,
        eos_ids=(2,),
        handles=("0",),
    )
    target = f"{AcmeStepper.__module__}:{AcmeStepper.__qualname__}"
    return Subject(
        name="acme",
        make=lambda: WorkerEngine("acme", target),
        config=config,
        prompts=tuple((11 + n, 12, 13) for n in range(8)),
    )


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
