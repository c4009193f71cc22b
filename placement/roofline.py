"""What a layout does on a device class: time to first token, time per token, power, price, load time.

A roofline with two efficiencies per class. Everything is per replica, in bytes, seconds, watts. Formulas: a step takes the
smooth maximum (p-norm 4) of memory time and compute time, plus a start-up time per layer, plus two all-reduces per layer;
all-reduce(S, w) = latency + 2 (w-1)/w S / bandwidth (ring). Knows no nodes: the hop between stages is given.
"""

from __future__ import annotations

from dataclasses import dataclass

from .catalog import EngineFacts
from .demand import Demand
from .devices import DeviceClass, Dtype
from .inventory import Inventory
from .layout import Layout, device_bytes, kv_bytes_per_token, weights_bytes
from .modelspec import ModelFacts
from .plan import Predicted

LAYER_START_S = 5e-6
"""Start-up time of one layer's kernels, fused; order of magnitude."""

DEFAULT_PROMPT_TOKENS = 512
"""Prompt length assumed when a demand states no rate (less when half its context is less)."""

ACTIVATION_BYTES = 2
"""Bytes per activation value that crosses a link (fp16)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """A link between two pipeline stages."""

    bytes_per_s: float = 1.25e9
    latency_s: float = 100e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """What a TP group does per second, and what its replica holds."""

    facts: ModelFacts
    layout: Layout
    flops: float
    bytes_per_s: float
    weights: float
    kv_per_sequence: float
    link_bytes_per_s: float
    link_latency_s: float
    hop: Hop


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
    weights = weights_bytes(facts, layout.dtype, stored=engine.stored_weights)
    kv_token = kv_bytes_per_token(facts, demand.arithmetic)
    prompt, mean = _expected_tokens(demand)
    flops = _flops(demand, facts, device_class, layout.dtype)
    rates = _rates(facts, device_class, layout, device_shares, hop, flops, weights, kv_token * mean)
    fixed, per_sequence = _line(rates, demand.concurrency)
    token_s = fixed + per_sequence * demand.concurrency
    prefill = _prefill_s(rates, prompt)
    kv = kv_token * demand.context * demand.concurrency
    return Predicted(
        ttft_s=prefill + fixed + per_sequence,
        token_s=token_s,
        token_s_fixed=fixed,
        token_s_per_sequence=per_sequence,
        prefill_tokens_per_s=prompt / prefill,
        tokens_per_s=demand.concurrency / token_s,
        power_w=_power_w(rates, device_class, demand.concurrency, token_s),
        price_per_hour=device_class.price_per_hour * layout.units,
        memory_bytes=device_bytes(
            facts, layout, weights=weights, kv=kv, overhead=engine.overhead_bytes
        ),
        load_s=engine.start_s + build_s + weights / layout.pp / device_class.load_bytes_per_s,
        uncertainty=device_class.uncertainty,
    )


def _expected_tokens(demand: Demand) -> tuple[int, float]:
    """Prompt length, and mean context of a sequence while it decodes."""
    if demand.rate is None:
        return max(1, min(DEFAULT_PROMPT_TOKENS, demand.context // 2)), demand.context / 2
    prompt = max(1, min(demand.rate.prompt_tokens, demand.context))
    return prompt, min(prompt + demand.rate.output_tokens / 2, demand.context)


def _rates(
    facts: ModelFacts,
    device_class: DeviceClass,
    layout: Layout,
    device_shares: int,
    hop: Hop,
    flops: float,
    weights: float,
    kv_per_sequence: float,
) -> _Rates:
    width = layout.tp * layout.shares
    bandwidth = device_class.bandwidth_bytes_per_s
    if device_class.bandwidth_cap_bytes_per_s:
        bandwidth = min(bandwidth, device_class.bandwidth_cap_bytes_per_s / device_shares)
    return _Rates(
        facts=facts,
        layout=layout,
        flops=flops * width * device_class.flops_efficiency,
        bytes_per_s=bandwidth * width * device_class.bandwidth_efficiency,
        weights=weights,
        kv_per_sequence=kv_per_sequence,
        link_bytes_per_s=device_class.link_bytes_per_s,
        link_latency_s=device_class.link_latency_s,
        hop=hop,
    )


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


def _smooth_max(a: float, b: float) -> float:
    return (a**4 + b**4) ** 0.25


def _all_reduce_s(rates: _Rates, tokens: float) -> float:
    """Two all-reduces per layer over the whole model; 0 without tensor parallelism."""
    tp = rates.layout.tp
    if tp == 1:
        return 0.0
    size = tokens * rates.facts.hidden * ACTIVATION_BYTES
    one = rates.link_latency_s + 2 * (tp - 1) / tp * size / rates.link_bytes_per_s
    return 2 * rates.facts.layers * one


def _hops_s(rates: _Rates, tokens: float) -> float:
    size = tokens * rates.facts.hidden * ACTIVATION_BYTES
    return (rates.layout.pp - 1) * (rates.hop.latency_s + size / rates.hop.bytes_per_s)


def _bound_s(rates: _Rates, sequences: float) -> float:
    """The roofline term of a decode step over all stages, which work on `sequences / pp` each."""
    each = sequences / rates.layout.pp
    memory = (rates.weights + each * rates.kv_per_sequence) / rates.bytes_per_s
    return _smooth_max(memory, 2 * rates.facts.parameters * each / rates.flops)


def _token_s(rates: _Rates, sequences: float) -> float:
    each = sequences / rates.layout.pp
    overhead = LAYER_START_S * rates.facts.layers + _all_reduce_s(rates, each)
    return _bound_s(rates, sequences) + overhead + _hops_s(rates, each)


def _line(rates: _Rates, concurrency: int) -> tuple[float, float]:
    """Chord through 1 and `concurrency` sequences: t(B) = fixed + per_sequence * B. The curve is convex, so it is safe between."""
    first, last = _token_s(rates, 1), _token_s(rates, concurrency)
    slope = (last - first) / (concurrency - 1) if concurrency > 1 else 0.0
    if first - slope <= 0:
        return 0.0, last / concurrency
    return first - slope, slope


def _prefill_s(rates: _Rates, prompt: int) -> float:
    facts = rates.facts
    flop = 2.0 * facts.parameters * prompt + 4.0 * prompt**2 * facts.hidden * facts.layers
    compute = _smooth_max(rates.weights / rates.bytes_per_s, flop / rates.flops)
    return (
        compute
        + LAYER_START_S * facts.layers
        + _all_reduce_s(rates, prompt)
        + _hops_s(rates, prompt)
    )


def _power_w(rates: _Rates, device_class: DeviceClass, concurrency: int, token_s: float) -> float:
    """Idle power plus the rest by the fraction of a step in which the binding resource is busy."""
    busy = min(1.0, _bound_s(rates, concurrency) / token_s)
    each = device_class.idle_w + (device_class.power_w - device_class.idle_w) * busy
    return each * rates.layout.units
