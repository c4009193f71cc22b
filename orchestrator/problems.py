"""What is wrong in a cluster, for `status` and `devices`: from the state to sentences. Pure."""

from __future__ import annotations

from .reports import problems_of
from .state import State, inventory


def problems(state: State) -> list[dict[str, str]]:
    """What is wrong where, why, and what to type next."""
    broken = [
        {"where": f"{name}: probe {b.name}", "reason": b.reason, "hint": b.hint}
        for name, node in sorted(state.nodes.items())
        for b in node.report.broken
    ]
    sick = [
        {"where": device, "reason": reason, "hint": hint}
        for _, node in sorted(state.nodes.items())
        for device, reason, hint in problems_of(node.report)
    ]
    failed = [
        {"where": slot, "reason": failure.reason, "hint": f"shardyard logs {slot}"}
        for slot, failure in sorted(state.failures.items())
    ]
    cordoned = [
        {
            "where": node.id,
            "reason": node.cordon_reason,
            "hint": "install the same version there",
        }
        for node in inventory(state).nodes
        if node.cordoned
    ]
    refused = [
        {
            "where": f"Ray node {i[:12]}",
            "reason": why,
            "hint": "shardyard node start --name NAME",
        }
        for i, why in sorted(state.refused.items())
    ]
    return broken + sick + failed + cordoned + refused
