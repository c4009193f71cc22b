"""The hard rules in force, by shape. Adding a rule is one file in `constraints/` and one line here."""

from __future__ import annotations

from .constraint import NodeRule, OptionRule, RowRule
from .constraints import (
    artifact,
    availability,
    backend,
    capacity,
    latency,
    memory,
    parallelism,
    pins,
    power,
    precision,
    presence,
    price,
    spread,
    tenancy,
    window,
)

NODE_RULES: tuple[NodeRule, ...] = (
    availability.check_node,
    pins.check_node,
    presence.check_node,
)

ENGINE_RULES: tuple[OptionRule, ...] = (
    pins.check_option,
    backend.check_option,
    presence.check_option,
    window.check_option,
)
"""Need only a pool and an engine."""

LAYOUT_RULES: tuple[OptionRule, ...] = (
    precision.check_option,
    parallelism.check_option,
    artifact.check_option,
    memory.check_option,
    latency.check_option,
    power.check_option,
    price.check_option,
)
"""Need the layout, from `memory` on also the prediction."""

ROW_RULES: tuple[RowRule, ...] = (
    capacity.rows,
    power.rows,
    tenancy.rows,
    spread.rows,
    price.rows,
)
