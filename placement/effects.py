"""What one plan does better or worse than another, in the figures that users ask for: per model, and in all.

Compares predictions that the plans hold already. It must not solve anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .ids import ModelId
from .plan import Plan, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Figures of some replicas together.

    Attributes:
        tokens_per_s, power_w, price_per_hour: sums.
        ttft_s, token_s: mean, each replica counting as much as it generates; None without a replica.
        joules_per_token: None where nothing is generated.
    """

    replicas: int
    tokens_per_s: float
    ttft_s: float | None
    token_s: float | None
    power_w: float
    joules_per_token: float | None
    price_per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Before and after; `model` None = all models."""

    model: ModelId | None
    before: Totals
    after: Totals

    @property
    def gained(self) -> int:
        """Copies more; negative = fewer."""
        return self.after.replicas - self.before.replicas


def effects(before: Plan | None, after: Plan | None) -> tuple[Effect, ...]:
    """All models together, then each model of either plan; None = there is no plan, so nothing runs."""
    old, new = (() if plan is None else plan.slots for plan in (before, after))
    models = dict.fromkeys(slot.model for slot in (*old, *new))
    return (
        Effect(model=None, before=totals(old), after=totals(new)),
        *(
            Effect(model=model, before=totals(_own(old, model)), after=totals(_own(new, model)))
            for model in models
        ),
    )


def totals(slots: Sequence[Slot]) -> Totals:
    """The figures of some replicas together."""
    tokens_per_s = sum(slot.predicted.tokens_per_s for slot in slots)
    power_w = sum(slot.predicted.power_w for slot in slots)
    return Totals(
        replicas=len(slots),
        tokens_per_s=tokens_per_s,
        ttft_s=_mean([(s.predicted.ttft_s, s.predicted.tokens_per_s) for s in slots]),
        token_s=_mean([(s.predicted.token_s, s.predicted.tokens_per_s) for s in slots]),
        power_w=power_w,
        joules_per_token=power_w / tokens_per_s if tokens_per_s > 0 else None,
        price_per_hour=sum(slot.predicted.price_per_hour for slot in slots),
    )


def _own(slots: Sequence[Slot], model: ModelId) -> tuple[Slot, ...]:
    return tuple(slot for slot in slots if slot.model == model)


def _mean(weighted: list[tuple[float, float]]) -> float | None:
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total > 0 else None
