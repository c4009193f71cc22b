"""How a model is cut: layer ranges of pipeline stages, bytes of weights and KV cache on each device.

Knows models and dtypes; knows no devices and no nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from .devices import BYTES_PER_VALUE, Dtype
from .modelspec import ModelFacts

Arithmetic = Literal["fast", "exact"]

_KV_BYTES: dict[Arithmetic, float] = {"fast": 2.0, "exact": 4.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A way to run one replica: `pp` stages of `tp` devices, `shares` taken of each (1; cores on a CPU)."""

    dtype: Dtype
    tp: int = 1
    pp: int = 1
    shares: int = 1

    @property
    def units(self) -> int:
        """Devices, or shares of a device, that a replica takes in all."""
        return self.tp * self.pp * self.shares


def layer_ranges(layers: int, stages: int) -> tuple[tuple[int, int], ...]:
    """Equal ranges [first, end), the remainder given to the first stages.

    >>> layer_ranges(30, 4)
    ((0, 8), (8, 16), (16, 23), (23, 30))
    """
    size, rest = divmod(layers, stages)
    ends = [k * size + min(k, rest) for k in range(stages + 1)]
    return tuple(pairwise(ends))


def stored_dtype(facts: ModelFacts) -> Dtype:
    """The dtype nearest to the stored weights, from their bytes per parameter (scales of quantised blocks included).

    Unknown sizes count as bf16, which is how weights are published.
    """
    if not facts.weights_bytes:
        return "bf16"
    width = facts.weights_bytes / facts.parameters
    limits: tuple[tuple[float, Dtype], ...] = ((0.8, "int4"), (1.5, "int8"), (3.0, "bf16"))
    return next((dtype for limit, dtype in limits if width <= limit), "fp32")


def weights_bytes(facts: ModelFacts, dtype: Dtype, *, stored: bool) -> float:
    """Bytes of all weights in memory; with `stored`, as they lie in the file where that size is known."""
    if stored and facts.weights_bytes:
        return float(facts.weights_bytes)
    return facts.parameters * BYTES_PER_VALUE[dtype]


def kv_bytes_per_token(facts: ModelFacts, arithmetic: Arithmetic) -> float:
    """KV cache of one token over all layers: 2 x layers x kv_heads x head_dim values (fp16; fp32 when exact).

    >>> from .modelspec import ModelFacts
    >>> llama70 = ModelFacts(parameters=70.6e9, layers=80, hidden=8192, heads=64, kv_heads=8, head_dim=128,
    ...                      ffn=28672, vocab=128256, window=8192, architecture="llama")
    >>> kv_bytes_per_token(llama70, "fast")
    327680.0
    """
    return 2.0 * facts.layers * facts.kv_heads * facts.head_dim * _KV_BYTES[arithmetic]
