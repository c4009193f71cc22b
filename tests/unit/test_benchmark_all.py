"""Benchmarks that print lines become one document each; one that fails says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.all import run_lines


def test_lines_become_a_document_and_a_summary(tmp_path: Path) -> None:
    out = tmp_path / "pools.json"
    shown = run_lines("pools", ("placement", "--pools", "4"), out)
    document = json.loads(out.read_text())
    assert document["benchmark"] == "pools"
    assert [line["devices"] for line in document["lines"]] == [4]
    assert shown["lines"] == 1
    assert shown["most_cpu_s"] == document["lines"][0]["cpu_s"]


def test_a_benchmark_that_fails_is_named(tmp_path: Path) -> None:
    out = tmp_path / "none.json"
    with pytest.raises(RuntimeError, match=r"benchmarks\.placement --pools none ended with 2"):
        run_lines("none", ("placement", "--pools", "none"), out)
    assert not out.exists()
