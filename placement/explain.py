"""Says in words what a plan holds already: why each slot looks as it does, what lost and by how much, what would help.

Reads plans and infeasibility alone, so that it works on a journalled plan without solving again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType

from .diff import where
from .front_point import FrontPoint
from .ids import ModelId, model_of
from .plan import Infeasible, Plan, Rejection, Slot
from .row_words import unit

_MOST_NAMES = 12
_MOST_PRICES = 12
_MOST_SLOTS = 24
_MOST_LOSSES = 40
"""More than that of one kind are put together when everything is explained at once."""

_NO_FRONTS: Mapping[ModelId, Sequence[FrontPoint]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Structured reasons and the sentences that say them, in one order: verdict, slots, unplaced, losses, prices, fixes.

    Attributes:
        slots: chosen slots with their runner-up and binding rows (`Slot.why`).
        losses: per model, device class or node: the rule that refused it and the nearest miss.
    """

    feasible: bool
    slots: tuple[Slot, ...]
    losses: tuple[Rejection, ...]
    sentences: tuple[str, ...]


def explain(
    result: Plan | Infeasible,
    subject: str | None = None,
    *,
    fronts: Mapping[ModelId, Sequence[FrontPoint]] = _NO_FRONTS,
) -> Explanation:
    """The reasons behind a result; with `subject`, a model or slot name, only what concerns it, and all of that.

    Without a subject, what is said alike of many copies, models or nodes is said once.

    Args:
        fronts: of models that run, or would have to run, in stages.
    """
    model = model_of(subject) if subject else None
    losses = tuple(r for r in result.rejections if model is None or r.model == model)
    lost = [loss_sentence(r) for r in losses] if model else list(grouped_losses(losses))
    shown = [m for m in fronts if model in (None, m)]
    depths = [sentence for m in shown for sentence in front_sentences(m, fronts[m])]
    if isinstance(result, Infeasible):
        sentences = (*_conflict_sentences(result), *depths, *lost, *_help_sentences(result))
        return Explanation(feasible=False, slots=(), losses=losses, sentences=sentences)
    slots = tuple(s for s in result.slots if subject is None or subject in (s.id, s.model))
    said = map(slot_sentence, slots) if subject else grouped_slots(slots)
    return Explanation(
        feasible=True,
        slots=slots,
        losses=losses,
        sentences=(
            _verdict(result),
            *said,
            *depths,
            *_unplaced_sentences(result, model),
            *lost,
            *_price_sentences(result, slots, model),
        ),
    )


def _conflict_sentences(failed: Infeasible) -> Iterator[str]:
    names = failed.conflict
    shown = ", ".join(names[:_MOST_NAMES])
    left = len(names) - _MOST_NAMES
    if left > 0:
        shown += f" and {left} more"
    elif len(names) <= 2:
        shown = " and ".join(names)
    yield f"No plan: {shown} cannot be placed" + (" together" if len(names) > 1 else "")


def _help_sentences(failed: Infeasible) -> Iterator[str]:
    yield from (f"This would help: {fix.says}" for fix in failed.fixes)
    for addition in failed.additions:
        yield f'This would help: {addition.says} (--what-if "{addition.what_if}")'


def _price_sentences(plan: Plan, slots: Sequence[Slot], model: ModelId | None) -> tuple[str, ...]:
    """What one more of each scarce thing is worth, the dearest first; for a model, only what its replicas pay for."""
    binding = {row for slot in slots for row in slot.why.binding}
    prices = [p for p in plan.prices if model is None or p[0] in binding]
    replica = plan.value / len(plan.slots) if plan.slots else 0.0
    said = sorted(
        ((price * unit(row).amount, row) for row, price in prices), key=lambda p: (-p[0], p[1])
    )
    shown = said if model else said[:_MOST_PRICES]
    sentences = [price_sentence(row, worth, replica) for worth, row in shown]
    if len(said) > len(shown):
        rest = len(said) - len(shown)
        sentences.append(f"{rest} more capacities are worth {said[len(shown)][0]:.3g} or less each")
    return tuple(sentences)


def price_sentence(row: str, worth: float, replica: float) -> str:
    """What a step of a row is worth, compared with an average replica of the plan, which is worth `replica`.

    >>> price_sentence("devices:NVIDIA_A100_80G", 0.187, 1.5)
    'One more NVIDIA_A100_80G would be worth 0.187, as much as 12 % of an average replica'
    """
    one = unit(row).one
    said = f"{one[:1].upper()}{one[1:]} would be worth {worth:.3g}"
    if replica <= 0 or worth < replica * 0.005:
        return said
    if worth < replica:
        return f"{said}, as much as {worth / replica:.0%} of an average replica".replace("%", " %")
    return f"{said}, as much as {worth / replica:.1f} average replicas"


