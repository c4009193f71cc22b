"""The session's one lab: four emulated nodes and a head, started and ended through the command line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.lab import LAB, UP_S, Shardyard, left_over

from orchestrator.sockets import free_port


@dataclass(frozen=True)
class RunningLab:
    yard: Shardyard
    port: int
    said: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> str:
        return f"{self.url}/v1"


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A state folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="sy-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def lab() -> Iterator[RunningLab]:
    with tempfile.TemporaryDirectory(prefix="sy-", ignore_cleanup_errors=True) as folder:
        yard, port = Shardyard(Path(folder)), free_port()
        try:
            said = yard.run("up", "--lab", LAB, "--port", port, "--gateways", 2, timeout_s=UP_S)
            run = yard.record()
            yield RunningLab(yard, port, said)
        finally:
            yard.run("down")
        assert left_over(run, port) == []
        assert "nothing is running" in yard.run("down")
