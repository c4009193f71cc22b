"""What changes from one plan to the next, slot by slot, and why. Pure comparison of two plans.

With the inventory and the specs at hand it names the cause of each move; without them it names only what differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .demand import App, Demand
from .devices import Device, Health
from .ids import DeviceId, ModelId, NodeId, SlotId, model_of
from .inventory import Inventory
from .plan import Change, Plan, Slot
from .problem import facts_of
from .score import replica_value

_KEYS = (
    ("model", "source, tokenizer or facts"),
    ("context", "context"),
    ("concurrency", "concurrency"),
    ("dtype", "dtype"),
    ("arithmetic", "arithmetic"),
    ("engines", "engines"),
    ("rate", "rate"),
    ("max_ttft_s", "constraints.max_latency_ms"),
    ("max_token_s", "constraints.max_token_ms"),
    ("min_tokens_per_s", "constraints.min_tokens_per_s"),
    ("power_budget_w", "constraints.power_budget_watts"),
    ("max_price_per_hour", "constraints.max_price_per_hour"),
    ("preferred", "constraints.preferred_hardware"),
    ("banned", "constraints.banned_hardware"),
    ("spread", "constraints.spread"),
    ("pin_nodes", "constraints.pin"),
    ("build", "artifacts.build"),
    ("tenant", "tenant"),
    ("priority", "priority"),
)
"""Fields of a demand that may move its replicas -> their keys in the spec."""

_MOST_NEIGHBOURS = 3


def diff(
    before: Plan | None,
    after: Plan,
    *,
    inventory: Inventory | None = None,
    before_app: App | None = None,
    app: App | None = None,
) -> tuple[Change, ...]:
    """One line per slot of either plan, in the order of the new plan, stopped ones last.

    Slots are the same when their configuration and their devices are; a slot that changes either is moved.

    Args:
        inventory: that the new plan was solved on; says which nodes and devices are gone.
        before_app, app: the specs of both plans; say which key changed, and what a move gains.
    """
    old = {slot.id: slot for slot in before.slots} if before else {}
    causes = _Causes(after=after, inventory=inventory, before_app=before_app, app=app)
    changes = [_change(old.get(slot.id), slot, causes) for slot in after.slots]
    kept = {slot.id for slot in after.slots}
    stopped = [slot for slot in old.values() if slot.id not in kept]
    changes.extend(
        Change(kind="stop", slot=slot.id, before=slot, after=None, reason=causes.of_stop(slot))
        for slot in stopped
    )
    return tuple(changes)


def _change(before: Slot | None, after: Slot, causes: _Causes) -> Change:
    if before is None:
        return Change(
            kind="start", slot=after.id, before=None, after=after, reason=f"new on {where(after)}"
        )
    differences = _differences(before, after)
    if not differences:
        return Change(
            kind="keep",
            slot=after.id,
            before=before,
            after=after,
            reason=f"stays on {where(after)}",
        )
    reason = "; ".join((*causes.of_move(before, after), *differences))
    return Change(kind="move", slot=after.id, before=before, after=after, reason=reason)


@dataclass(slots=True, kw_only=True)
class _Causes:
    """Why slots of the old plan do not stay as they are."""

    after: Plan
    inventory: Inventory | None
    before_app: App | None
    app: App | None
    _devices: dict[DeviceId, Device] = field(default_factory=dict[DeviceId, Device])
    _taken: dict[DeviceId, list[SlotId]] = field(default_factory=dict[DeviceId, list[SlotId]])

    def __post_init__(self) -> None:
        for node in self.inventory.nodes if self.inventory else ():
            self._devices.update((device.id, device) for device in node.devices)
        for slot in self.after.slots:
            for device in slot.devices:
                self._taken.setdefault(device, []).append(slot.id)

    def of_move(self, before: Slot, after: Slot) -> list[str]:
        """Sentences, the cause first; empty where nothing is known beside the two slots."""
        lost = next(self._losses(before), None)
        if lost is not None:
            return [lost]
        keys = self._changed_keys(before.model)
        if keys:
            return [f"the spec changed: {', '.join(keys)}"]
        return [said for said in (self._gain(before, after), self._makes_room(before)) if said]

    def of_stop(self, slot: Slot) -> str:
        """One sentence, and what was lost."""
        if any(other.model == slot.model for other in self.after.slots):
            said = f"fewer copies of {slot.model} are planned"
        elif any(model_of(name) == slot.model for name in self.after.unplaced):
            said = f"no place for {slot.model} any more"
        else:
            return f"{slot.model} is no longer asked for"
        lost = next(self._losses(slot), None)
        return f"{lost}; {said}" if lost else said

    def _losses(self, slot: Slot) -> Iterator[str]:
        """What of a slot's place cannot be used any more."""
        if self.inventory is None:
            return
        for name in dict.fromkeys(slot.nodes):
            node = self.inventory.node(NodeId(name))
            if node is None:
                yield f"node {name} is gone"
            elif node.cordoned:
                why = f" ({node.cordon_reason})" if node.cordon_reason else ""
                yield f"node {name} is cordoned{why}"
        for device in slot.devices:
            now = self._devices.get(device)
            if now is None:
                yield f"device {device} is gone"
            elif now.health is not Health.HEALTHY:
                yield f"device {device} is {now.health}"
            elif now.speed < 1.0:
                yield f"device {device} is throttled to {now.speed:.0%} of its speed"

    def _changed_keys(self, model: ModelId) -> list[str]:
        """Keys of the model's part of the spec that differ, then those of all models."""
        if self.before_app is None or self.app is None:
            return []
        old, new = _demand(self.before_app, model), _demand(self.app, model)
        if old is None or new is None:
            return []
        keys = [
            f"models.{model}.{key} {_said(getattr(old, name))} -> {_said(getattr(new, name))}"
            for name, key in _KEYS
            if getattr(old, name) != getattr(new, name)
        ]
        if self.before_app.policy != self.app.policy:
            keys.append(f"policy {self.before_app.policy.name} -> {self.app.policy.name}")
        if self.before_app.budgets != self.app.budgets:
            keys.append("budgets")
        return keys + ["tenants"] * (self.before_app.tenants != self.app.tenants)

    def _gain(self, before: Slot, after: Slot) -> str:
        """What the move is worth and what it costs, in figures that a user knows."""
        load_s, rate = after.predicted.load_s, before.predicted.tokens_per_s
        costs = f"costs {load_s:.0f} s of loading (about {load_s * rate:.0f} tokens)"
        gain = self._worth(after) - self._worth(before)
        better = _better(before, after)
        if gain > 0:
            return f"gains {gain:.3g} of worth{f' ({better})' if better else ''}, {costs}"
        return f"gains {better}, {costs}" if better else costs

    def _worth(self, slot: Slot) -> float:
        demand = _demand(self.app, slot.model) if self.app else None
        if demand is None or self.app is None or self.inventory is None:
            return 0.0
        facts = facts_of(demand, self.inventory)
        if facts is None:
            return 0.0
        return replica_value(demand, facts, self.app.policy, slot.predicted, slot.device_class)

    def _makes_room(self, before: Slot) -> str:
        """Who takes the devices that the slot leaves."""
        others = dict.fromkeys(
            name
            for device in before.devices
            for name in self._taken.get(device, ())
            if name != before.id
        )
        return f"makes room for {', '.join([*others][:_MOST_NEIGHBOURS])}" if others else ""


