"""An oracle for tiny problems: tries every set of slots. Shares with the product only the cost model, the value and the verifier."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations
from math import ceil

from placement.catalog import classes_of, engines_for
from placement.demand import Demand
from placement.devices import at_speed
from placement.ids import slot_id
from placement.inventory import Inventory
from placement.layout import Layout, stored_dtype
from placement.plan import Plan, Slot, Stage
from placement.problem import Problem, facts_of
from placement.roofline import predict, slowest_hop
from placement.score import replica_value
from placement.verify import verify


def best_value(problem: Problem) -> float | None:
    """Worth of the best plan, or None when there is no plan."""
    demands = problem.app.demands
    slots = {d.id: _slots(problem, d) for d in demands}
    best: list[float | None] = [None]
    wanted = [d for d in demands for _ in range(d.replicas_max)]
    _extend(problem, wanted, 0, -1, [], slots, best)
    return best[0]


def _extend(problem, wanted, index, last, chosen, slots, best) -> None:
    value = sum(worth for _, worth in chosen)
    if index == len(wanted):
        if (best[0] is None or value > best[0]) and _holds(problem, chosen):
            best[0] = value
        return
    rest = wanted[index:]
    possible = sum(max((w for _, w in slots[d.id]), default=0.0) for d in rest)
    if best[0] is not None and value + possible <= best[0] + 1e-12:
        return
    demand = wanted[index]
    following = index + 1 < len(wanted) and wanted[index + 1] is demand
    for position, (slot, worth) in enumerate(slots[demand.id]):
        if position < last:
            continue
        name = slot_id(demand.id, sum(s.model == demand.id for s, _ in chosen))
        wider = [*chosen, (replace(slot, id=name), worth)]
        if _fits(problem, wider):
            _extend(problem, wanted, index + 1, position if following else -1, wider, slots, best)
    after = index + sum(d is demand for d in rest)
    _extend(problem, wanted, after, -1, chosen, slots, best)


def _plan(problem: Problem, chosen) -> Plan:
    value = sum(worth for _, worth in chosen)
    return Plan(
        generation=problem.inventory.generation,
        policy=problem.app.policy.name,
        seed=problem.seed,
        value=value,
        bound=value,
        proven=True,
        slots=tuple(slot for slot, _ in chosen),
    )


def _holds(problem: Problem, chosen) -> bool:
    return not verify(problem, _plan(problem, chosen))


def _fits(problem: Problem, chosen) -> bool:
    """Whether a part of a plan breaks nothing that more slots could not mend."""
    demands = tuple(replace(d, replicas_min=0, min_tokens_per_s=None) for d in problem.app.demands)
    relaxed = replace(problem, app=replace(problem.app, demands=demands))
    return not verify(relaxed, _plan(problem, chosen))


def _slots(problem: Problem, demand: Demand) -> list[tuple[Slot, float]]:
    """Every slot that holds alone, with its worth."""
    found = []
    facts = facts_of(demand, problem.inventory)
    if facts is None:
        return found
    hop = slowest_hop(problem.inventory)
    for slot, device_class, engine, ready in _layouts(problem.inventory, demand, facts):
        predicted = predict(
            demand,
            facts,
            device_class,
            engine,
            Layout(dtype=slot.dtype, tp=slot.tp, pp=slot.pp, shares=slot.stages[0].shares),
            device_shares=problem.inventory.device(slot.devices[0]).shares,
            hop=hop,
            build_s=0.0 if ready else engine.build_s,
        )
        slot = replace(slot, predicted=predicted)
        worth = replica_value(demand, facts, problem.app.policy, predicted, device_class.name)
        if _fits(problem, [(slot, worth)]):
            found.append((slot, worth))
    return found


def _layouts(inventory: Inventory, demand: Demand, facts):
    classes = classes_of(inventory)
    kinds = {(d.device_class, d.emulated, d.speed) for n in inventory.nodes for d in n.devices}
    for name, emulated, speed in sorted(kinds):
        figures = at_speed(classes[name], speed)
        for engine in engines_for(figures, emulated=emulated, extra=inventory.engines):
            for tp in engine.tp:
                for pp in range(1, engine.pp + 1):
                    for stages in _stages(inventory, (name, emulated, speed), facts, tp, pp):
                        node = inventory.node(stages[0].node)
                        ready = any(
                            (a.model, a.device_class, a.tp) == (demand.id, name, tp)
                            for a in node.artifacts
                        )
                        slot = _slot(demand, facts, name, engine, tp, pp, stages)
                        for dtype in _dtypes(demand, facts, engine, figures, node):
                            whole = replace(slot, dtype=dtype, emulated=emulated)
                            yield whole, figures, engine, ready


def _slot(demand, facts, name, engine, tp, pp, stages) -> Slot:
    width = 4 if demand.arithmetic == "exact" else 2
    token = 2 * facts.layers * facts.kv_heads * facts.head_dim * width
    return Slot(
        id=slot_id(demand.id, 0),
        model=demand.id,
        engine=engine.name,
        device_class=name,
        dtype="bf16",
        tp=tp,
        pp=pp,
        stages=stages,
        predicted=None,
        kv_bytes=token * demand.context * demand.concurrency,
    )


def _dtypes(demand, facts, engine, device_class, node) -> list[str]:
    """As asked, as stored, as prepared on the node of the first stage, else the first that can be computed."""
    if demand.dtype is not None:
        return [demand.dtype]
    if engine.stored_weights and facts.weights_bytes:
        return [stored_dtype(facts)]
    there = node.presence(demand.model.source)
    forms = [f for f in (there.forms if there else ()) if f.format in engine.formats]
    if forms and all(f.dtype for f in forms):
        return sorted({f.dtype for f in forms})
    computes = {d for d, _ in device_class.flops} & set(engine.runs(demand.arithmetic))
    return [next((d for d in ("bf16", "fp16", "fp32") if d in computes), "bf16")]


def _stages(inventory: Inventory, kind: tuple[str, bool, float], facts, tp: int, pp: int):
    """Every way to seat pp groups of tp devices, with every power-of-two share count."""
    if pp > facts.layers:
        return
    groups = []
    for node in inventory.nodes:
        own = [d for d in node.devices if (d.device_class, d.emulated, d.speed) == kind]
        groups.extend(
            (node.id, group)
            for group in combinations(own, tp)
            if len({d.island for d in group}) == 1
        )
    size, rest = divmod(facts.layers, pp)
    ends = [0]
    for k in range(pp):
        ends.append(ends[-1] + size + (k < rest))
    for seats in permutations(groups, pp):
        used = [d.id for _, group in seats for d in group]
        if len(set(used)) < len(used):
            continue
        whole = seats[0][1][0].shares
        for shares in sorted(
            {whole, *(2**k for k in range(ceil(whole**0.5) + 3) if 2**k <= whole)}
        ):
            yield tuple(
                Stage(
                    layers=(ends[k], ends[k + 1]),
                    node=node,
                    devices=tuple(d.id for d in group),
                    shares=shares,
                )
                for k, (node, group) in enumerate(seats)
            )
