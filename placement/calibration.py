"""What a real engine was measured to do on a device class, and how that corrects the cost model.

Order of trust: measured with this model > measured with another model on the same class and engine > figures of the class.
A correction is a factor on each part of the roofline's prediction, because a demand rarely asks for the very prompt and
context that were measured; at the measured point it gives back the measurement. It must not know the roofline's formulas:
what that predicts at the measured point is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from math import log
from typing import Any, Literal, TypeAlias

from .devices import Dtype
from .modelspec import ModelFacts
from .plan import Predicted

Figure: TypeAlias = Any
"""A float, or an array of them with one entry per option."""

OTHER_LAYOUT = 0.2
"""Relative error when a measurement with this model is carried over to another layout or dtype."""

OTHER_MODEL = 0.3
"""Relative error when it is carried over to another model: 19 to 45 % were seen between 30B and 70B on five GPUs."""

MOST_FACTOR = 50.0
"""A part of the prediction that is off by more is not corrected on its own, and other models are not by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One measurement: t(B) = fixed + per_sequence * B while decoding, and the rate of the prefill.

    Attributes:
        model: name, for people; `facts` say which model it is.
        shares: taken of each device of the group (1; threads on a CPU).
        device_shares: of a whole device there.
        prompt_tokens: length of the measured prompts.
        context: mean length of a sequence while it decoded.
        sequences: largest measured batch.
        uncertainty: relative, from the spread of the measurement.
        source: where and how it was measured.
        measured: date, as ISO 8601 writes it.
    """

    device_class: str
    engine: str
    model: str
    facts: ModelFacts
    dtype: Dtype
    arithmetic: Literal["fast", "exact"] = "fast"
    tp: int = 1
    shares: int = 1
    device_shares: int = 1
    prompt_tokens: int
    context: int
    sequences: int
    prefill_tokens_per_s: float
    token_s_fixed: float
    token_s_per_sequence: float
    uncertainty: float
    source: str = ""
    measured: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a calibration is wanted for."""

    device_class: str
    engine: str
    facts: ModelFacts
    dtype: Dtype
    arithmetic: Literal["fast", "exact"] = "fast"
    tp: int = 1
    shares: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Factors on the predicted times.

    Attributes:
        prefill, fixed, per_sequence: of the prefill's seconds and of the two parts of a decode step.
        uncertainty: of the corrected prediction; None = that of the class.
        calibration: where they come from; None = nothing was measured.
    """

    prefill: float = 1.0
    fixed: float = 1.0
    per_sequence: float = 1.0
    uncertainty: float | None = None
    calibration: Calibration | None = None


UNCALIBRATED = Scales()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleColumns:
    """The factors of many options at once: arrays of one shape, as `Scales` has single numbers."""

    prefill: Figure
    fixed: Figure
    per_sequence: Figure
    uncertainty: Figure


def nearest(calibrations: Iterable[Calibration], point: Point) -> Calibration | None:
    """The calibration to trust most: same model before others, then layout, then size, then the latest."""
    fitting = [
        c
        for c in calibrations
        if c.device_class == point.device_class
        and c.engine == point.engine
        and c.arithmetic == point.arithmetic
    ]
    fitting.sort(key=lambda c: (c.measured, c.model), reverse=True)
    return min(fitting, key=lambda c: _distance(c, point), default=None)


def same_model(one: ModelFacts, other: ModelFacts) -> bool:
    """Whether two facts are of one model; how its weights are stored does not matter, nor where its window was cut."""
    return replace(one, weights_bytes=0, window=0) == replace(other, weights_bytes=0, window=0)


def measured_alike(one: Calibration, other: Calibration) -> bool:
    """Whether two measurements are of one class, engine, dtype, arithmetic and layout."""
    return all(getattr(one, name) == getattr(other, name) for name in _LAYOUT)


_LAYOUT = ("device_class", "engine", "dtype", "arithmetic", "tp", "shares")


def _distance(calibration: Calibration, point: Point) -> tuple[bool, float, bool, float, float]:
    ours, theirs = point.facts, calibration.facts
    return (
        not same_model(ours, theirs),
        abs(log(ours.parameters / theirs.parameters)),
        point.dtype != calibration.dtype,
        abs(log(point.tp / calibration.tp)),
        abs(log(point.shares / calibration.shares)),
    )


def scales(
    calibrations: Iterable[Calibration],
    point: Point,
    expected: Callable[[Calibration], Predicted],
    *,
    class_uncertainty: float,
) -> Scales:
    """The factors for a model on a class with an engine.

    Args:
        expected: what the uncalibrated cost model says at the measured point.
        class_uncertainty: of a prediction without measurements.
    """
    found = nearest(calibrations, point)
    if found is None:
        return UNCALIBRATED
    predicted = expected(found)
    prefill = predicted.prefill_tokens_per_s / found.prefill_tokens_per_s
    fixed = slope = step = _step_s(found) / _predicted_step_s(predicted, found.sequences)
    if same_model(found.facts, point.facts):
        fixed, slope = _parts(found, predicted, step)
    else:
        prefill, fixed, slope = map(_bounded, (prefill, fixed, slope))
    return Scales(
        prefill=prefill,
        fixed=fixed,
        per_sequence=slope,
        uncertainty=_uncertainty(found, point, class_uncertainty),
        calibration=found,
    )


def calibrated(predicted: Predicted, by: Scales, *, sequences: float) -> Predicted:
    """A prediction with its times corrected; see `corrected`."""
    if by.calibration is None:
        return predicted
    figures = corrected(asdict(predicted), by, sequences=sequences)
    return Predicted(**figures)


def corrected(
    figures: Mapping[str, Figure], by: Scales | ScaleColumns, *, sequences: Figure
) -> dict[str, Figure]:
    """The fields of a prediction with its times corrected, as numbers or as arrays; power, price and memory stay.

    Args:
        sequences: decoded at once; with factors of 1, a whole bucket here makes a step as long as that bucket's.
    """
    fixed = figures["token_s_fixed"] * by.fixed
    slope = figures["token_s_per_sequence"] * by.per_sequence
    prefill = figures["ttft_s"] - figures["token_s_fixed"] - figures["token_s_per_sequence"]
    token_s = fixed + slope * sequences
    return {
        **figures,
        "ttft_s": prefill * by.prefill + fixed + slope,
        "token_s": token_s,
        "token_s_fixed": fixed,
        "token_s_per_sequence": slope,
        "prefill_tokens_per_s": figures["prefill_tokens_per_s"] / by.prefill,
        "tokens_per_s": figures["tokens_per_s"] * figures["token_s"] / token_s,
        "uncertainty": figures["uncertainty"] if by.uncertainty is None else by.uncertainty,
    }


def _step_s(calibration: Calibration) -> float:
    return calibration.token_s_fixed + calibration.token_s_per_sequence * calibration.sequences


def _predicted_step_s(predicted: Predicted, sequences: int) -> float:
    return predicted.token_s_fixed + predicted.token_s_per_sequence * sequences


def _bounded(factor: float) -> float:
    return min(max(factor, 1 / MOST_FACTOR), MOST_FACTOR)


def _parts(found: Calibration, predicted: Predicted, step: float) -> tuple[float, float]:
    """A factor for each part of a step; the common one for both where a part cannot be told alone."""
    measured = (found.token_s_fixed, found.token_s_per_sequence)
    expected = (predicted.token_s_fixed, predicted.token_s_per_sequence)
    if any(e * MOST_FACTOR < m for m, e in zip(measured, expected, strict=True)):
        return step, step
    fixed, slope = (m / e if e else 1.0 for m, e in zip(measured, expected, strict=True))
    return fixed, slope


def _uncertainty(found: Calibration, point: Point, of_class: float) -> float:
    if not same_model(found.facts, point.facts):
        return max(found.uncertainty, min(OTHER_MODEL, of_class))
    same = (found.dtype, found.tp, found.shares) == (point.dtype, point.tp, point.shares)
    return found.uncertainty if same else max(found.uncertainty, min(OTHER_LAYOUT, of_class))
