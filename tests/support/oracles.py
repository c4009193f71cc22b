"""Exact answers from other people's solvers, on formulations of their own: only the cost model and the worth are shared.

`by_class` is a mixed-integer program over counts (HiGHS): devices of a class are one number, so that its optimum may be
above what nodes can hold. `by_node` is a constraint program over interconnect islands (CP-SAT): its optimum is the truth.
Pipelines are those of equal layer ranges on one device class.

Both libraries carry HiGHS and one process loads only one of them: each oracle is asked in a process of its own (`asking`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context

from placement.catalog import EngineFacts, classes_of, engines_for
from placement.demand import Demand
from placement.devices import DeviceClass, Dtype, Health
from placement.inventory import Inventory, Node
from placement.layout import Layout, stored_dtype
from placement.plan import Predicted
from placement.problem import Problem, facts_of
from placement.roofline import predict, slowest_hop
from placement.score import replica_value

SCALE = 1_000_000
"""Worth and watts become integers of this many parts for CP-SAT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Devices that size a replica alike."""

    device_class: str
    emulated: bool
    memory_bytes: int
    shares: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Island:
    """`count` healthy devices that a TP group may be of; where a device can be shared, one device alone."""

    kind: Kind
    node: Node
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """One configuration of one model on one kind of devices."""

    kind: Kind
    engine: EngineFacts
    tp: int
    pp: int
    shares: int
    predicted: Predicted
    value: float

    @property
    def amount(self) -> int:
        """Devices or shares of each stage."""
        return self.tp * self.shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """What an oracle found: the best value (None = no plan exists), and a limit that no plan is above."""

    value: float | None
    limit: float
    proven: bool


ANSWER_TIMEOUT_S = 110.0


@contextmanager
def asking(oracle: Callable[..., Optimum]) -> Generator[Callable[..., Optimum]]:
    """The same function, run in a child process that ends with the block."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        yield lambda *given, **named: pool.submit(oracle, *given, **named).result(ANSWER_TIMEOUT_S)


def islands(inventory: Inventory) -> tuple[Island, ...]:
    """Every island of healthy devices on nodes that are not cordoned."""
    found: list[Island] = []
    for node in (n for n in inventory.nodes if not n.cordoned):
        groups: Counter[tuple[Kind, int]] = Counter()
        for device in (d for d in node.devices if d.health is Health.HEALTHY):
            kind = Kind(
                device_class=device.device_class,
                emulated=device.emulated,
                memory_bytes=device.memory_bytes,
                shares=device.shares,
            )
            if device.shares > 1:
                found.append(Island(kind=kind, node=node, count=1))
            else:
                groups[kind, device.island] += 1
        found.extend(Island(kind=k, node=node, count=n) for (k, _), n in groups.items())
    return tuple(found)


