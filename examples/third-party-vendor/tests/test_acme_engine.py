"""Shardyard's own conformance suite over the vendor's engine."""

from __future__ import annotations

import pytest
from shardyard_acme.engine import AcmeStepper

from actors.conformance.plugin import engine
from actors.conformance.subject import Subject
from actors.conformance.test_engine import *  # noqa: F403 - the suite itself
from actors.engine import EngineConfig
from actors.worker.engine import WorkerEngine
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
