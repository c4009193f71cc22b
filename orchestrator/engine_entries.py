"""Engines in an inventory file: the keys that such an entry has, and what they become.

Decides what may be written of an engine that the catalog does not have. It must not know the rest of the file.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from placement.devices import Dtype
from placement.engine_facts import EngineFacts, engine_of

from .spec_grammar import Capability, Positive, Strict, Word

_Pair = Annotated[str, Field(pattern=r"^[a-z0-9_-]+/(gpu|npu|pim|cpu|remote)(/[A-Za-z0-9._-]+)?$")]
_Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class EngineEntry(Strict):
    """What an engine drives, reads and runs; `drives` names vendor/kind or vendor/kind/CLASS."""

    drives: Annotated[list[_Pair], Field(min_length=1, max_length=100)]
    dtypes: Annotated[list[Dtype], Field(min_length=1)]
    yields: list[_Pair] = Field(default_factory=list)
    architectures: list[Word] = Field(default_factory=list)
    formats: list[Word] = Field(default_factory=list)
    exact_dtypes: list[Dtype] = Field(default_factory=list)
    offers: list[Capability] = Field(default_factory=list)
    tp: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        default_factory=lambda: [1], min_length=1
    )
    pp: Annotated[int, Field(ge=1, le=64)] = 1
    chain: Annotated[int, Field(ge=0, le=64)] = 0
    schemes: list[Word] = Field(default_factory=list)
    overhead_gib: Positive | None = None
    start_s: _Seconds = 0.0
    build_s: _Seconds = 0.0
    exact: bool = False
    exact_on: list[_Pair] = Field(default_factory=list)
    stored_weights: bool = False


def engine_facts(name: str, entry: EngineEntry) -> EngineFacts:
    """The facts of an entry."""
    return engine_of(name, entry.model_dump(exclude_none=True))
