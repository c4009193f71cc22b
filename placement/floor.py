"""What is free on nodes while replicas are put on them: devices and shares, watts, failure domains, tenants.

Knows one change at a time and takes each back exactly; which change to try is the packer's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .constraint import Block, Candidate, Pool
from .constraints.spread import domain
from .demand import App, Demand
from .ids import DeviceId
from .plan import Slot

_SLACK = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A possible place of one stage, which is the `stage`-th of its replica."""

    stage: int
    pool: Pool
    block: Block
    devices: tuple[DeviceId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One replica to place, and where it runs now."""

    candidate: int
    config: Candidate
    demand: Demand
    current: Slot | None


_Shape = tuple[str, int, int]
"""A block as a node shows it: pool, island, number of devices."""

_Entry = tuple[int, str, int, int]
"""A stage on a node: candidate, pool, island, position of its first device."""

_State = tuple[str, tuple[_Shape, ...], tuple[_Entry, ...]]


class Floor:
    """What is free now. Every change can be taken back exactly."""

    def __init__(self, app: App, pools: Sequence[Pool], exclusive: set[str]) -> None:
        self.budgets = app.budgets
        self.exclusive = exclusive
        self.free: dict[DeviceId, int] = {
            device: pool.shares
            for pool in pools
            for block in pool.blocks
            for device in block.devices
        }
        self.node_w: dict[str, float] = defaultdict(float)
        self.rack_w: dict[str, float] = defaultdict(float)
        self.tenants: dict[str, Counter[str]] = defaultdict(Counter)
        self.domains: dict[str, Counter[str]] = defaultdict(Counter)
        self._racks_matter = app.budgets.rack_w is not None or any(
            demand.spread == "rack" for demand in app.demands
        )
        self._racks: dict[str, str] = {}
        self._shapes: dict[str, tuple[_Shape, ...]] = defaultdict(tuple)
        self._log: dict[str, list[_Entry]] = defaultdict(list)
        for pool in pools:
            for block in pool.blocks:
                self._racks[block.node] = block.rack
                self._shapes[block.node] += ((pool.name, block.island, len(block.devices)),)

    def alike(self, node: str) -> _State:
        """Equal for nodes that no further placement can tell apart."""
        rack = self._racks[node] if self._racks_matter else ""
        return rack, self._shapes[node], tuple(sorted(self._log[node]))

    def state(self) -> tuple[_State, ...]:
        """Equal for floors that no further placement can tell apart; nodes with nothing on them are left out."""
        return tuple(sorted(self.alike(node) for node, log in self._log.items() if log))

    def admits(self, request: Request, stage: int, block: Block, own: set[str]) -> bool:
        """Whether a stage may go to that block; `own` are the failure domains that this replica is in already."""
        watts = request.config.power_of(stage)
        if _over(self.node_w[block.node] + watts, self.budgets.node_w):
            return False
        if _over(self.rack_w[block.rack] + watts, self.budgets.rack_w):
            return False
        if request.demand.spread != "none":
            where = domain(request.demand, block)
            if self.domains[request.demand.id][where] and where not in own:
                return False
        return self._tenant_admits(request.demand.tenant, block.node)

    def _tenant_admits(self, tenant: str, node: str) -> bool:
        others = {name for name, count in self.tenants[node].items() if count} - {tenant}
        return not others or (tenant not in self.exclusive and not others & self.exclusive)

    def change(self, request: Request, seat: Seat, sign: int) -> None:
        """Takes a seat (+1) or gives it back (-1)."""
        block, watts = seat.block, request.config.power_of(seat.stage)
        for device in seat.devices:
            self.free[device] -= sign * request.config.layout.shares
        self.node_w[block.node] += sign * watts
        self.rack_w[block.rack] += sign * watts
        self.tenants[block.node][request.demand.tenant] += sign
        self.domains[request.demand.id][domain(request.demand, block)] += sign
        entry = (
            request.candidate,
            seat.pool.name,
            block.island,
            block.devices.index(seat.devices[0]),
        )
        if sign > 0:
            self._log[block.node].append(entry)
        else:
            self._log[block.node].remove(entry)


def _over(watts: float, budget_w: float | None) -> bool:
    return budget_w is not None and watts > budget_w * (1 + _SLACK)
