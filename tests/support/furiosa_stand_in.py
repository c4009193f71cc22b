"""`furiosa-llm serve` on a stand-in for the card, as an engine for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from actors.engine import EngineConfig
from actors.engines.furiosa import FuriosaServer
from actors.server.engine import ServerEngine
from actors.server.spec import When

from .engines import FACTS, engine_config
from .npu_artifacts import manifest, write_bundle, write_model
from .vendor_tier import python_of

SCRIPT = Path(__file__).resolve().parent / "standins_engines" / "furiosa_serve.py"
REAL = "furiosa-llm 2026.4 serve: arguments, tokenizer, HTTP, streams; its engine's reading of bundle and devices"
STAND_IN = "the engine from where it opens a card: tokens come from a checksum"


class StandInServer(FuriosaServer):
    """The server with its command's program replaced; everything after that is what the engine says."""

    argv: ClassVar[tuple[str | When, ...]] = ("{python}", str(SCRIPT), *FuriosaServer.argv[1:])


def stand_in_engine(**options: Any) -> ServerEngine:
    """The engine, not loaded; skips the test where the environment is missing."""
    python = python_of("furiosa")
    return ServerEngine(StandInServer(), find=lambda _: python, **options)


def furiosa_files(folder: Path) -> Path:
    """A model without weights and a bundle for four PEs without kernels."""
    write_model(folder / "model")
    write_bundle(folder / "m.fxb", manifest((8, 2048), (4, 4096), tp=4))
    return folder


def furiosa_config(files: Path, **changes: Any) -> EngineConfig:
    """For the files of `furiosa_files`, on half a card."""
    fields: dict[str, Any] = {
        "model_path": str(files / "model"), "artifact": str(files / "m.fxb"), "model": "m",
        "handles": ("npu:0:0-3",), "window": 1024, "max_sequences": 8, "facts": replace(FACTS, vocab=64),
        "environment": (("FURIOSA_DEVICES", "npu:0"),),
    }  # fmt: skip
    return engine_config(**fields | changes)
