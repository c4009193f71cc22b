"""What a layout does on a device class: time to first token, time per token, power, price, load time.

A roofline with two efficiencies per class. Everything is per replica, in bytes, seconds, watts. Formulas: a step takes the
smooth maximum (p-norm 4) of memory time and compute time, plus a start-up time per layer, plus two all-reduces per layer;
all-reduce(S, w) = latency + 2 (w-1)/w S / bandwidth (ring). Knows no nodes: the hop between stages is given.

The formulas use arithmetic alone, so that one text serves single figures (`predict`) and whole columns of them
(`predict_columns`: numpy arrays, one entry per option).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .catalog import EngineFacts
from .demand import Demand
from .devices import DeviceClass, Dtype
from .inventory import Inventory
from .layout import Layout, kv_bytes_per_token, weights_bytes
from .modelspec import ModelFacts
from .plan import Predicted

LAYER_START_S = 5e-6
"""Start-up time of one layer's kernels, fused; order of magnitude."""

DEFAULT_PROMPT_TOKENS = 512
"""Prompt length assumed when a demand states no rate (less when half its context is less)."""

ACTIVATION_BYTES = 2
"""Bytes per activation value that crosses a link (fp16)."""

Figure: TypeAlias = Any
"""A float, or an array of them with one entry per option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """A link between two pipeline stages."""

    bytes_per_s: float = 1.25e9
    latency_s: float = 100e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the options of a column share: class, engine, parts of a whole device, hop between stages."""

    device_class: DeviceClass
    engine: EngineFacts
    device_shares: int
    hop: Hop


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One option in figures.

    Attributes:
        flops: of the arithmetic in use, per share, data sheet.
        weights: bytes of all weights in memory.
        kv_token: bytes of KV cache per token, over all layers.
        prompt: expected tokens of a prompt.
        mean: expected tokens in a sequence's cache while it decodes.
        build_s: time to compile first, where no artifact lies ready.
    """

    parameters: Figure
    layers: Figure
    hidden: Figure
    kv_heads: Figure
    context: Figure
    concurrency: Figure
    kv_token: Figure
    prompt: Figure
    mean: Figure
    weights: Figure
    flops: Figure
    tp: Figure
    pp: Figure
    shares: Figure
    build_s: Figure


def slowest_hop(inventory: Inventory) -> Hop:
    """The worst declared default link: what pipeline stages can count on wherever they land."""
    links = [link for link in inventory.links if isinstance(link.between, str)]
    if not links:
        return Hop()
    return Hop(
        bytes_per_s=min(link.bytes_per_s for link in links),
        latency_s=max(link.latency_s for link in links),
    )


def predict(
    demand: Demand,
    facts: ModelFacts,
    device_class: DeviceClass,
    engine: EngineFacts,
    layout: Layout,
    *,
    device_shares: int,
    hop: Hop,
    build_s: float = 0.0,
) -> Predicted:
    """What one replica of `demand` is expected to do in that layout.

    Args:
        device_shares: of a whole device; its bandwidth cap is shared out evenly, as if all shares were busy.
        build_s: time to compile the model first, where no artifact lies ready.
    """
    ground = Ground(device_class=device_class, engine=engine, device_shares=device_shares, hop=hop)
    case = Case(**dict(zip(CASE, case_of(demand, facts, ground, layout, build_s), strict=True)))
    figures = _figures(ground, case)
    return Predicted(**{**figures, "memory_bytes": int(figures["memory_bytes"])})


def predict_columns(ground: Ground, columns: Sequence[Figure]) -> dict[str, Figure]:
    """The fields of `Predicted` for many options at once; `columns` are arrays in the order of `CASE`.

    A figure that all options share comes back as one number.
    """
    return _figures(ground, Case(**dict(zip(CASE, columns, strict=True))))


CASE = tuple(Case.__dataclass_fields__)


def case_of(
    demand: Demand, facts: ModelFacts, ground: Ground, layout: Layout, build_s: float
) -> tuple[float, ...]:
    """An option in figures, in the order of `CASE`."""
    return (
        *demand_figures(demand, facts),
        *dtype_figures(demand, facts, ground, layout.dtype),
        layout.tp,
        layout.pp,
        layout.shares,
        build_s,
    )


def demand_figures(demand: Demand, facts: ModelFacts) -> tuple[float, ...]:
    """The first part of a case: what the demand alone decides."""
    prompt, mean = _expected_tokens(demand)
    return (
        facts.parameters,
        facts.layers,
        facts.hidden,
        max(facts.kv_heads, 1),
        demand.context,
        demand.concurrency,
        kv_bytes_per_token(facts, demand.arithmetic),
        prompt,
        mean,
    )


def dtype_figures(
    demand: Demand, facts: ModelFacts, ground: Ground, dtype: Dtype
) -> tuple[float, float]:
    """The second part of a case: bytes of the weights and rate of the arithmetic."""
    return (
        weights_bytes(facts, dtype, stored=ground.engine.stored_weights),
        _flops(demand, facts, ground.device_class, dtype),
    )


def _expected_tokens(demand: Demand) -> tuple[int, float]:
    """Prompt length, and mean context of a sequence while it decodes."""
    if demand.rate is None:
        return max(1, min(DEFAULT_PROMPT_TOKENS, demand.context // 2)), demand.context / 2
    prompt = max(1, min(demand.rate.prompt_tokens, demand.context))
    return prompt, min(prompt + demand.rate.output_tokens / 2, demand.context)


def _flops(demand: Demand, facts: ModelFacts, device_class: DeviceClass, dtype: Dtype) -> float:
    """Rate of the arithmetic, per share, data sheet.

    A dtype that the class does not compute is one of weights kept as stored: their activations are quantised to int8 where
    that is allowed, else the weights are expanded to floats.
    """
    flops = dict(device_class.flops)
    quantised = dtype in ("int4", "int8") and facts.weights_bytes > 0
    if demand.arithmetic == "exact":
        return flops.get("fp32", min(flops.values()))
    if quantised and "int8" in flops:
        return flops["int8"]
    return flops.get(dtype, flops.get("fp32", min(flops.values())))


def _figures(ground: Ground, case: Case) -> dict[str, Figure]:
    fixed, per_sequence = _line(ground, case)
    token_s = fixed + per_sequence * case.concurrency
    prefill = _prefill_s(ground, case)
    kind = ground.device_class
    units = case.tp * case.pp * case.shares
    return {
        "ttft_s": prefill + fixed + per_sequence,
        "token_s": token_s,
        "token_s_fixed": fixed,
        "token_s_per_sequence": per_sequence,
        "prefill_tokens_per_s": case.prompt / prefill,
        "tokens_per_s": case.concurrency / token_s,
        "power_w": _power_w(ground, case, token_s) * units,
        "price_per_hour": kind.price_per_hour * units,
        "memory_bytes": _device_bytes(ground, case),
        "load_s": ground.engine.start_s
        + case.build_s
        + case.weights / case.pp / kind.load_bytes_per_s,
        "uncertainty": kind.uncertainty,
    }


def _ceil(value: Figure) -> Figure:
    return -(-value // 1)


def _device_bytes(ground: Ground, case: Case) -> Figure:
    """Bytes on each device of the fullest stage: weights divide over the group, KV over its KV heads."""
    kv = case.kv_token * case.context * case.concurrency
    stage = _ceil(case.layers / case.pp) / case.layers
    holders = case.tp + (case.kv_heads - case.tp) * (case.kv_heads < case.tp)
    return _ceil(stage * (case.weights / case.tp + kv / holders) + ground.engine.overhead_bytes)


def bytes_per_s(ground: Ground, case: Case) -> Figure:
    """Memory bandwidth of a TP group as reached."""
    kind = ground.device_class
    bandwidth = kind.bandwidth_bytes_per_s
    if kind.bandwidth_cap_bytes_per_s:
        bandwidth = min(bandwidth, kind.bandwidth_cap_bytes_per_s / ground.device_shares)
    return bandwidth * case.tp * case.shares * kind.bandwidth_efficiency


def _flops_reached(ground: Ground, case: Case) -> Figure:
    return case.flops * case.tp * case.shares * ground.device_class.flops_efficiency


def _smooth_max(a: Figure, b: Figure) -> Figure:
    return (a**4 + b**4) ** 0.25


def all_reduce_s(ground: Ground, case: Case, tokens: Figure) -> Figure:
    """Two all-reduces per layer over the whole model; 0 without tensor parallelism."""
    link = ground.device_class.link_bytes_per_s
    if not link:
        return 0.0
    size = tokens * case.hidden * ACTIVATION_BYTES
    ring = 2 * (case.tp - 1) / case.tp * size / link
    return 2 * case.layers * (ground.device_class.link_latency_s + ring) * (case.tp > 1)


def _hops_s(ground: Ground, case: Case, tokens: Figure) -> Figure:
    size = tokens * case.hidden * ACTIVATION_BYTES
    return (case.pp - 1) * (ground.hop.latency_s + size / ground.hop.bytes_per_s)


def _bound_s(ground: Ground, case: Case, sequences: Figure) -> Figure:
    """The roofline term of a decode step over all stages, which work on `sequences / pp` each."""
    return stage_bound_s(ground, case, sequences / case.pp)


def stage_bound_s(ground: Ground, case: Case, each: Figure) -> Figure:
    """The roofline term of a decode step of `each` sequences over all layers."""
    memory = (case.weights + each * case.kv_token * case.mean) / bytes_per_s(ground, case)
    return _smooth_max(memory, 2 * case.parameters * each / _flops_reached(ground, case))


def _token_s(ground: Ground, case: Case, sequences: Figure) -> Figure:
    each = sequences / case.pp
    overhead = LAYER_START_S * case.layers + all_reduce_s(ground, case, each)
    return _bound_s(ground, case, sequences) + overhead + _hops_s(ground, case, each)


def _line(ground: Ground, case: Case) -> tuple[Figure, Figure]:
    """Chord through 1 and `concurrency` sequences: t(B) = fixed + per_sequence * B, through 0 where it would start below.

    The curve is convex, so the chord is safe between.
    """
    first, last = _token_s(ground, case, 1.0), _token_s(ground, case, case.concurrency)
    several = case.concurrency > 1
    slope = (last - first) / (case.concurrency - several) * several
    starts = first - slope > 0
    return (first - slope) * starts, slope * starts + last / case.concurrency * (1 - starts)


def prefill_bound_s(ground: Ground, case: Case) -> Figure:
    """The roofline term of a prompt over all layers."""
    flop = 2.0 * case.parameters * case.prompt + 4.0 * case.prompt**2 * case.hidden * case.layers
    memory = case.weights / bytes_per_s(ground, case)
    return _smooth_max(memory, flop / _flops_reached(ground, case))


def _prefill_s(ground: Ground, case: Case) -> Figure:
    return (
        prefill_bound_s(ground, case)
        + LAYER_START_S * case.layers
        + all_reduce_s(ground, case, case.prompt)
        + _hops_s(ground, case, case.prompt)
    )


def _power_w(ground: Ground, case: Case, token_s: Figure) -> Figure:
    """Of each unit: idle power plus the rest by the fraction of a step in which the binding resource is busy."""
    busy = _bound_s(ground, case, case.concurrency) / token_s
    busy = busy + (1.0 - busy) * (busy > 1.0)
    kind = ground.device_class
    return kind.idle_w + (kind.power_w - kind.idle_w) * busy