def front_sentences(model: ModelId, points: Sequence[FrontPoint]) -> tuple[str, ...]:
    """The layouts among which depth, flow and latency were weighed, the shallow first."""
    if not points:
        return ()
    return (
        f"Pipelines of {model} by depth, one copy having the devices to itself:",
        *(
            f"  {'*' if point.chosen else ' '} {point.stages} stages:"
            f" flow {point.flow_tokens_per_s:.1f} tokens/s,"
            f" decode {point.decode_tokens_per_s:.1f} tokens/s,"
            f" first token {point.ttft_s * 1e3:.0f} ms, {point.token_s * 1e3:.1f} ms per token"
            + (" (chosen)" if point.chosen else "")
            for point in sorted(points, key=lambda p: (p.stages, p.flow_tokens_per_s))
        ),
    )


def grouped_slots(slots: Sequence[Slot]) -> Iterator[str]:
    """One sentence per slot, or one for all copies of a model that differ in their devices alone, when there are many."""
    alike: dict[object, list[Slot]] = {}
    for slot in slots:
        key = slot.id if len(slots) <= _MOST_SLOTS else _kind(slot)
        alike.setdefault(key, []).append(slot)
    for first, *others in alike.values():
        said = slot_sentence(first)
        yield f"{said}; the same for {len(others)} more copies" if others else said


def _kind(slot: Slot) -> tuple[object, ...]:
    return (slot.model, slot.engine, slot.device_class, slot.dtype, slot.tp, slot.pp, slot.why)


def grouped_losses(losses: Sequence[Rejection]) -> Iterator[str]:
    """One sentence per loss while they are few; else one per rule and place, with its nearest miss."""
    if len(losses) <= _MOST_LOSSES:
        yield from map(loss_sentence, losses)
        return
    groups: dict[tuple[str, str, str], list[Rejection]] = {}
    for loss in losses:
        key = (loss.constraint, loss.device_class, "" if loss.device_class else loss.node)
        groups.setdefault(key, []).append(loss)
    for group in groups.values():
        nearest = min(group, key=lambda r: r.shortage)
        models = len({r.model for r in group})
        said = loss_sentence(nearest)
        yield f"{said}; likewise {_counted(len(group) - 1, models - 1)}" if len(group) > 1 else said


def _counted(losses: int, models: int) -> str:
    more = f"{models} more model{'s' if models > 1 else ''}" if models else "other ways"
    return f"{more}, {losses} more in all (`shardyard explain MODEL` has each)"


def _unplaced_sentences(plan: Plan, model: ModelId | None) -> Iterator[str]:
    """One per model with copies that found no place."""
    for name, copies in groupby(plan.unplaced, key=model_of):
        first, *others = copies
        if model is None or name == model:
            more = f", nor did {len(others)} more" if others else ""
            yield f"{first} found no place{more}: it would break a capacity that others use better"


def _verdict(plan: Plan) -> str:
    proof = "no plan is better" if plan.proven else f"at most {plan.gap:.2%} below the best"
    return (
        f"{len(plan.slots)} slots under policy {plan.policy}, worth {plan.value:.3f}"
        f" of a bound of {plan.bound:.3f}: {proof}"
    )


def slot_sentence(slot: Slot) -> str:
    """Where a slot runs, what is expected of it, and what came second."""
    expected = slot.predicted
    layout = f"tp {slot.tp} x pp {slot.pp}" if slot.tp * slot.pp > 1 else "one device"
    said = (
        f"{slot.id}: {slot.device_class} ({layout}) on {where(slot)} with {slot.engine}, {slot.dtype};"
        f" first token {expected.ttft_s * 1e3:.0f} ms, {expected.tokens_per_s:.0f} tokens/s,"
        f" {expected.power_w:.0f} W"
    )
    second = slot.why.runner_up
    if second is None:
        said += "; there was no other candidate"
    else:
        said += (
            f"; next best {second.device_class} tp {second.tp} x pp {second.pp}"
            f" with {second.engine}, worth {second.loss:.3g} less"
        )
    if slot.why.binding:
        said += f"; limited by {', '.join(slot.why.binding)}"
    return said


def loss_sentence(rejection: Rejection) -> str:
    """Which candidate lost, by which rule, with the figures and what mends it."""
    what = " ".join(
        part
        for part in (
            rejection.device_class,
            f"tp {rejection.tp}" if rejection.tp else "",
            f"({rejection.engine})" if rejection.engine else "",
            f"node {rejection.node}" if rejection.node else "",
        )
        if part
    )
    said = f"{rejection.model} not on {what or 'any device'}: {rejection.constraint}: {rejection.reason}"
    return said + (f" ({rejection.hint})" if rejection.hint else "")
