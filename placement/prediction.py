"""The whole cost model of an option: roofline, corrected by measurements, at compiled buckets; or a remote endpoint's figures.

Decides which of these apply. One text for single options (`predicted`) and for whole columns of them (`adjusted`), so that
who plans and who verifies see the same figures. It must not know rules, nor what a better plan is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from .artifacts import best_artifact, bucket_of
from .calibration import UNCALIBRATED, Calibration, Point, ScaleColumns, Scales, corrected
from .catalog import EngineFacts
from .demand import Demand
from .devices import DeviceClass
from .inventory import Artifact
from .layout import Layout
from .measured import measured_scales
from .modelspec import ModelFacts
from .plan import Predicted
from .remote import expected_prompt, remote_figures, remote_prediction
from .roofline import Hop, predict

Figure: TypeAlias = Any
"""A float, or an array of them with one entry per option."""

Asked: TypeAlias = tuple[Demand, ModelFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known beyond data sheets where an option would run.

    Attributes:
        artifacts: of its nodes.
        calibrations: of the inventory.
    """

    artifacts: Iterable[Artifact] = ()
    calibrations: Iterable[Calibration] = ()


def predicted(
    demand: Demand,
    facts: ModelFacts,
    device_class: DeviceClass,
    engine: EngineFacts,
    layout: Layout,
    *,
    device_shares: int,
    hop: Hop,
    evidence: Evidence,
) -> Predicted:
    """What one replica of `demand` is expected to do in that layout, all things considered.

    Args:
        device_shares: of a whole device.
    """
    if device_class.endpoint is not None:
        return remote_prediction(demand, device_class)
    plain = predict(
        demand,
        facts,
        device_class,
        engine,
        layout,
        device_shares=device_shares,
        hop=hop,
        build_s=build_s(demand, device_class, engine, layout, evidence.artifacts),
    )
    by = _Scaling(device_class, engine, evidence.calibrations).of(demand, facts, layout)
    bucket = _bucket(demand, device_class, engine, layout, evidence.artifacts)
    if by is UNCALIBRATED and bucket == demand.concurrency:
        return plain
    return Predicted(**corrected(asdict(plain), by, sequences=bucket))


def build_s(
    demand: Demand,
    device_class: DeviceClass,
    engine: EngineFacts,
    layout: Layout,
    artifacts: Iterable[Artifact],
) -> float:
    """Time to compile before the load: 0 where an engine needs no artifact, and where one lies ready."""
    if not engine.build_s:
        return 0.0
    ready = best_artifact(artifacts, demand, device_class.name, layout)
    return 0.0 if ready else engine.build_s


def adjusted(
    figures: Mapping[str, Figure],
    asked: Sequence[Asked],
    layouts: Sequence[Layout],
    device_class: DeviceClass,
    engine: EngineFacts,
    evidence: Evidence,
) -> Mapping[str, Figure]:
    """The roofline's columns of shape (asked, layouts) with everything else that is known; they come back as they are
    where nothing is.
    """
    import numpy as np  # by who plans only: the package imports fast without it

    shape = (len(asked), len(layouts))
    if device_class.endpoint is not None:
        concurrency = np.array([[float(d.concurrency)] for d, _ in asked])
        prompts = np.array([[float(expected_prompt(d))] for d, _ in asked])
        return remote_figures(device_class, concurrency, prompts)
    scaling = _Scaling(device_class, engine, evidence.calibrations)
    compiled = bool(engine.build_s) and bool(tuple(evidence.artifacts))
    if not scaling.applies and not compiled:
        return figures
    cells = [(demand, facts, layout) for demand, facts in asked for layout in layouts]
    buckets = [_bucket(d, device_class, engine, c, evidence.artifacts) for d, _, c in cells]
    by = [scaling.of(*cell) for cell in cells]
    unscaled = device_class.uncertainty

    def column(values: list[float]) -> Figure:
        return np.array(values, dtype=np.float64).reshape(shape)

    return corrected(
        figures,
        ScaleColumns(
            prefill=column([s.prefill for s in by]),
            fixed=column([s.fixed for s in by]),
            per_sequence=column([s.per_sequence for s in by]),
            uncertainty=column([unscaled if s.uncertainty is None else s.uncertainty for s in by]),
        ),
        sequences=column([float(b) for b in buckets]),
    )


class _Scaling:
    """The factors for one class and engine; each point is worked out once."""

    def __init__(
        self,
        device_class: DeviceClass,
        engine: EngineFacts,
        calibrations: Iterable[Calibration],
    ) -> None:
        self._class = device_class
        self._engine = engine
        self._own = [
            c
            for c in calibrations
            if c.device_class == device_class.name and c.engine == engine.name
        ]
        self._known: dict[Point, Scales] = {}

    @property
    def applies(self) -> bool:
        return bool(self._own)

    def of(self, demand: Demand, facts: ModelFacts, layout: Layout) -> Scales:
        if not self._own:
            return UNCALIBRATED
        point = Point(
            device_class=self._class.name,
            engine=self._engine.name,
            facts=facts,
            dtype=layout.dtype,
            arithmetic=demand.arithmetic,
            tp=layout.tp,
            shares=layout.shares,
        )
        if point not in self._known:
            self._known[point] = measured_scales(self._own, point, self._class, self._engine)
        return self._known[point]


def _bucket(
    demand: Demand,
    device_class: DeviceClass,
    engine: EngineFacts,
    layout: Layout,
    artifacts: Iterable[Artifact],
) -> int:
    """Sequences that each step runs: the whole bucket of a compiled engine, else those asked for."""
    if not engine.build_s:
        return demand.concurrency
    return bucket_of(artifacts, demand, device_class.name, layout) or demand.concurrency
