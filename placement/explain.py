"""Says in words what a plan holds already: why each slot looks as it does, what lost and by how much, what would help.

Reads plans and infeasibility alone, so that it works on a journalled plan without solving again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from .catalog import engines
from .diff import where
from .ids import ModelId, model_of
from .plan import Infeasible, Plan, Rejection, Slot


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


def explain(result: Plan | Infeasible, subject: str | None = None) -> Explanation:
    """The reasons behind a result; with `subject`, a model or slot name, only what concerns it."""
    model = model_of(subject) if subject else None
    losses = tuple(r for r in result.rejections if model is None or r.model == model)
    if isinstance(result, Infeasible):
        sentences = (
            f"No plan: {' and '.join(result.conflict)} cannot be placed"
            + (" together" if len(result.conflict) > 1 else ""),
            *map(loss_sentence, losses),
            *(f"This would help: {fix.says}" for fix in result.fixes),
        )
        return Explanation(feasible=False, slots=(), losses=losses, sentences=sentences)
    slots = tuple(s for s in result.slots if subject is None or subject in (s.id, s.model))
    return Explanation(
        feasible=True,
        slots=slots,
        losses=losses,
        sentences=(
            _verdict(result),
            *map(slot_sentence, slots),
            *_unplaced_sentences(result, model),
            *planned_ahead({s.engine for s in slots}),
            *map(loss_sentence, losses),
            *(f"One more of {row} would be worth {price:.3g}" for row, price in result.prices),
        ),
    )


def planned_ahead(used: Iterable[str]) -> tuple[str, ...]:
    """One sentence per engine that a plan uses and that this version cannot start: the plan is a forecast there.

    >>> planned_ahead(["openvino", "vllm"])
    ('Engine vllm can be planned with, but this version cannot start it yet',)
    """
    known = engines()
    return tuple(
        f"Engine {name} can be planned with, but this version cannot start it yet"
        for name in sorted(set(used))
        if name in known and not known[name].serves
    )


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
