"""KV caches of all slots: one tensor [slots, heads, window, values] per key and value of each layer, read and written in place.

Decides where they lie and how a slot's content moves. It must not know sequences.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .graph import DecoderGraph
from .providers import Provider

DTYPES = {"fp32": np.float32, "fp16": np.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class KvShape:
    """Sizes of the cache of a graph."""

    slots: int
    heads: int
    window: int
    values: int
    dtype: str
    tensors: int

    @property
    def token_bytes(self) -> int:
        """Of one token, over all layers."""
        return self.tensors * self.heads * self.values * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def row_bytes(self) -> int:
        """Of one slot in one tensor."""
        return self.token_bytes * self.window // self.tensors


class KvCache(Protocol):
    """The caches of all slots."""

    movable: bool
    """Whether a slot's content can be moved to another slot."""

    def bind(self, binding: Any, low: int, high: int) -> None:
        """Binds slots [low, high) as past and present."""
        ...

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of a slot to another."""
        ...

    def freed(self, slot: int, tokens: int) -> None:
        """Takes note that a slot, filled so far, holds nothing of worth any more."""
        ...


def names(graph: DecoderGraph) -> Iterator[tuple[str, str]]:
    """(input, output) of each tensor of the cache."""
    for layer in graph.layers:
        yield from zip(layer.past, layer.present, strict=True)


def make_cache(
    graph: DecoderGraph, shape: KvShape, provider: Provider, budget_tokens: int
) -> KvCache:
    """The cache where the provider wants it."""
    pairs = tuple(names(graph))
    if provider.kv == "host":
        return HostKv(pairs, shape, budget_tokens)
    return DeviceKv(pairs, shape, provider)


class HostKv:
    """In our own memory, of which the system gives a page only when it is written to.

    So a window costs nothing until it is used. Pages of freed slots are given back once more tokens than the plan has room
    for have left their marks.
    """

    movable = True

    def __init__(
        self, pairs: Sequence[tuple[str, str]], shape: KvShape, budget_tokens: int
    ) -> None:
        self._pairs = pairs
        self._shape = shape
        self._budget_tokens = budget_tokens
        self._touched = [0] * shape.slots
        self._maps = [_mapped(shape.slots * shape.row_bytes) for _ in pairs]
        sizes = (shape.slots, shape.heads, shape.window, shape.values)
        dtype = DTYPES[shape.dtype]
        self._tensors = [np.frombuffer(memory, dtype).reshape(sizes) for memory in self._maps]

    def bind(self, binding: Any, low: int, high: int) -> None:
        """See `KvCache`."""
        dtype = DTYPES[self._shape.dtype]
        for (past, present), tensor in zip(self._pairs, self._tensors, strict=True):
            view = tensor[low:high]
            binding.bind_input(past, "cpu", 0, dtype, view.shape, view.ctypes.data)
            binding.bind_output(present, "cpu", 0, dtype, view.shape, view.ctypes.data)

    def move(self, source: int, target: int, tokens: int) -> None:
        """See `KvCache`."""
        for tensor in self._tensors:
            tensor[target, :, :tokens] = tensor[source, :, :tokens]
        self._touched[target] = max(self._touched[target], tokens)

    def freed(self, slot: int, tokens: int) -> None:
        """See `KvCache`."""
        self._touched[slot] = max(self._touched[slot], tokens)
        if sum(self._touched) <= self._budget_tokens:
            return
        size = self._shape.row_bytes
        first = -(-slot * size // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (slot + 1) * size // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED") and first < end:
            for memory in self._maps:
                memory.madvise(mmap.MADV_DONTNEED, first, end - first)
        self._touched[slot] = 0


def _mapped(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(
        mmap, "MADV_NOHUGEPAGE"
    ):  # a huge page would hold whole windows of which little is used
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


class DeviceKv:
    """On the device. A slot is a pointer into its tensor; nothing moves, so a freed slot stays a hole until it is used again."""

    movable = False

    def __init__(
        self, pairs: Sequence[tuple[str, str]], shape: KvShape, provider: Provider
    ) -> None:
        from onnxruntime import OrtValue

        self._pairs = pairs
        self._shape = shape
        self._provider = provider
        sizes = (shape.slots, shape.heads, shape.window, shape.values)
        dtype, memory = DTYPES[shape.dtype], provider.memory
        self._values = [
            OrtValue.ortvalue_from_shape_and_type(sizes, dtype, memory, 0) for _ in pairs
        ]

    def bind(self, binding: Any, low: int, high: int) -> None:
        """See `KvCache`."""
        for (past, present), value in zip(self._pairs, self._values, strict=True):
            if self._provider.kv == "whole":
                binding.bind_ortvalue_input(past, value)
                binding.bind_ortvalue_output(present, value)
                continue
            place = value.data_ptr() + low * self._shape.row_bytes
            sizes = (high - low, self._shape.heads, self._shape.window, self._shape.values)
            given = (self._provider.memory, 0, DTYPES[self._shape.dtype], sizes, place)
            binding.bind_input(past, *given)
            binding.bind_output(present, *given)

    def move(self, source: int, target: int, tokens: int) -> None:
        """See `KvCache`. Never asked for."""
        raise NotImplementedError("slots on a device do not move")

    def freed(self, slot: int, tokens: int) -> None:
        """See `KvCache`. The memory is the device's, and planned."""
