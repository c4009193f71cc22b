"""Best-fit packing: every stage goes to the fullest place that has room, large ones first; where none has, another replica makes
way.

With groups whose sizes are powers of two and the ladder of rows over them, best fit alone finds a place for every stage as
long as no failure domain, power budget or tenant forbids one. Knows one attempt; says which replica failed.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator, Sequence

from .constraint import Block, Pool
from .constraints.spread import domain
from .floor import Floor, Request, Seat
from .ids import DeviceId

DEPTH = 2
"""Replicas that may make way for one another in a row."""

TRIES = 60
"""Replicas tried as the one that makes way, for each that finds no place."""


class _Bins:
    """Places of one pool by what is free in them: blocks of devices, or devices that are given out in shares."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.places: list[tuple[Block, tuple[DeviceId, ...]]] = (
            [(block, block.devices) for block in pool.blocks]
            if pool.shares == 1
            else [(block, (device,)) for block in pool.blocks for device in block.devices]
        )
        self.free = [len(devices) * pool.shares for _, devices in self.places]
        self.by_free: dict[int, list[int]] = defaultdict(list)
        self.on_node: dict[str, list[int]] = defaultdict(list)
        for k, (block, _) in enumerate(self.places):
            self.by_free[self.free[k]].append(k)
            self.on_node[block.node].append(k)
        self.at = {device: k for k, (_, devices) in enumerate(self.places) for device in devices}

    def change(self, place: int, amount: int) -> None:
        """Adds to what is free in a place."""
        there = self.by_free[self.free[place]]
        del there[bisect_left(there, place)]
        self.free[place] += amount
        insort(self.by_free[self.free[place]], place)

    def fitting(self, size: int) -> Iterator[int]:
        """Places with room, the fullest first."""
        for free in sorted(self.by_free):
            if free >= size:
                yield from self.by_free[free]


class Fill:
    """One attempt to place all requests, in their order. `seats` holds the places of each."""

    def __init__(self, floor: Floor, pools: Sequence[Pool], requests: Sequence[Request]) -> None:
        self._floor = floor
        self._requests = requests
        self._bins = {pool.name: _Bins(pool) for pool in pools}
        self._here: dict[tuple[str, int], set[int]] = defaultdict(set)
        self._tries_left = 0
        self.seats: list[list[Seat]] = [[] for _ in requests]

    def run(self) -> int | None:
        """None when every request has its place, else the candidate of one that has none."""
        for index, request in enumerate(self._requests):
            self._tries_left = TRIES
            if not self._place(index) and not self._eject(index, DEPTH):
                return request.candidate
        return None

    def _size(self, request: Request) -> int:
        return request.config.layout.tp * request.config.layout.shares

    def _place(self, index: int) -> bool:
        """All stages of a request, or none."""
        request = self._requests[index]
        if request.current is not None and self._stay(index):
            return True
        for _ in range(request.config.layout.pp):
            seat = self._seat(request, self.seats[index])
            if seat is None:
                self._leave(index)
                return False
            self._take(index, seat)
        return True

    def _stay(self, index: int) -> bool:
        """Where it runs now, when all of that is free."""
        request = self._requests[index]
        assert request.current is not None
        shares = request.config.layout.shares
        for number, stage in enumerate(request.current.stages):
            bins = self._bins[request.config.pool_of(number).name]
            block, _ = bins.places[bins.at[stage.devices[0]]]
            free = all(self._floor.free[d] >= shares for d in stage.devices)
            own = {domain(request.demand, seat.block) for seat in self.seats[index]}
            if not free or not self._floor.admits(request, number, block, own):
                self._leave(index)
                return False
            seat = Seat(stage=number, pool=bins.pool, block=block, devices=stage.devices)
            self._take(index, seat)
        return True

    def _seat(self, request: Request, seats: list[Seat]) -> Seat | None:
        stage, size = len(seats), self._size(request)
        bins = self._bins[request.config.pool_of(stage).name]
        own = {domain(request.demand, seat.block) for seat in seats}
        if seats:
            for place in bins.on_node[seats[-1].block.node]:
                block = bins.places[place][0]
                if bins.free[place] >= size and self._floor.admits(request, stage, block, own):
                    return self._seat_at(request, stage, bins, place)
        for place in bins.fitting(size):
            if self._floor.admits(request, stage, bins.places[place][0], own):
                return self._seat_at(request, stage, bins, place)
        return None

    def _seat_at(self, request: Request, stage: int, bins: _Bins, place: int) -> Seat:
        block, devices = bins.places[place]
        layout = request.config.layout
        free = [d for d in devices if self._floor.free[d] >= layout.shares]
        devices = tuple(free[: layout.tp])
        return Seat(stage=stage, pool=bins.pool, block=block, devices=devices)

    def _take(self, index: int, seat: Seat) -> None:
        request, bins = self._requests[index], self._bins[seat.pool.name]
        place = bins.at[seat.devices[0]]
        self._floor.change(request, seat, +1)
        bins.change(place, -self._size(request))
        self._here[seat.pool.name, place].add(index)
        self.seats[index].append(seat)

    def _leave(self, index: int) -> list[Seat]:
        """Gives all seats of a request back."""
        request, seats = self._requests[index], self.seats[index]
        for seat in reversed(seats):
            bins = self._bins[seat.pool.name]
            place = bins.at[seat.devices[0]]
            self._floor.change(request, seat, -1)
            bins.change(place, self._size(request))
            self._here[seat.pool.name, place].discard(index)
        self.seats[index] = []
        return seats

    def _eject(self, index: int, depth: int) -> bool:
        """Places a request where another one, which finds a place elsewhere, makes way."""
        for victim in self._victims(index):
            if self._tries_left <= 0:
                return False
            self._tries_left -= 1
            seats = self._leave(victim)
            if self._place(index):
                if self._place(victim) or (depth > 1 and self._eject(victim, depth - 1)):
                    return True
                self._leave(index)
            for seat in seats:
                self._take(victim, seat)
        return False

    def _victims(self, index: int) -> list[int]:
        """Replicas whose leaving could make room: those that run nowhere yet first, then the smallest."""
        request = self._requests[index]
        size = self._size(request)
        found: set[int] = set()
        for pool in request.config.pools:
            for place, free in enumerate(self._bins[pool.name].free):
                for other in self._here[pool.name, place]:
                    if free + self._size(self._requests[other]) >= size and other != index:
                        found.add(other)
        return sorted(
            found,
            key=lambda k: (
                self._requests[k].current is not None,
                self._size(self._requests[k]),
                k,
            ),
        )
