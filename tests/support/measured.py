"""Figures that tests measure without asserting them; shown at the end of the session."""

from __future__ import annotations

FIGURES: list[str] = []


def measured(what: str, figure: object) -> None:
    """Notes a figure."""
    FIGURES.append(f"{what}: {figure}")
