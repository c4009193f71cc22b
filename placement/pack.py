"""Puts chosen configurations on nodes and devices.

Two ways: `fill`, best fit with a few ejections, for any size; and here a depth-first search that is exact within its step
limit, for sizes where that is worth trying. Both keep what only nodes can tell (`floor`): free devices of each island, shares
of each device, spread, watts of nodes and racks, nodes of exclusive tenants. Both prefer where a replica runs now, then the
node of the previous stage, then the fullest place that fits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .constraint import Block, Candidate, Pool
from .constraints.spread import domain
from .demand import App
from .fill import Fill
from .floor import Floor, Request, Seat
from .ids import DeviceId, SlotId
from .layout import layer_ranges
from .plan import Plan, Slot, Stage

MAX_STEPS = 600
"""Stages tried in vain before one packing is given up."""

ONE_POOL_STEPS = 100
"""The same for the pool alone where best fit failed, in a plan that is too large to be searched whole."""

MAX_EXACT = 80
"""Stages up to which the depth-first search is tried where best fit fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One replica on its devices; `kept` names the slot of the current plan that it continues."""

    candidate: int
    stages: tuple[Stage, ...]
    kept: SlotId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What came out.

    Attributes:
        placed: None when nothing was found.
        exact: then there is nothing to find.
        failed: candidate of a replica that found no place.
    """

    placed: tuple[Placed, ...] | None
    exact: bool = True
    failed: int | None = None


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
        self.running: Mapping[int, Sequence[Slot]] = _current_by_candidate(
            candidates, pools, current
        )
        self._known: dict[tuple[int, ...], Packing] = {}
        self._steps_left = 0

    def allow(self, steps: int) -> None:
        """Stages that the exact search may try from now on, over all packings; after that no failure is sure."""
        self._steps_left = steps

    def pack(self, chosen: Sequence[int]) -> Packing:
        """Places one replica for each of the chosen candidates (indices, repeated for several replicas)."""
        key = tuple(sorted(chosen))
        known = self._known.get(key)
        if known is None or (known.placed is None and not known.exact and self._steps_left > 0):
            known = self._known[key] = self._pack(key)
        return known

    def _pack(self, chosen: tuple[int, ...]) -> Packing:
        requests = self._requests(chosen)
        fill = Fill(self._floor(), self._pools, requests)
        failed = fill.run()
        if failed is None:
            return Packing(placed=tuple(map(_placed, requests, fill.seats)))
        if sum(request.config.layout.pp for request in requests) <= MAX_EXACT:
            return self._descend(requests, failed)
        return self._one_pool(requests, failed)

    def _descend(
        self,
        requests: list[Request],
        failed: int,
        floor: Floor | None = None,
        spare: int = MAX_STEPS,
    ) -> Packing:
        """The exact search, as far as its steps go."""
        if self._steps_left <= 0:
            return Packing(placed=None, exact=False, failed=failed)
        stages = sum(request.config.layout.pp for request in requests)
        limit = min(stages + spare, self._steps_left)
        search = _Descent(floor or self._floor(), requests, self._should_stop, limit)
        found = search.run()
        self._steps_left -= search.steps
        placed = tuple(search.placed) if found else None
        return Packing(placed=placed, exact=search.exact, failed=failed)

    def _one_pool(self, requests: list[Request], failed: int) -> Packing:
        """The exact search for the pool where best fit failed, with best fit for all others."""
        if any(request.config.stages for request in requests):
            return Packing(placed=None, exact=False, failed=failed)
        pool = self._candidates[failed].pool.name
        inside = [r for r in requests if r.config.pool.name == pool]
        outside = [r for r in requests if r.config.pool.name != pool]
        floor = self._floor()
        fill = Fill(floor, self._pools, outside)
        other = fill.run()
        if other is None and sum(r.config.layout.pp for r in inside) <= MAX_EXACT:
            found = self._descend(inside, failed, floor, ONE_POOL_STEPS)
            if found.placed is not None:
                placed = (*found.placed, *map(_placed, outside, fill.seats))
                return Packing(placed=placed, failed=failed)
        return Packing(placed=None, exact=False, failed=other or failed)

    def _floor(self) -> Floor:
        return Floor(self._app, self._pools, self._exclusive)

    def _requests(self, chosen: tuple[int, ...]) -> list[Request]:
        running = {k: list(slots) for k, slots in self.running.items()}
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


_Config = tuple[object, ...]


def _current_by_candidate(
    candidates: Sequence[Candidate], pools: Sequence[Pool], current: Plan | None
) -> dict[int, list[Slot]]:
    """Slots of the current plan whose devices and configuration are still there."""
    found: dict[int, list[Slot]] = defaultdict(list)
    if current is None:
        return found
    pool_of: dict[DeviceId, str] = {
        device: pool.name for pool in pools for block in pool.blocks for device in block.devices
    }
    models = {slot.model for slot in current.slots}
    known: dict[_Config, int] = {}
    ranges: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}
    for k, candidate in enumerate(candidates):
        if candidate.model in models:
            cut = candidate.option.facts.layers, candidate.layout.pp
            if cut not in ranges:
                ranges[cut] = layer_ranges(*cut)
            own = candidate.layer_ranges if candidate.stages else ranges[cut]
            known.setdefault(_config_of_candidate(candidate, own), k)
    for slot in current.slots:
        names = [{pool_of.get(device, "") for device in stage.devices} for stage in slot.stages]
        if all(len(own) == 1 for own in names):
            k = known.get(_config_of_slot(slot, tuple(own.pop() for own in names)))
            if k is not None:
                found[k].append(slot)
    return found


