"""Puts chosen configurations on nodes and devices: depth-first, exact within its step limit.

Keeps what only nodes can tell: free devices of each island, shares of each device, spread, watts of nodes and racks, nodes of
exclusive tenants. Prefers where a replica runs now, then the node of the previous stage, then the fullest block that fits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .constraint import Block, Candidate, Pool
from .demand import App
from .floor import Floor, Request, Seat, domain
from .ids import SlotId
from .layout import layer_ranges
from .plan import Plan, Slot, Stage

MAX_STEPS = 600
"""Stages tried in vain before one packing is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One replica on its devices; `kept` names the slot of the current plan that it continues."""

    candidate: int
    stages: tuple[Stage, ...]
    kept: SlotId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What came out. `placed` is None when nothing was found; `exact`: then there is nothing to find."""

    placed: tuple[Placed, ...] | None
    exact: bool = True


class Packer:
    """Packs multisets of candidates of one problem."""

    def __init__(
        self,
        app: App,
        pools: Sequence[Pool],
        candidates: Sequence[Candidate],
        current: Plan | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self._app = app
        self._candidates = candidates
        self._pools = pools
        self._demands = {demand.id: demand for demand in app.demands}
        self._exclusive = {tenant.name for tenant in app.tenants if tenant.exclusive_nodes}
        self._should_stop = should_stop
        self._by_config: dict[int, list[Slot]] = _current_by_candidate(candidates, current)
        self._known: dict[tuple[int, ...], Packing] = {}
        self._steps_left = 0

    def allow(self, steps: int) -> None:
        """Stages that may be tried from now on, over all packings; after that nothing is found, and none is sure."""
        self._steps_left = steps

    def continues(self, candidate: int) -> bool:
        """Whether a replica runs in that configuration now."""
        return candidate in self._by_config

    def pack(self, chosen: Sequence[int]) -> Packing:
        """Places one replica for each of the chosen candidates (indices, repeated for several replicas)."""
        key = tuple(sorted(chosen))
        known = self._known.get(key)
        if known is None or (known.placed is None and not known.exact):
            known = self._known[key] = self._pack(key)
        return known

    def _pack(self, chosen: tuple[int, ...]) -> Packing:
        if self._steps_left <= 0:
            return Packing(placed=None, exact=False)
        requests = self._requests(chosen)
        floor = Floor(self._app, self._pools, self._exclusive)
        stages = sum(request.config.layout.pp for request in requests)
        limit = min(stages + MAX_STEPS, self._steps_left)
        search = _Descent(floor, requests, self._should_stop, limit)
        found = search.run()
        self._steps_left -= search.steps
        return Packing(placed=tuple(search.placed) if found else None, exact=search.exact)

    def _requests(self, chosen: tuple[int, ...]) -> list[Request]:
        running = {k: list(slots) for k, slots in self._by_config.items()}
        requests = []
        for k in chosen:
            slots = running.get(k)
            config = self._candidates[k]
            requests.append(
                Request(
                    candidate=k,
                    config=config,
                    demand=self._demands[config.model],
                    current=slots.pop(0) if slots else None,
                )
            )
        return sorted(requests, key=_urgency)


def _urgency(request: Request) -> tuple[bool, float, bool, float, int]:
    """What stays comes first, then what is hardest to place."""
    config = request.config
    return (
        request.current is None,
        -config.layout.tp * config.layout.shares / config.pool.shares,
        request.demand.spread == "none",
        -config.stage_power_w,
        request.candidate,
    )


def _current_by_candidate(
    candidates: Sequence[Candidate], current: Plan | None
) -> dict[int, list[Slot]]:
    found: dict[int, list[Slot]] = defaultdict(list)
    if current is None:
        return found
    devices = [{d for b in c.pool.blocks for d in b.devices} for c in candidates]
    for slot in current.slots:
        for k, candidate in enumerate(candidates):
            if _matches(slot, candidate) and devices[k].issuperset(slot.devices):
                found[k].append(slot)
                break
    return found


def _matches(slot: Slot, candidate: Candidate) -> bool:
    layout, option = candidate.layout, candidate.option
    return (
        slot.model == candidate.model
        and slot.engine == option.engine.name
        and slot.dtype == layout.dtype
        and (slot.tp, slot.pp) == (layout.tp, layout.pp)
        and all(stage.shares == layout.shares for stage in slot.stages)
        and tuple(stage.layers for stage in slot.stages)
        == layer_ranges(option.facts.layers, layout.pp)
    )


class _Descent:
    """One depth-first search over the stages of all requests."""

    def __init__(
        self,
        floor: Floor,
        requests: list[Request],
        should_stop: Callable[[], bool],
        max_steps: int,
    ) -> None:
        self.max_steps = max_steps
        self.floor = floor
        self.requests = requests
        self.should_stop = should_stop
        self.placed: list[Placed] = []
        self.exact = True
        self.steps = 0
        self._failed: set[tuple[object, ...]] = set()

    def run(self) -> bool:
        """True when every request has its place, then in `placed`."""
        return self._place(0, [])

    def _place(self, index: int, seats: list[Seat]) -> bool:
        if index == len(self.requests):
            return True
        request = self.requests[index]
        if len(seats) == request.config.layout.pp:
            return self._next(index, seats)
        return any(self._try(index, seats, seat) for seat in self._seats(request, seats))

    def _next(self, index: int, seats: list[Seat]) -> bool:
        """Goes on after a whole replica, unless an equal state has failed before."""
        state = (index, *self.floor.state())
        if state in self._failed:
            return False
        self.placed.append(_placed(self.requests[index], seats))
        if self._place(index + 1, []):
            return True
        self.placed.pop()
        self._failed.add(state)
        return False

    def _try(self, index: int, seats: list[Seat], seat: Seat) -> bool:
        self.steps += 1
        if self.steps > self.max_steps or self.should_stop():
            self.exact = False
            return False
        request = self.requests[index]
        self.floor.change(request, seat, +1)
        if self._place(index, [*seats, seat]):
            return True
        self.floor.change(request, seat, -1)
        return False

    def _seats(self, request: Request, seats: list[Seat]) -> Iterator[Seat]:
        if self.steps > self.max_steps:
            self.exact = False
            return
        own = {domain(request.demand, seat.block) for seat in seats}
        kept = self._kept(request, seats, own)
        if kept is not None:
            yield kept
        last = seats[-1].block.node if seats else None
        found: dict[tuple[object, ...], tuple[bool, int, int, Seat]] = {}
        for position, block in enumerate(request.config.pool.blocks):
            if self.floor.admits(request, block, own):
                away = block.node != last
                alike = (block.node if not away else "", block.island, self.floor.alike(block.node))
                for left, seat in self._in_block(request, block):
                    found.setdefault((*alike, left), (away, left, position, seat))
        for _, _, _, seat in sorted(found.values(), key=lambda entry: entry[:3]):
            if seat != kept:
                yield seat

    def _kept(self, request: Request, seats: list[Seat], own: set[str]) -> Seat | None:
        """The place of this stage in the current plan, where it is still free."""
        if request.current is None:
            return None
        stage = request.current.stages[len(seats)]
        pool, shares = request.config.pool, request.config.layout.shares
        block = next((b for b in pool.blocks if set(b.devices).issuperset(stage.devices)), None)
        if block is None or any(self.floor.free[d] < shares for d in stage.devices):
            return None
        if not self.floor.admits(request, block, own):
            return None
        return Seat(pool=pool, block=block, devices=stage.devices)

    def _in_block(self, request: Request, block: Block) -> Iterator[tuple[int, Seat]]:
        """Places in a block with what they leave free; devices with equal free shares count once."""
        layout, pool = request.config.layout, request.config.pool
        fitting = [d for d in block.devices if self.floor.free[d] >= layout.shares]
        if pool.shares > 1:
            levels = {self.floor.free[d]: d for d in reversed(fitting)}
            for free, device in levels.items():
                yield free - layout.shares, Seat(pool=pool, block=block, devices=(device,))
        elif len(fitting) >= layout.tp:
            devices = tuple(fitting[: layout.tp])
            yield len(fitting) - layout.tp, Seat(pool=pool, block=block, devices=devices)


def _placed(request: Request, seats: list[Seat]) -> Placed:
    ranges = layer_ranges(request.config.option.facts.layers, request.config.layout.pp)
    stages = tuple(
        Stage(
            layers=layers,
            node=seat.block.node,
            devices=seat.devices,
            shares=request.config.layout.shares,
        )
        for layers, seat in zip(ranges, seats, strict=True)
    )
    current = request.current
    same = current is not None and current.stages == stages
    return Placed(
        candidate=request.candidate,
        stages=stages,
        kept=current.id if current is not None and same else None,
    )
