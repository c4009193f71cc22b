"""What a pipeline does whose stages lie on several classes: the formulas of `roofline`, stage by stage.

The stages' times are summed, where each works on concurrency / stages sequences; where classes differ, the slowest stage holds
up the others. On one class it is what `roofline` says. Measurements (calibrations) are not looked at. Knows no pools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from . import roofline
from .catalog import EngineFacts
from .demand import Demand
from .devices import DeviceClass, Dtype
from .layout import Layout
from .modelspec import ModelFacts
from .plan import Predicted
from .roofline import CASE, LAYER_START_S, Case, Ground, Hop

Vector: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a pipeline of given stages does."""

    predicted: Predicted
    stage_power_w: tuple[float, ...]


def _key(device_class: DeviceClass) -> str:
    """Throttled devices are to a pipeline as if they were of another class."""
    return f"{device_class.name}@{device_class.speed:g}"


def predict_chain(
    demand: Demand,
    facts: ModelFacts,
    engine: EngineFacts,
    stages: Sequence[tuple[DeviceClass, int]],
    *,
    dtype: Dtype,
    tp: int,
    hop: Hop,
) -> Forecast:
    """What a pipeline does whose stages are on those classes and hold so many layers; on one class what `roofline` says."""
    classes = sorted({_key(kind): kind for kind, _ in stages}.values(), key=_key)
    names = [_key(kind) for kind in classes]
    counts, layers = np.zeros((1, len(names))), np.zeros((1, len(names)))
    top = np.zeros((1, len(names)))
    for kind, held in stages:
        k = names.index(_key(kind))
        counts[0, k] += 1
        layers[0, k] += held
        top[0, k] = max(top[0, k], held)
    model = ChainModel(demand, facts, engine, classes, dtype, tp, hop, len(stages))
    figures, watts = model.figures(counts, layers, top)
    return Forecast(
        predicted=predicted_of(figures, 0),
        stage_power_w=tuple(float(watts[0, names.index(_key(kind))]) for kind, _ in stages),
    )


