"""What a spec asks of an engine beyond the plan. Decides nothing here: whoever starts the engine hands it over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What a spec asks of engines beyond the plan; empty = the engine's own choice.

    Attributes:
        attention_backend: the engine's own name for it.
        quantization: scheme of weights that are quantised while they load, or of a checkpoint that does not say.
        kv_dtype: of the KV cache.
        prefix_cache: beginnings that were read before are not read again, where the engine can do that.
        allow_pickle: weights in pickle files, which run code when they are read, may be loaded.
        lora: adapters as (name, where it lies).
    """

    attention_backend: str = ""
    quantization: str = ""
    kv_dtype: str = ""
    prefix_cache: bool = True
    allow_pickle: bool = False
    lora: tuple[tuple[str, str], ...] = ()


PLAIN = Tuning()
"""Every choice is the engine's own."""
