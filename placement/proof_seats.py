"""Whether chosen replicas can stand on the nodes together: an exact search of the verifier's own, with bounded steps.

Takes options as given; what they are worth, and which to choose, is not decided here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from .demand import App, Demand
from .proof_options import Option
from .proof_pools import Block, Pool

_SLACK = 1e-6
_MOST_STAGES = 400
"""More stages than this are not tried: the search goes one call deeper for each."""


_SEAT_COST = 500
"""A place that is tried takes as long as this many steps of the search for a better plan."""

_HALL_COST = 5000
"""And so does looking at all blocks before the first place is tried."""

_Domain = tuple[str, str]
"""A node or a rack, as a spread counts them."""


class OutOfSteps(Exception):
    """The step limit was reached before an answer was found."""


class Steps:
    """A budget of search steps that several searches share."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, cost: int = 1) -> None:
        """Uses steps. Raises OutOfSteps when too few are left."""
        if self.left < cost:
            self.left = 0
            raise OutOfSteps
        self.left -= cost


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of one replica to seat."""

    option: Option
    pool: Pool
    watts: float
    replica: int
    first: bool
    """Of its replica."""
    anew: bool
    """The stage before is not in this pool: this one may stand further front."""
    repeats: bool
    """The replica before is of the same option: it may not stand further back than that."""


def seat(app: App, pools: Sequence[Pool], replicas: Sequence[Option], steps: Steps) -> bool:
    """Whether all replicas find a place at once.

    Raises:
        OutOfSteps: nothing is known.
    """
    stages = _stages(replicas)
    if len(stages) > _MOST_STAGES:
        raise OutOfSteps
    steps.take(_HALL_COST)
    return _Hall(app, pools, steps).place(stages, 0, 0, 0)


def _stages(replicas: Sequence[Option]) -> list[_Stage]:
    """Large groups first; replicas of one option one after the other."""
    kinds = list({id(o): o for o in replicas}.values())
    rank = {id(option): k for k, option in enumerate(kinds)}
    ordered = sorted(
        replicas,
        key=lambda o: (-o.layout.tp * o.layout.shares / o.pool.shares, o.pool.name, rank[id(o)]),
    )
    found: list[_Stage] = []
    for k, option in enumerate(ordered):
        repeats = k > 0 and ordered[k - 1] is option
        for number, stage in enumerate(option.stages):
            anew = number == 0 or option.stages[number - 1].pool is not stage.pool
            found.append(
                _Stage(
                    option, stage.pool, stage.watts, k, number == 0, anew, repeats and number == 0
                )
            )
    return found


class _Hall:
    """What is free on every block. Each seat taken can be given back."""

    def __init__(self, app: App, pools: Sequence[Pool], steps: Steps) -> None:
        self._budgets = app.budgets
        self._exclusive = {tenant.name for tenant in app.tenants if tenant.exclusive_nodes}
        self._racks = app.budgets.rack_w is not None or any(
            demand.spread == "rack" for demand in app.demands
        )
        self._steps = steps
        self._blocks: dict[str, list[tuple[int, Block]]] = defaultdict(list)
        self._free: list[tuple[int, ...]] = []
        self._pools: list[str] = []
        self._on: dict[str, list[int]] = defaultdict(list)
        for pool in pools:
            for block in pool.blocks:
                self._on[block.node].append(len(self._free))
                self._blocks[pool.name].append((len(self._free), block))
                self._free.append((pool.shares,) * len(block.devices))
                self._pools.append(pool.name)
        self._node_w: dict[str, float] = defaultdict(float)
        self._rack_w: dict[str, float] = defaultdict(float)
        self._tenants: dict[str, Counter[str]] = defaultdict(Counter)
        self._models: dict[_Domain, Counter[tuple[str, int]]] = defaultdict(Counter)

    def place(self, stages: Sequence[_Stage], index: int, start: int, origin: int) -> bool:
        """Places the stages from `index` on; `start` is the least block of the next stage, `origin` that of its replica."""
        if index == len(stages):
            return True
        stage = stages[index]
        if stage.anew:
            start = origin if stage.repeats else 0
        tried: set[object] = set()
        for number, block in self._blocks[stage.pool.name]:
            if number < start or not self._admits(stage, block):
                continue
            alike = self._alike(stage, number, block)
            if alike in tried:
                continue
            tried.add(alike)
            for left in self._ways(stage.option, number):
                self._steps.take(_SEAT_COST)
                before = self._change(stage, number, block, left, 1)
                first = number if stage.first else origin
                if self.place(stages, index + 1, number, first):
                    return True
                self._change(stage, number, block, before, -1)
        return False

    def _admits(self, stage: _Stage, block: Block) -> bool:
        watts, demand = stage.watts, stage.option.demand
        if _over(self._node_w[block.node] + watts, self._budgets.node_w):
            return False
        if _over(self._rack_w[block.rack] + watts, self._budgets.rack_w):
            return False
        others = {name for name, n in self._tenants[block.node].items() if n} - {demand.tenant}
        if others and (demand.tenant in self._exclusive or others & self._exclusive):
            return False
        if demand.spread == "none":
            return True
        there = self._models[_domain(demand, block)]
        return not any(
            n and model == demand.id and replica != stage.replica
            for (model, replica), n in there.items()
        )

    def _alike(self, stage: _Stage, number: int, block: Block) -> object:
        """Equal for blocks that neither this stage nor any later one can tell apart."""
        node = block.node
        return (
            block.rack if self._racks else "",
            self._free[number],
            tuple(sorted((self._pools[k], self._free[k]) for k in self._on[node])),
            round(self._node_w[node], 6),
            frozenset(name for name, n in self._tenants[node].items() if n),
            frozenset(
                (model, replica == stage.replica)
                for (model, replica), n in self._models["node", node].items()
                if n
            ),
        )

    def _ways(self, option: Option, number: int) -> Iterator[tuple[int, ...]]:
        """What may be left free of a block after one group was taken, each different outcome once."""
        free, tp, shares = self._free[number], option.layout.tp, option.layout.shares
        able = [k for k, left in enumerate(free) if left >= shares]
        if len({free[k] for k in able}) <= 1:
            picks: Iterator[tuple[int, ...]] = iter([tuple(able[:tp])] if len(able) >= tp else [])
        else:
            picks = combinations(able, tp)
        seen: set[tuple[int, ...]] = set()
        for pick in picks:
            left = tuple(sorted(n - shares * (k in pick) for k, n in enumerate(free)))
            if left not in seen:
                seen.add(left)
                yield left

    def _change(
        self, stage: _Stage, number: int, block: Block, free: tuple[int, ...], sign: int
    ) -> tuple[int, ...]:
        """Takes a place (+1) or gives it back (-1); returns what was free before."""
        before, self._free[number] = self._free[number], free
        demand, watts = stage.option.demand, stage.watts
        self._node_w[block.node] += sign * watts
        self._rack_w[block.rack] += sign * watts
        self._tenants[block.node][demand.tenant] += sign
        if demand.spread != "none":
            self._models[_domain(demand, block)][demand.id, stage.replica] += sign
        return before


def _domain(demand: Demand, block: Block) -> _Domain:
    return ("rack", block.rack) if demand.spread == "rack" else ("node", block.node)


def _over(watts: float, budget_w: float | None) -> bool:
    return budget_w is not None and watts > budget_w * (1 + _SLACK)