def _better(before: Slot, after: Slot) -> str:
    """The figures that a move improves by more than a hundredth."""
    old, new = before.predicted, after.predicted
    figures = (
        ("tokens/s", new.tokens_per_s, old.tokens_per_s, 1.0, "{:.0f}"),
        ("ms to the first token", old.ttft_s, new.ttft_s, 1e3, "{:.0f}"),
        ("ms per token", old.token_s, new.token_s, 1e3, "{:.1f}"),
        ("W", old.power_w, new.power_w, 1.0, "{:.0f}"),
        ("per hour", old.price_per_hour, new.price_per_hour, 1.0, "{:.2f}"),
    )
    said = []
    for unit, larger, smaller, scale, form in figures:
        if larger > smaller * 1.01:
            difference = form.format((larger - smaller) * scale)
            said.append(f"{difference} {unit} {'more' if unit == 'tokens/s' else 'less'}")
    return ", ".join(said)


def _demand(app: App, model: ModelId) -> Demand | None:
    return next((d for d in app.demands if d.id == model), None)


def _said(value: object) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(str, value))) or "none"
    if isinstance(value, str | int | float) or value is None:
        return str(value)
    return "other"


def _differences(before: Slot, after: Slot) -> list[str]:
    figures = (
        ("device class", before.device_class, after.device_class),
        ("engine", before.engine, after.engine),
        ("dtype", before.dtype, after.dtype),
        ("tp", before.tp, after.tp),
        ("pp", before.pp, after.pp),
        ("shares", before.stages[0].shares, after.stages[0].shares),
        ("KV cache bytes", before.kv_bytes, after.kv_bytes),
        ("devices", where(before), where(after)),
        ("layers", [s.layers for s in before.stages], [s.layers for s in after.stages]),
    )
    return [f"{name}: {old} -> {new}" for name, old, new in figures if old != new]


def where(slot: Slot) -> str:
    """The devices of a slot in few words.

    Shares are named where a device is divided, e.g. `cpu-1/cpu0 x 4`.
    """
    stages = (
        ", ".join(stage.devices) + (f" x {stage.shares}" if stage.shares > 1 else "")
        for stage in slot.stages
    )
    return " | ".join(stages)
