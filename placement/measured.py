"""Measurements against the roofline: the factors by which a prediction for a class, engine and model is corrected.

Joins `calibration` (which measurement counts, and how far) with `roofline` (what would have been predicted there).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .calibration import Calibration, Point, Scales, scales
from .catalog import EngineFacts
from .demand import Demand, Rate
from .devices import DeviceClass, at_speed
from .ids import ModelId
from .layout import Layout
from .modelspec import ModelSpec
from .plan import Predicted
from .roofline import Hop, predict


def measured_scales(
    calibrations: Iterable[Calibration],
    point: Point,
    device_class: DeviceClass,
    engine: EngineFacts,
) -> Scales:
    """The factors for one point; the same for every demand of that model with that layout.

    Args:
        device_class, engine: those that `point` names. What was measured ran at full speed, so a throttled device's
            figures are corrected by the same factors.
    """
    return scales(
        calibrations,
        point,
        lambda found: expected(found, at_speed(device_class, 1.0), engine),
        class_uncertainty=device_class.uncertainty,
    )


def expected(found: Calibration, device_class: DeviceClass, engine: EngineFacts) -> Predicted:
    """What the roofline says, uncorrected, of the very point that was measured."""
    decode = _predicted(found, device_class, engine, prompt=1, output=2 * found.context)
    prefill = _predicted(found, device_class, engine, prompt=found.prompt_tokens, output=1)
    return replace(decode, prefill_tokens_per_s=prefill.prefill_tokens_per_s)


def _predicted(
    found: Calibration, device_class: DeviceClass, engine: EngineFacts, *, prompt: int, output: int
) -> Predicted:
    model = ModelSpec(id=ModelId(found.model), source="", tokenizer="", facts=found.facts)
    demand = Demand(
        model=model,
        context=prompt + output,
        concurrency=found.sequences,
        arithmetic=found.arithmetic,
        rate=Rate(requests_per_s=1.0, prompt_tokens=prompt, output_tokens=output),
    )
    return predict(
        demand,
        found.facts,
        device_class,
        engine,
        Layout(dtype=found.dtype, tp=found.tp, shares=found.shares),
        device_shares=found.device_shares,
        hop=Hop(),
    )