def sized(problem: Problem, demand: Demand, kind: Kind) -> Iterator[Sized]:
    """Every configuration of a model that devices of a kind can run, as if there were enough of them."""
    facts = facts_of(demand, problem.inventory)
    device_class = classes_of(problem.inventory)[kind.device_class]
    if facts is None or kind.device_class in demand.banned or demand.context > facts.window:
        return
    for engine in engines_for(
        device_class, emulated=kind.emulated, extra=problem.inventory.engines
    ):
        dtype = _dtype(demand, facts, engine, device_class)
        if dtype is None or not _may_run(demand, facts, engine, kind):
            continue
        for tp, pp, shares in product(engine.tp, range(1, engine.pp + 1), _shares(kind.shares)):
            if tp > 1 and (facts.heads % tp or not device_class.link_bytes_per_s):
                continue
            if (facts.kv_heads % tp and tp % facts.kv_heads) or pp > facts.layers:
                continue
            predicted = predict(
                demand,
                facts,
                device_class,
                engine,
                Layout(dtype=dtype, tp=tp, pp=pp, shares=shares),
                device_shares=kind.shares,
                hop=slowest_hop(problem.inventory),
            )
            if _keeps(demand, predicted, kind.memory_bytes * shares // kind.shares):
                yield Sized(
                    kind=kind,
                    engine=engine,
                    tp=tp,
                    pp=pp,
                    shares=shares,
                    predicted=predicted,
                    value=replica_value(
                        demand, facts, problem.app.policy, predicted, device_class.name
                    ),
                )


def _shares(whole: int) -> tuple[int, ...]:
    return tuple(sorted({whole, *(2**k for k in range(whole.bit_length()) if 2**k <= whole)}))


def _may_run(demand: Demand, facts, engine: EngineFacts, kind: Kind) -> bool:
    scheme = demand.model.source.partition("://")[0]
    return (
        (demand.engines is None or engine.name in demand.engines)
        and (not engine.architectures or facts.architecture in engine.architectures)
        and (demand.arithmetic == "fast" or engine.exact)
        and demand.requires <= engine.offers
        and (kind.emulated or not engine.schemes or scheme in engine.schemes)
    )


def _dtype(demand: Demand, facts, engine: EngineFacts, device_class: DeviceClass) -> Dtype | None:
    computes = {d for d, _ in device_class.flops} & set(engine.runs(demand.arithmetic))
    if engine.stored_weights and facts.weights_bytes:
        stored = stored_dtype(facts)
        return stored if computes and demand.dtype in (None, stored) else None
    if demand.dtype is not None:
        return demand.dtype if demand.dtype in computes else None
    return next((d for d in ("bf16", "fp16", "fp32") if d in computes), None)


def _keeps(demand: Demand, predicted: Predicted, memory_bytes: int) -> bool:
    limits = (
        (predicted.memory_bytes, memory_bytes),
        (predicted.ttft_s, demand.max_ttft_s),
        (predicted.token_s, demand.max_token_s),
        (predicted.power_w, demand.power_budget_w),
        (predicted.price_per_hour, demand.max_price_per_hour),
    )
    return all(limit is None or amount <= limit for amount, limit in limits)


def may_use(demand: Demand, option: Sized, island: Island) -> bool:
    """Whether a stage of a configuration may be on an island."""
    node = island.node
    if option.kind != island.kind or option.tp > island.count:
        return False
    if demand.pin_nodes is not None and node.id not in demand.pin_nodes:
        return False
    if node.engines is not None and option.engine.name not in node.engines:
        return False
    compiled = {
        a.tp
        for a in node.artifacts
        if (a.model, a.device_class) == (demand.id, option.kind.device_class)
    }
    return not compiled or not option.engine.build_s or option.tp in compiled


# -- counts by class: HiGHS -----------------------------------------------------------------------------------------


def by_class(
    problem: Problem, *, whole: bool = True, gap: float = 1e-7, limit_s: float = 60.0
) -> Optimum:
    """The best counts of configurations, or with `whole` False the best fractions of them: the bound of ideal prices.

    Knows devices, groups per island, cluster power and spread over nodes.
    """
    import highspy

    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("mip_rel_gap", gap)
    highs.setOptionValue("time_limit", limit_s)
    rows: dict[object, tuple[float, float, dict[int, float]]] = {}
    there = islands(problem.inventory)
    variables = 0
    for demand in problem.app.demands:
        own = (float(demand.replicas_min), float(demand.replicas_max), {})
        rows[demand.id] = own
        for kind in sorted({i.kind for i in there}, key=str):
            for option in sized(problem, demand, kind):
                usable = [i for i in there if may_use(demand, option, i)]
                if not usable:
                    continue
                highs.addVar(0.0, own[1])
                highs.changeColCost(variables, option.value)
                if whole:
                    highs.changeColIntegrality(variables, highspy.HighsVarType.kInteger)
                own[2][variables] = 1.0
                _count(problem, demand, option, there, usable, variables, rows)
                variables += 1
    for low, high, entries in rows.values():
        highs.addRow(low, high, len(entries), list(entries), list(entries.values()))
    highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
    highs.run()
    status = highs.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return Optimum(value=None, limit=float("-inf"), proven=True)
    found = highs.getInfo()
    return Optimum(
        value=found.objective_function_value,
        limit=found.mip_dual_bound if whole else found.objective_function_value,
        proven=status == highspy.HighsModelStatus.kOptimal,
    )


def _count(problem, demand, option, there, usable, variable, rows) -> None:
    kind = option.kind

    def add(name: object, limit: float, amount: float) -> None:
        rows.setdefault(name, (float("-inf"), limit, {}))[2][variable] = amount

    everywhere = [i for i in there if i.kind == kind]
    add(("units", kind), kind.shares * sum(i.count for i in everywhere), option.amount * option.pp)
    for size in (2, 4, 8):
        if option.tp >= size:
            room = sum(i.count // size for i in everywhere)
            add(("groups", kind, size), room, option.pp * (option.tp // size))
    if problem.app.budgets.cluster_w is not None:
        add("power", problem.app.budgets.cluster_w, option.predicted.power_w)
    if demand.spread == "node":
        add(("spread", demand.id, kind), len({i.node.id for i in usable}), 1.0)


# -- seats on islands: CP-SAT ---------------------------------------------------------------------------------------


def by_node(problem: Problem, *, limit_s: float = 60.0) -> Optimum:
    """The best plan, with every rule that a plan must keep to."""
    from ortools.sat.python import cp_model

    seats = _Seats(problem, cp_model.CpModel())
    for demand in problem.app.demands:
        seats.add(demand)
    seats.close()
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.random_seed = 1
    status = solver.solve(seats.model)
    if status == cp_model.INFEASIBLE:
        return Optimum(value=None, limit=float("-inf"), proven=True)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return Optimum(
        value=solver.objective_value / SCALE if found else None,
        limit=solver.best_objective_bound / SCALE,
        proven=status == cp_model.OPTIMAL,
    )


class _Seats:
    """Copies with a rule of their own (spread) are variables each; all others of a model are counted together."""

    def __init__(self, problem: Problem, model) -> None:
        self.problem = problem
        self.model = model
        self.there = islands(problem.inventory)
        self.worth: list = []
        self.limited: dict[object, tuple[float, list]] = defaultdict(lambda: (0.0, []))
        self.present: dict[tuple[str, str], list] = defaultdict(list)

    def add(self, demand: Demand) -> None:
        """The variables and rules of one model."""
        most = demand.replicas_max
        sizes = [1] * most if demand.spread != "none" else [most] * (most > 0)
        chosen: list = []
        domains: dict[str, list] = defaultdict(list)
        origins: dict[bool, list] = defaultdict(list)
        for group, size in enumerate(sizes):
            own = []
            used: dict[str, list] = defaultdict(list)
            for option, usable in self._options(demand):
                count = self.model.new_int_var(0, size, "")
                stages = self._stages(demand, option, usable, count, size, used)
                self.model.add(sum(stages) == option.pp * count)
                own.append((option, count))
                origins[option.kind.emulated].append(count)
                self.worth.append(round(option.value * SCALE) * count)
            self.model.add(sum(count for _, count in own) <= size)
            chosen.extend(own)
            for domain, stages in used.items():
                here = self.model.new_bool_var(f"{demand.id} {group} {domain}")
                self.model.add(sum(stages) <= 64 * size * here)
                domains[domain].append(here)
        for here in domains.values():
            if demand.spread != "none":
                self.model.add(sum(here) <= 1)
        self._whole(demand, chosen, origins)

    def _options(self, demand: Demand):
        for kind in sorted({i.kind for i in self.there}, key=str):
            for option in sized(self.problem, demand, kind):
                usable = [k for k, i in enumerate(self.there) if may_use(demand, option, i)]
                if usable:
                    yield option, usable

    def _stages(self, demand, option, usable, count, size, used) -> list:
        found = []
        watts = option.predicted.power_w / option.pp
        for k in usable:
            island = self.there[k]
            stages = self.model.new_int_var(0, size * option.pp, "")
            found.append(stages)
            self._limit(("island", k), island.count * island.kind.shares, option.amount, stages)
            for size_of_group in (2, 4, 8):
                if option.tp >= size_of_group:
                    room = island.count // size_of_group
                    self._limit(
                        ("group", k, size_of_group), room, option.tp // size_of_group, stages
                    )
            budgets = self.problem.app.budgets
            node = island.node
            self._limit(("watts", node.id), budgets.node_w, watts, stages)
            self._limit(("watts of rack", node.rack), budgets.rack_w, watts, stages)
            used[node.id if demand.spread != "rack" else node.rack].append(stages)
            self.present[demand.tenant, node.id].append(stages)
        predicted = option.predicted
        self._limit("watts", self.problem.app.budgets.cluster_w, predicted.power_w, count)
        self._limit(("watts of", demand.id), demand.power_budget_w, predicted.power_w, count)
        self._limit(
            ("price of", demand.id), demand.max_price_per_hour, predicted.price_per_hour, count
        )
        for tenant in self.problem.app.tenants:
            limit = dict(tenant.max_devices).get(option.kind.device_class)
            if tenant.name == demand.tenant and limit is not None:
                name = (tenant.name, option.kind.device_class)
                self._limit(name, limit, option.amount * option.pp, count)
        return found

    def _limit(self, name: object, limit: float | None, amount: float, variable) -> None:
        if limit is not None:
            self.limited[name] = (float(limit), [*self.limited[name][1], (amount, variable)])

    def _whole(self, demand: Demand, chosen: list, origins: dict[bool, list]) -> None:
        total = sum(count for _, count in chosen)
        self.model.add(total >= demand.replicas_min)
        self.model.add(total <= demand.replicas_max)
        real = self.model.new_bool_var("")
        self.model.add(sum(origins[False]) <= demand.replicas_max * real)
        self.model.add(sum(origins[True]) <= demand.replicas_max * (1 - real))
        if demand.min_tokens_per_s is not None:
            placed = self.model.new_bool_var("")
            self.model.add(total <= demand.replicas_max * placed)
            tokens = sum(
                round(option.predicted.tokens_per_s * SCALE) * count for option, count in chosen
            )
            self.model.add(tokens >= int(demand.min_tokens_per_s * SCALE) * placed)

    def close(self) -> None:
        """The rules over all models, and the objective."""
        for limit, terms in self.limited.values():
            # Rounded in favour of the plan: an oracle must not refuse what just fits.
            parts = sum(int(amount * SCALE) * variable for amount, variable in terms)
            self.model.add(parts <= int(limit * SCALE) + 1)
        exclusive = {t.name for t in self.problem.app.tenants if t.exclusive_nodes}
        for node in self.problem.inventory.nodes:
            here = {}
            for tenant in {name for name, where in self.present if where == node.id}:
                here[tenant] = self.model.new_bool_var("")
                stages = self.present[tenant, node.id]
                self.model.add(sum(stages) <= 10_000 * here[tenant])
            for tenant in exclusive & set(here):
                for other in set(here) - {tenant}:
                    self.model.add(here[tenant] + here[other] <= 1)
        self.model.maximize(sum(self.worth) if self.worth else 0)
