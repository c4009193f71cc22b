"""The session's one cluster for kills and hangs: two replicas of a real model on this machine's CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.lab import QUICKSTART, UP_S, Shardyard, left_over, until

from orchestrator.sockets import free_port

WHOLE_S = 90.0


@dataclass(frozen=True)
class Pair:
    """Two replicas."""

    yard: Shardyard
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def wait_until_whole(self, without: str = "") -> dict[str, dict[str, Any]]:
        """The two ready replicas; `without` is an incarnation that must be gone."""

        def ready() -> dict[str, dict[str, Any]]:
            rows = self.yard.replicas()
            states = {row["state"] for row in rows.values()}
            known = {row.get("incarnation") for row in rows.values()}
            return rows if len(rows) == 2 and states == {"ready"} and without not in known else {}

        return until(ready, WHOLE_S, "two ready replicas")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="sy-", ignore_cleanup_errors=True) as folder:
        yard, port = Shardyard(Path(folder)), free_port()
        try:
            yard.run("up", QUICKSTART, "--port", port, timeout_s=UP_S)
            run = yard.record()
            yield Pair(yard, port)
        finally:
            yard.run("down")
        assert left_over(run, port) == []


@pytest.fixture
def pair(cluster) -> Iterator[Pair]:
    cluster.wait_until_whole()
    yield cluster
    cluster.wait_until_whole()
