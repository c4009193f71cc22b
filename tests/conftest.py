"""What all tiers share: who may open sockets, and the marks and time limits of the tiers that start clusters."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.measured import FIGURES

ROOT = Path(__file__).parent
LOOPBACK = ["127.0.0.1", "::1", "localhost"]
CLUSTER_LIMIT_S = 240
"""The first test of a session waits until its cluster is up."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The conformance suite lies with the engines.
    for item in (item for item in items if item.path.is_relative_to(ROOT)):
        tier = item.path.relative_to(ROOT).parts[0]
        if tier in ("emulated", "chaos"):
            item.add_marker(tier)
            item.add_marker(pytest.mark.timeout(CLUSTER_LIMIT_S))
        else:
            item.add_marker(pytest.mark.allow_hosts(LOOPBACK))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in FIGURES:
        terminalreporter.write_line(f"measured: {line}")
