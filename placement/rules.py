"""The hard rules in force, by shape. Adding a rule is one file in `constraints/` and one line here."""

from __future__ import annotations

from .constraint import ExcessRule, NodeRule, OptionRule, RowRule
from .constraints import (
    artifact,
    availability,
    backend,
    bucket,
    capability,
    capacity,
    latency,
    memory,
    parallelism,
    pins,
    power,
    precision,
    presence,
    price,
    remote,
    spread,
    tenancy,
    throughput,
    window,
)

NODE_RULES: tuple[NodeRule, ...] = (
    availability.refuse_nodes,
    pins.refuse_nodes,
    presence.refuse_nodes,
)

ENGINE_RULES: tuple[OptionRule, ...] = (
    pins.check_option,
    backend.check_option,
    capability.check_option,
    remote.check_option,
    presence.check_option,
    window.check_option,
)
"""Need only a pool and an engine."""

LAYOUT_RULES: tuple[OptionRule, ...] = (
    precision.check_option,
    parallelism.check_option,
    artifact.check_option,
    bucket.check_option,
)
"""Need the layout. Without them a prediction may not be defined."""

PREDICTED_RULES: tuple[tuple[ExcessRule, OptionRule], ...] = (
    (memory.excess, memory.check_option),
    (latency.excess, latency.check_option),
    (power.excess, power.check_option),
    (price.excess, price.check_option),
)
"""Need the prediction: both faces of each rule."""

ROW_RULES: tuple[RowRule, ...] = (
    capacity.rows,
    power.rows,
    tenancy.rows,
    spread.rows,
    price.rows,
    throughput.rows,
)
