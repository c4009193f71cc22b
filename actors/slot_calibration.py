"""What a loaded replica was measured to do, as the planner reads measurements."""

from __future__ import annotations

from placement.calibration import Calibration
from placement.modelspec import ModelFacts

from .calibrate import Measured
from .slot import SlotSpec


def calibration(
    slot: SlotSpec, facts: ModelFacts, measured: Measured, today: str
) -> Calibration | None:
    """What was measured as the planner reads it; None where no dtype was planned."""
    if slot.dtype is None:
        return None
    return Calibration(
        device_class=slot.device_class,
        engine=slot.engine,
        model=slot.model,
        facts=facts,
        dtype=slot.dtype,
        arithmetic=slot.arithmetic,
        tp=slot.tp,
        shares=slot.shares,
        device_shares=slot.device_shares,
        prompt_tokens=measured.prompt_tokens,
        context=measured.context,
        sequences=max(batch for batch, _ in measured.steps),
        prefill_tokens_per_s=round(measured.prefill_tokens_per_s, 3),
        token_s_fixed=measured.token_s_fixed,
        token_s_per_sequence=measured.token_s_per_sequence,
        uncertainty=measured.uncertainty,
        source=f"measured when {slot.id} had loaded",
        measured=today,
    )
