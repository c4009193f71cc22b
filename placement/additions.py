"""More hardware with which a spec is feasible as it is: so many devices of one class, on a node that has some or on new ones.

Each was applied and tried as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from math import ceil

from .catalog import catalog, engines_for
from .contention import Contention
from .demand import App
from .elastic import Shortage, elastic
from .errors import SpecError
from .ids import ModelId, NodeId
from .inventory import Inventory
from .plan import Addition, Plan
from .trial import Trial
from .what_if import AddDevices, AddNode, InventoryChange, changed

MAX_ADDITIONS = 3

_MOST_CLASSES = 4
_MOST_FULL_TRIES = 4
_LARGEST_NODE = 8
_FEW = 32
"""Devices that may be offered to any cluster; beside that, no more than it has already."""
_COUNTS = (1, 2, 4, 8)
"""Devices that are tried for a model that nothing can hold."""
_NEW = "new"
"""Name of nodes that are added."""


def additions(
    whole: Contention, conflict: tuple[ModelId, ...], trial: Trial
) -> tuple[Addition, ...]:
    """At most one addition per device class; none where hardware of one class alone does not help."""
    if not set(whole.hopeless) <= set(conflict):
        return ()
    app = trial.problem.app
    part = replace(app, demands=tuple(d for d in app.demands if d.id in conflict))
    if whole.hopeless:
        found = _for_hopeless(part, trial)
    else:
        found = _for_contended(whole, part, elastic(whole), trial)
    tried = (
        _addition(change, trial.problem.inventory)
        for change in islice(found, _MOST_FULL_TRIES)
        if len(part.demands) == len(app.demands) or _plan(app, change, trial) is not None
    )
    return tuple(islice(tried, MAX_ADDITIONS))


def _plan(app: App, change: InventoryChange, trial: Trial) -> Plan | None:
    """A plan with more hardware; None also where the change cannot be made."""
    if trial.spent:
        return None
    try:
        inventory = changed(trial.problem.inventory, (change,))
    except SpecError:
        return None
    return trial.plan(app, inventory)


def _addition(change: InventoryChange, inventory: Inventory) -> Addition:
    match change:
        case AddDevices():
            known = inventory.node(NodeId(change.node)) is not None
            where = f"on {change.node}" if known else "on a new node"
            says = f"{change.count} more {change.device_class} {where}"
        case AddNode():
            ((name, count),) = change.parts
            says = f"{change.count} more nodes with {count} {name} each"
        case _:
            says = str(change)
    return Addition(what_if=str(change), says=says)


# -- a model that no device can hold --------------------------------------------------------------------------------


def _for_hopeless(part: App, trial: Trial) -> Iterator[InventoryChange]:
    """Classes that are there already, then published ones, those of fewest watts first."""
    inventory = trial.problem.inventory
    here = dict.fromkeys(d.device_class for n in inventory.nodes for d in n.devices)
    for name in here:
        yield from islice(_growing(name, _COUNTS, 1, part, trial), 1)
    yield from (change for _, _, change in sorted(_published(part, trial, set(here))))


def _published(
    part: App, trial: Trial, here: set[str]
) -> Iterator[tuple[float, str, InventoryChange]]:
    """Classes that could hold the models on a node of their own, with the watts of what it takes."""
    empty = Inventory(engines=trial.problem.inventory.engines)
    for name, known in catalog().items():
        drivers = engines_for(known, emulated=False, extra=empty.engines)
        if name in here or known.memory_bytes <= 0 or not drivers:
            continue
        for count in _COUNTS:
            change = AddDevices(node=_NEW, device_class=name, count=count)
            if trial.plan(part, changed(empty, (change,))) is not None:
                yield count * known.power_w, name, change
                break


# -- models that want more than there is ----------------------------------------------------------------------------


def _for_contended(
    whole: Contention, part: App, short: Shortage, trial: Trial
) -> Iterator[InventoryChange]:
    """Classes that the conflict competes for, the scarce ones first, as many as are missing at least."""
    models = {demand.id for demand in part.demands}
    candidates = [c for c in whole.candidates if c.model in models]
    missing = {row.partition(":")[2]: amount for row, amount in short.missing.items()}
    price = dict(zip(whole.rows, short.prices, strict=True))
    classes: dict[str, tuple[float, float]] = {}
    for candidate in candidates:
        pool, name = candidate.pool.name, candidate.pool.device_class.name
        scarce = (missing.get(pool, 0.0), float(price.get(f"devices:{pool}", 0.0)))
        classes[name] = max(scarce, classes.get(name, (0.0, 0.0)))
    for name in sorted(classes, key=lambda n: (-classes[n][0], -classes[n][1], n))[:_MOST_CLASSES]:
        smallest = min(c.layout.tp for c in candidates if c.pool.device_class.name == name)
        least = max(smallest, ceil(classes[name][0] - 1e-3))
        counts = (least, ceil(least * 1.25), least * 2, least * 4)
        yield from islice(_growing(name, counts, smallest, part, trial), 1)


def _growing(
    device_class: str, counts: Iterable[int], group: int, part: App, trial: Trial
) -> Iterator[InventoryChange]:
    """Those that let the conflict hold: so many on a node that has some, on a new one, on new ones in groups."""
    there = sum(len(node.devices) for node in trial.problem.inventory.nodes)
    for count in (c for c in dict.fromkeys(counts) if c <= max(_FEW, there)):
        for change in _places(device_class, count, group, trial.problem.inventory):
            if _plan(part, change, trial) is not None:
                yield change


def _places(
    device_class: str, count: int, group: int, inventory: Inventory
) -> Iterator[InventoryChange]:
    own = {
        node.id: sum(d.device_class == device_class for d in node.devices)
        for node in inventory.nodes
        if not node.cordoned
    }
    size = max(_LARGEST_NODE, max(own.values(), default=0))
    new = next(n for n in _names() if inventory.node(NodeId(n)) is None)
    if count <= size:
        fullest = max(own, key=lambda node: own[node], default=None)
        if fullest is not None and own[fullest]:
            yield AddDevices(node=fullest, device_class=device_class, count=count)
        yield AddDevices(node=new, device_class=device_class, count=count)
    each = group if count <= size else size
    if count > each:
        nodes = ceil(count / each)
        yield AddNode(node=new, parts=((device_class, each),), count=nodes)


def _names() -> Iterator[str]:
    yield _NEW
    k = 1
    while True:
        k += 1
        yield f"{_NEW}{k}"