class ChainModel:
    """A model on some classes, as a whole on each: tables over the number of stages, which chains are put together from."""

    def __init__(
        self,
        demand: Demand,
        facts: ModelFacts,
        engine: EngineFacts,
        classes: Sequence[DeviceClass],
        dtype: Dtype,
        tp: int,
        hop: Hop,
        stages: int,
    ) -> None:
        self._engine, self._hop, self._tp = engine, hop, tp
        self._classes = classes
        self._grounds = [
            Ground(device_class=c, engine=engine, device_shares=1, hop=hop) for c in classes
        ]
        layout = Layout(dtype=dtype, tp=tp)
        rows = [roofline.case_of(demand, facts, g, layout, 0.0) for g in self._grounds]
        self._cases = [Case(**dict(zip(CASE, row, strict=True))) for row in rows]
        self._case = self._cases[0]
        pp = np.arange(1, stages + 1, dtype=float)
        last = self._case.concurrency
        self._bound = {n: self._table(roofline.stage_bound_s, n / pp) for n in {1, last}}
        self._reduce = {n: self._table(roofline.all_reduce_s, n / pp) for n in {1, last}}
        self.speed = np.array(
            [roofline.bytes_per_s(g, c) for g, c in zip(self._grounds, self._cases, strict=True)]
        )

    def _table(self, time: Any, each: Vector) -> Vector:
        """Seconds of the whole model on each class, shape (stages, classes), for so many sequences in each stage."""
        pairs = zip(self._grounds, self._cases, strict=True)
        return np.stack([np.broadcast_to(time(g, c, each), each.shape) for g, c in pairs], axis=1)

    def most_layers(self, memory_bytes: int) -> int:
        """Layers that fit on the devices of a stage."""
        whole = int(self._case.layers)
        guess = int((memory_bytes - self._engine.overhead_bytes) / self._split() * whole) + 1
        most = max(0, min(guess, whole))
        while most and float(self._device_bytes(float(most))) > memory_bytes:
            most -= 1
        return most

    def _split(self) -> float:
        """Bytes of the whole model on each device of a group."""
        case = self._case
        kv = case.kv_token * case.context * case.concurrency
        return case.weights / self._tp + kv / min(self._tp, case.kv_heads)

    def _device_bytes(self, layers: Any) -> Any:
        return np.ceil(layers / self._case.layers * self._split() + self._engine.overhead_bytes)

    def figures(
        self, counts: Vector, layers: Vector, top: Vector
    ) -> tuple[dict[str, Vector], Vector]:
        """Fields of `Predicted` of chains, and the watts of each stage on each site; arguments of shape (chains, sites)."""
        share, fullest = layers / self._case.layers, top / self._case.layers
        stages = counts.sum(axis=1)
        mean = self._by_class(share) / np.maximum(self._by_class(counts), 1)
        fixed, per_sequence = self._line(stages, share, fullest)
        token_s = fixed + per_sequence * self._case.concurrency
        prefill = self._prefill_s(stages, share)
        watts = self._watts(stages, mean, token_s)
        units = counts * self._tp
        price = np.array([c.price_per_hour for c in self._classes])
        loading = np.array([c.load_bytes_per_s for c in self._classes])
        doubt = np.array([c.uncertainty for c in self._classes])
        figures = {
            "ttft_s": prefill + fixed + per_sequence,
            "token_s": token_s,
            "token_s_fixed": fixed,
            "token_s_per_sequence": per_sequence,
            "prefill_tokens_per_s": self._case.prompt / prefill,
            "tokens_per_s": self._case.concurrency / token_s,
            "power_w": (watts * counts).sum(axis=1),
            "price_per_hour": units @ price,
            "memory_bytes": self._device_bytes(top.max(axis=1)),
            "load_s": self._engine.start_s
            + (np.where(counts > 0, mean, 0.0) * self._case.weights / loading).max(axis=1),
            "uncertainty": np.where(counts > 0, doubt, 0.0).max(axis=1),
        }
        return figures, watts

    def _by_class(self, values: Vector) -> Vector:
        """Sums over the sites of one class, at each of them."""
        names = [_key(c) for c in self._classes]
        same = np.array([[a == b for b in names] for a in names], float)
        return values @ same

    def _mixed(self, share: Vector) -> Mask:
        names = np.array([_key(c) for c in self._classes])
        first = names[(share > 0).argmax(axis=1)]
        return ((share > 0) & (names[None, :] != first[:, None])).any(axis=1)

    def _hops_s(self, stages: Vector, tokens: Any) -> Any:
        size = tokens * self._case.hidden * roofline.ACTIVATION_BYTES
        return (stages - 1) * (self._hop.latency_s + size / self._hop.bytes_per_s)

    def _token_s(self, stages: Vector, share: Vector, fullest: Vector, n: int) -> Vector:
        rows = stages.astype(np.int64) - 1
        layer_s = LAYER_START_S * self._case.layers
        whole = self._bound[n][rows] + self._reduce[n][rows] + layer_s
        hops = self._hops_s(stages, n / stages)
        total = (share * whole).sum(axis=1) + hops
        slowest = (fullest * whole).max(axis=1) + hops / np.maximum(stages - 1, 1)
        rounds = np.minimum(stages, n) * slowest
        return np.where(self._mixed(share), np.maximum(total, rounds), total)

    def _line(self, stages: Vector, share: Vector, fullest: Vector) -> tuple[Vector, Vector]:
        """The chord of `roofline`, through 1 and `concurrency` sequences."""
        n = self._case.concurrency
        first = self._token_s(stages, share, fullest, 1)
        last = self._token_s(stages, share, fullest, n)
        slope = (last - first) / (n - 1) if n > 1 else np.zeros_like(first)
        starts = first - slope > 0
        return (first - slope) * starts, np.where(starts, slope, last / n)

    def _prefill_s(self, stages: Vector, share: Vector) -> Vector:
        prompt = self._case.prompt
        pairs = list(zip(self._grounds, self._cases, strict=True))
        bound = np.array([roofline.prefill_bound_s(g, c) for g, c in pairs])
        reduce = np.array([float(roofline.all_reduce_s(g, c, prompt)) for g, c in pairs])
        start = LAYER_START_S * self._case.layers
        return share @ (bound + reduce) + start + self._hops_s(stages, prompt)

    def _watts(self, stages: Vector, mean: Vector, token_s: Vector) -> Vector:
        """Of each stage on each site: idle power, and the rest by the part of a step in which it is busy."""
        bound = self._bound[self._case.concurrency][stages.astype(np.int64) - 1]
        busy = np.minimum(1.0, stages[:, None] * mean * bound / token_s[:, None])
        idle = np.array([c.idle_w for c in self._classes])
        full = np.array([c.power_w for c in self._classes])
        return self._tp * (idle + (full - idle) * busy)


def predicted_of(figures: Mapping[str, Vector], row: int) -> Predicted:
    """The figures of one chain."""
    values = {name: float(figures[name][row]) for name in Predicted.__dataclass_fields__}
    return Predicted(**cast("Any", {**values, "memory_bytes": int(values["memory_bytes"])}))
