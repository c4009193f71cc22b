"""What an engine is to placement: what it drives, reads, computes and offers, as facts; and those facts as rows of a file.

Ours stand in the catalog, those of other people's engines come with the inventory. Knows no nodes and no models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

from .devices import DeviceClass, Dtype
from .units import GIB

Capability = Literal["ids", "seed", "penalties", "json_schema", "logprobs", "lora", "prefix_cache"]
"""Something that a spec can require of whatever serves a model; see `actors.engine.Capabilities`."""

CAPABILITIES: tuple[Capability, ...] = get_args(Capability)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What an engine drives and which layouts it takes.

    Attributes:
        drives: `vendor/kind` pairs, or `vendor/kind/CLASS` for one class alone.
        yields: `vendor/kind` pairs where every other engine is preferred to it; there it runs on one device alone.
        architectures: graphs that it knows; empty = any.
        formats: of model files that it reads, e.g. `safetensors`; empty = any.
        exact_dtypes: in which its arithmetic can be exact; empty = any. One with `stored_weights` runs what is stored.
        offers: capabilities that a spec can require.
        tp: sizes of a tensor-parallel group.
        pp: most pipeline stages.
        chain: most stages of a pipeline whose stages lie in several pools; 0 = it runs none.
        schemes: of model sources that it reads, where no node says in which forms they lie.
        overhead_bytes: memory that it takes on each device beside weights and KV cache.
        start_s: from process start to the first byte of weights.
        build_s: to compile a model for a device class; 0 = it needs no artifact.
        exact: its greedy text can be independent of batch and resume point.
        exact_on: `vendor/kind` pairs on which it can; empty = on all that it drives.
        stored_weights: it loads weights as they are stored.
    """

    name: str
    drives: frozenset[str]
    dtypes: tuple[Dtype, ...]
    yields: frozenset[str] = frozenset()
    architectures: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    exact_dtypes: tuple[Dtype, ...] = ()
    offers: frozenset[Capability] = frozenset()
    tp: tuple[int, ...] = (1,)
    pp: int = 1
    chain: int = 0
    schemes: frozenset[str] = frozenset()
    overhead_bytes: int = 0
    start_s: float = 0.0
    build_s: float = 0.0
    exact: bool = False
    exact_on: frozenset[str] = frozenset()
    stored_weights: bool = False

    def covers(self, device_class: DeviceClass) -> bool:
        """Whether it drives real devices of that class."""
        pair = f"{device_class.vendor}/{device_class.kind}"
        return bool(self.drives & {pair, f"{pair}/{device_class.name}"})

    def exact_with(self, device_class: DeviceClass) -> bool:
        """Whether its arithmetic can be exact on that class."""
        pair = f"{device_class.vendor}/{device_class.kind}"
        return self.exact and (not self.exact_on or pair in self.exact_on)

    def yields_on(self, device_class: DeviceClass) -> bool:
        """Whether every other engine is preferred to it on that class."""
        return f"{device_class.vendor}/{device_class.kind}" in self.yields

    def runs(self, arithmetic: Literal["fast", "exact"]) -> tuple[Dtype, ...]:
        """The dtypes in which it computes with that arithmetic, those of stored weights aside.

        >>> facts = EngineFacts(name="e", drives=frozenset(), dtypes=("bf16", "fp32"), exact_dtypes=("fp32",))
        >>> facts.runs("fast"), facts.runs("exact")
        (('bf16', 'fp32'), ('fp32',))
        """
        if arithmetic == "fast" or not self.exact_dtypes:
            return self.dtypes
        return tuple(dtype for dtype in self.dtypes if dtype in self.exact_dtypes)


MOST_ENTRIES = 100
LONGEST_WORD = 100
MOST_TP, MOST_STAGES = 4096, 64
MOST_OVERHEAD_BYTES, LONGEST_S = 1 << 50, 1e6
"""Facts come from other people's code, and every plan tries all that they allow."""


def flaw(facts: EngineFacts) -> str:
    """Why facts make no sense, which would break every plan; empty when they do."""
    figures = (facts.overhead_bytes, facts.start_s, facts.build_s)
    if wrong := _unwieldy(facts):
        return f"engine {facts.name[:LONGEST_WORD]!r} {wrong}"
    if not facts.name or not facts.drives or not facts.dtypes:
        return f"engine {facts.name!r} names no device classes or no dtypes"
    if not facts.tp or any(size < 1 for size in facts.tp) or facts.pp < 1 or facts.chain < 0:
        return f"engine {facts.name!r}: tp {facts.tp}, pp {facts.pp} or chain {facts.chain} is no count"
    if not all(isfinite(figure) and figure >= 0 for figure in figures):
        return f"engine {facts.name!r} has a negative or infinite figure"
    return ""


def _unwieldy(facts: EngineFacts) -> str:
    """What of it is beyond every real engine, as the end of a sentence."""
    for key in (*_SETS, *_TUPLES):
        entries = getattr(facts, key)
        if len(entries) > MOST_ENTRIES:
            return f"has {len(entries)} {key}, {MOST_ENTRIES} at most"
    words = (facts.name, *(word for key in _SETS for word in getattr(facts, key)))
    if not all(word.isprintable() and len(word) <= LONGEST_WORD for word in words):
        return f"has a word of more than {LONGEST_WORD} characters, or one that cannot be printed"
    if max(facts.tp, default=1) > MOST_TP or max(facts.pp, facts.chain) > MOST_STAGES:
        return f"has tp above {MOST_TP}, or pp or chain above {MOST_STAGES}"
    if facts.overhead_bytes > MOST_OVERHEAD_BYTES or max(facts.start_s, facts.build_s) > LONGEST_S:
        return f"takes more than {MOST_OVERHEAD_BYTES} bytes or {LONGEST_S:g} s"
    return ""


_SETS = ("drives", "yields", "architectures", "formats", "offers", "schemes", "exact_on")
_TUPLES = ("dtypes", "exact_dtypes", "tp")
_PLAIN = ("pp", "chain", "start_s", "build_s", "exact", "stored_weights")


def engine_of(name: str, row: Mapping[str, Any]) -> EngineFacts:
    """The facts in a row of the catalog or of an inventory file; what is left out is as the attributes' defaults say."""
    given: dict[str, Any] = {key: row[key] for key in _PLAIN if key in row}
    given |= {key: frozenset(row[key]) for key in _SETS if key in row}
    given |= {key: tuple(row[key]) for key in _TUPLES if key in row}
    return EngineFacts(name=name, overhead_bytes=int(row.get("overhead_gib", 0.0) * GIB), **given)


def row_of(facts: EngineFacts) -> dict[str, Any]:
    """The inverse of `engine_of`, without what says nothing."""
    row: dict[str, Any] = {key: sorted(getattr(facts, key)) for key in _SETS}
    row |= {key: list(getattr(facts, key)) for key in _TUPLES}
    row |= {key: getattr(facts, key) for key in _PLAIN}
    row["overhead_gib"] = facts.overhead_bytes / GIB
    return {key: value for key, value in row.items() if value or key in ("drives", "dtypes")}
