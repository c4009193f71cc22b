"""A tenant takes no more units of a device class than it was given (devices; cores of a CPU class)."""

from __future__ import annotations

from collections.abc import Iterator

from ..constraint import Row, Scope


def rows(scope: Scope) -> Iterator[Row]:
    """One row per tenant and limited class."""
    tenant_of = {demand.id: demand.tenant for demand in scope.app.demands}
    for tenant in scope.app.tenants:
        for device_class, limit in tenant.max_devices:
            amounts = {
                k: float(c.layout.units)
                for k, c in enumerate(scope.candidates)
                if c.pool.device_class.name == device_class and tenant_of[c.model] == tenant.name
            }
            yield Row(
                name=f"tenant:{tenant.name}:{device_class}", limit=float(limit), amounts=amounts
            )
