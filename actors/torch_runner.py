"""Runs rows of sequences through a transformers decoder: token ids of some slots in, logits of each row's last position out.

Decides where the keys and values of a slot lie and what each row may see of them. Only loaded inside the environment that has torch,
which is handed in. It must not know requests.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

_PROOF = (3, 5, 7, 11, 13, 17)
_TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.1}
"""Of the largest logit: how far reading in parts may be off reading at once."""


class SlotCache:
    """Keys and values of all slots, per layer [slots, heads, window, values]; stands in for transformers' own cache.

    On the CPU a window costs no memory until it is used. Whatever a freed slot held is zero again: what a row may not see is
    multiplied by zero, and a number that is not finite would get through.

    Args:
        device: torch's name of it.
    """

    movable = True
    is_compileable = False

    def __init__(self, torch: Any, *, slots: int, window: int, layers: int, device: str) -> None:
        self._torch = torch
        self._slots = slots
        self._window = window
        self._device = device
        self._tensors: list[tuple[Any, Any] | None] = [None] * layers
        self._maps: list[mmap.mmap] = []
        self._low = self._most = 0
        self._starts: Any = None

    def select(self, low: int, starts: Any, most: int) -> None:
        """Says which rows the next run is of.

        Args:
            low: first slot.
            starts: of each row, where its new tokens go.
            most: longest row with them.
        """
        self._low, self._starts, self._most = low, starts, most

    def update(
        self, keys: Any, values: Any, layer: int, *_args: Any, **_more: Any
    ) -> tuple[Any, Any]:
        """Called by each layer: appends [rows, heads, tokens, values], and returns all that the rows have."""
        found = self._tensors[layer]
        if found is None:
            found = self._tensors[layer] = (self._zeros(keys), self._zeros(values))
        for tensor, new in zip(found, (keys, values), strict=True):
            self._append(tensor, new)
        high = self._low + keys.shape[0]
        return tuple(tensor[self._low : high, :, : self._most] for tensor in found)  # type: ignore[return-value]

    def get_seq_length(self, _layer: int = 0) -> int:
        """Asked by models that count positions themselves; ours are always given."""
        return 0

    def _append(self, tensor: Any, new: Any) -> None:
        rows, _, tokens, _ = new.shape
        if rows == 1:
            start = int(self._starts[0])
            tensor[self._low, :, start : start + tokens] = new[0]
            return
        slots = self._torch.arange(self._low, self._low + rows, device=self._device)
        tensor[slots, :, self._starts] = new[:, :, 0]

    def _zeros(self, like: Any) -> Any:
        shape = (self._slots, like.shape[1], self._window, like.shape[3])
        if self._device != "cpu":
            return self._torch.zeros(shape, dtype=like.dtype, device=self._device)
        # Private, or what is given up below would stay.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, int(np.prod(shape)) * like.element_size(), flags=flags)
        self._maps.append(memory)
        return self._torch.frombuffer(memory, dtype=like.dtype).reshape(shape)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of a slot to another."""
        for tensor in self._all():
            tensor[target, :, :tokens] = tensor[source, :, :tokens]

    def freed(self, slot: int, tokens: int) -> None:
        """Forgets what a slot held, and gives its memory back."""
        for tensor in self._all():
            tensor[slot, :, :tokens] = 0
        for memory in self._maps:
            size = len(memory) // self._slots
            first = -(-slot * size // mmap.PAGESIZE) * mmap.PAGESIZE
            end = (slot + 1) * size // mmap.PAGESIZE * mmap.PAGESIZE
            if first < end:
                memory.madvise(mmap.MADV_DONTNEED, first, end - first)

    def _all(self) -> list[Any]:
        return [tensor for pair in self._tensors if pair is not None for tensor in pair]


class Runner:
    """A model and the cache of its slots.

    Args:
        model: a causal language model of transformers, on its device.
    """

    def __init__(self, torch: Any, model: Any, cache: SlotCache, *, device: str) -> None:
        self._torch = torch
        self._model = model
        self._cache = cache
        self._device = device

    def run(
        self, low: int, ids: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Logits [rows, vocabulary] after the last of the ids.

        Args:
            low: first slot; the rows are those from there on.
            ids: [rows, tokens]; of several rows each has one.
            lengths: of each row's sequence with these ids.
        """
        torch, tokens, most = self._torch, ids.shape[1], int(lengths.max())
        ends = torch.as_tensor(lengths, device=self._device)
        positions = (ends - tokens)[:, None] + torch.arange(tokens, device=self._device)
        columns = torch.arange(most, device=self._device)
        # Always given: a model that is left to guess takes ids for padding that prompts are full of.
        seen = columns <= positions[:, None, :, None]
        self._cache.select(low, ends - tokens, most)
        with torch.no_grad():
            logits = self._model(
                input_ids=torch.as_tensor(ids, device=self._device),
                attention_mask=seen,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits[:, -1].float().cpu().numpy()

    def proved(self, vocab: int) -> bool:
        """Whether reading in parts gives the logits that the model gives without any cache of ours."""
        torch = self._torch
        ids = np.array([[token % vocab for token in _PROOF]], np.int64)
        with torch.no_grad():
            given = torch.as_tensor(ids, device=self._device)
            plain = self._model(
                input_ids=given, attention_mask=torch.ones_like(given), use_cache=False
            ).logits[0, -1]
        self.run(0, ids[:, :2], np.array([2]))
        parts = self.run(0, ids[:, 2:], np.array([ids.shape[1]]))[0]
        self._cache.freed(0, ids.shape[1])
        name = str(self._model.dtype).removeprefix("torch.")
        whole = plain.float().cpu().numpy()
        near = _TOLERANCE.get(name, 0.1) * float(np.abs(whole).max())
        return bool(np.allclose(whole, parts, rtol=0, atol=near))
