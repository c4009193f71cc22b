"""What changes from one plan to the next, slot by slot, and why. Pure comparison of two plans."""

from __future__ import annotations

from .ids import model_of
from .plan import Change, Plan, Slot


def diff(before: Plan | None, after: Plan) -> tuple[Change, ...]:
    """One line per slot of either plan, in the order of the new plan, stopped ones last.

    Slots are the same when their configuration and their devices are; a slot that changes either is moved.
    """
    old = {slot.id: slot for slot in before.slots} if before else {}
    changes = [_change(old.get(slot.id), slot) for slot in after.slots]
    kept = {slot.id for slot in after.slots}
    stopped = [slot for slot in old.values() if slot.id not in kept]
    changes.extend(
        Change(kind="stop", slot=slot.id, before=slot, after=None, reason=_stop_reason(slot, after))
        for slot in stopped
    )
    return tuple(changes)


def _change(before: Slot | None, after: Slot) -> Change:
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
    return Change(
        kind="move", slot=after.id, before=before, after=after, reason="; ".join(differences)
    )


def _stop_reason(slot: Slot, after: Plan) -> str:
    if any(other.model == slot.model for other in after.slots):
        return f"fewer copies of {slot.model} are planned"
    if any(model_of(name) == slot.model for name in after.unplaced):
        return f"no place for {slot.model} any more"
    return f"{slot.model} is no longer asked for"


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