def _config_of_candidate(candidate: Candidate, ranges: tuple[tuple[int, int], ...]) -> _Config:
    layout, option = candidate.layout, candidate.option
    return (
        candidate.model,
        tuple(candidate.pool_of(stage).name for stage in range(layout.pp)),
        option.engine.name,
        layout.dtype,
        layout.tp,
        layout.shares,
        ranges,
    )


def _config_of_slot(slot: Slot, pools: tuple[str, ...]) -> _Config:
    shares = {stage.shares for stage in slot.stages}
    return (
        slot.model,
        pools,
        slot.engine,
        slot.dtype,
        slot.tp,
        shares.pop() if len(shares) == 1 else 0,
        tuple(stage.layers for stage in slot.stages),
    )


@dataclass(slots=True)
class _Level:
    """One stage of the descent.

    Attributes:
        seats: of the earlier stages of its replica.
        tries: places not tried yet.
        seat: taken now.
        state: of the floor, where the seat completes a replica.
    """

    index: int
    seats: list[Seat]
    tries: Iterator[Seat]
    seat: Seat | None = None
    state: tuple[object, ...] | None = None


class _Descent:
    """One depth-first search over the stages of all requests, on a stack of its own: Python's ends at some hundred."""

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
        levels = [self._open(0, [])] if self.requests else []
        while levels:
            level = levels[-1]
            self._take_back(level)
            seat = next(level.tries, None)
            if seat is None or not self._spend():
                levels.pop()
            elif self._take(level, seat):
                if len(self.placed) == len(self.requests):
                    return True
                levels.append(self._below(level, seat))
        return not self.requests

    def _open(self, index: int, seats: list[Seat]) -> _Level:
        return _Level(index=index, seats=seats, tries=self._seats(self.requests[index], seats))

    def _below(self, level: _Level, seat: Seat) -> _Level:
        """The next stage of the same replica, or the first one of the next."""
        if level.state is None:
            return self._open(level.index, [*level.seats, seat])
        return self._open(level.index + 1, [])

    def _spend(self) -> bool:
        self.steps += 1
        if self.steps > self.max_steps or self.should_stop():
            self.exact = False
        return self.exact

    def _take(self, level: _Level, seat: Seat) -> bool:
        """Takes a seat; False when it ends a replica in a state that has failed before."""
        request, seats = self.requests[level.index], [*level.seats, seat]
        self.floor.change(request, seat, +1)
        level.seat = seat
        if len(seats) < request.config.layout.pp:
            return True
        state = (level.index, *self.floor.state())
        if state in self._failed:
            return False
        level.state = state
        self.placed.append(_placed(request, seats))
        return True

    def _take_back(self, level: _Level) -> None:
        """Frees the seat that is taken; what could not be completed from it is not tried again."""
        if level.state is not None:
            self._failed.add(level.state)
            self.placed.pop()
            level.state = None
        if level.seat is not None:
            self.floor.change(self.requests[level.index], level.seat, -1)
            level.seat = None

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
        number = len(seats)
        for position, block in enumerate(request.config.pool_of(number).blocks):
            if self.floor.admits(request, number, block, own):
                away = block.node != last
                alike = (block.node if not away else "", block.island, self.floor.alike(block.node))
                for left, seat in self._in_block(request, number, block):
                    found.setdefault((*alike, left), (away, left, position, seat))
        for _, _, _, seat in sorted(found.values(), key=lambda entry: entry[:3]):
            if seat != kept:
                yield seat

    def _kept(self, request: Request, seats: list[Seat], own: set[str]) -> Seat | None:
        """The place of this stage in the current plan, where it is still free."""
        if request.current is None:
            return None
        number = len(seats)
        stage = request.current.stages[number]
        pool, shares = request.config.pool_of(number), request.config.layout.shares
        block = next((b for b in pool.blocks if set(b.devices).issuperset(stage.devices)), None)
        if block is None or any(self.floor.free[d] < shares for d in stage.devices):
            return None
        if not self.floor.admits(request, number, block, own):
            return None
        return Seat(stage=number, pool=pool, block=block, devices=stage.devices)

    def _in_block(self, request: Request, stage: int, block: Block) -> Iterator[tuple[int, Seat]]:
        """Places in a block with what they leave free; devices with equal free shares count once."""
        layout, pool = request.config.layout, request.config.pool_of(stage)
        fitting = [d for d in block.devices if self.floor.free[d] >= layout.shares]
        if pool.shares > 1:
            levels = {self.floor.free[d]: d for d in reversed(fitting)}
            for free, device in levels.items():
                seat = Seat(stage=stage, pool=pool, block=block, devices=(device,))
                yield free - layout.shares, seat
        elif len(fitting) >= layout.tp:
            devices = tuple(fitting[: layout.tp])
            seat = Seat(stage=stage, pool=pool, block=block, devices=devices)
            yield len(fitting) - layout.tp, seat


def _placed(request: Request, seats: list[Seat]) -> Placed:
    stages = tuple(
        Stage(
            layers=layers,
            node=seat.block.node,
            devices=seat.devices,
            shares=request.config.layout.shares,
        )
        for layers, seat in zip(request.config.layer_ranges, seats, strict=True)
    )
    current = request.current
    same = current is not None and current.stages == stages
    return Placed(
        candidate=request.candidate,
        stages=stages,
        kept=current.id if current is not None and same else None,
    )
