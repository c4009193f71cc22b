"""A tenant takes no more units of a device class than it was given (devices; cores of a CPU class)."""

from __future__ import annotations

from collections.abc import Iterator

from ..constraint import Candidate, Row, Scope


def rows(scope: Scope) -> Iterator[Row]:
    """One row per tenant and limited class."""
    tenant_of = {demand.id: demand.tenant for demand in scope.app.demands}
    for tenant in scope.app.tenants:
        for device_class, limit in tenant.max_devices:
            units = {
                k: float(_units(c, device_class))
                for k, c in enumerate(scope.candidates)
                if tenant_of[c.model] == tenant.name
            }
            amounts = {k: taken for k, taken in units.items() if taken}
            yield Row(
                name=f"tenant:{tenant.name}:{device_class}", limit=float(limit), amounts=amounts
            )


def _units(candidate: Candidate, device_class: str) -> int:
    """Units that a candidate takes of a class."""
    layout = candidate.layout
    own = (p for p in candidate.pools if p.device_class.name == device_class)
    return sum(candidate.stages_in(p.name) for p in own) * layout.tp * layout.shares
