"""Runs rows of sequences through an ONNX decoder: token ids of some slots in, logits of each row's last position out.

Decides what is bound where. The graph takes each row's length from the sum of its mask, and appends to the row's slot of the
KV cache at that place. It must not know requests.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import LoadFailed
from .graph import DecoderGraph
from .kv import DTYPES, KvCache
from .session import first_line

_PROOF = (3, 5, 7, 11)
_TOLERANCE = 0.05
"""Of the largest logit. What a provider that loses its cache answers is off by the order of the logits themselves."""


class Runner:
    """One session and its bindings.

    Args:
        session: of ONNX Runtime.
        rows: most rows at once.
        chunk: most tokens of a row at once.
    """

    def __init__(
        self,
        session: Any,
        graph: DecoderGraph,
        cache: KvCache,
        *,
        vocab: int,
        rows: int,
        chunk: int,
    ) -> None:
        self._session = session
        self._graph = graph
        self._cache = cache
        self._vocab = vocab
        self._bindings: dict[tuple[int, int], Any] = {}
        most = rows if graph.last_only else max(rows, chunk)
        self._logits = np.empty(most * vocab, DTYPES[graph.logits_dtype])

    def run(
        self, low: int, ids: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Logits [rows, vocabulary] after the last of the ids; only valid until the next call.

        Args:
            low: first slot; the rows are those from there on.
            ids: [rows, tokens], 64-bit.
            lengths: of each row's sequence with these ids, 64-bit.
        """
        rows, tokens = ids.shape
        binding = self._binding(low, low + rows)
        columns = np.arange(int(lengths.max()), dtype=np.int64)
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", (columns < lengths[:, None]).astype(np.int64))
        if self._graph.positions:
            firsts = lengths[:, None] - tokens
            binding.bind_cpu_input("position_ids", firsts + np.arange(tokens, dtype=np.int64))
        shape = (rows, 1 if self._graph.last_only else tokens, self._vocab)
        logits = self._logits[: rows * shape[1] * self._vocab].reshape(shape)
        binding.bind_output("logits", "cpu", 0, logits.dtype, shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        return logits[:, -1].astype(np.float32, copy=False)

    def _binding(self, low: int, high: int) -> Any:
        """The binding of some slots; the addresses of their caches never change."""
        found = self._bindings.get((low, high))
        if found is None:
            found = self._bindings[low, high] = self._session.io_binding()
            self._cache.bind(found, low, high)
        return found

    def prove(self) -> None:
        """Reads a few tokens at once and in two parts, and compares: a provider must keep the cache in place.

        Raises:
            LoadFailed: the graph does not run, or does not give the same logits.
        """
        ids = np.array([[token % self._vocab for token in _PROOF]], np.int64)
        try:
            whole = self._part(ids, len(_PROOF)).copy()
            self._part(ids[:, :2], 2)
            parts = self._part(ids[:, 2:], len(_PROOF))
        except Exception as error:
            raise LoadFailed(
                f"the graph does not run: {first_line(error)}",
                hint="make the form again: shardyard prepare SOURCE --form onnx",
            ) from error
        scale = float(np.abs(whole).max())
        if not np.allclose(whole, parts, rtol=0, atol=_TOLERANCE * scale):
            providers = ", ".join(self._session.get_providers())
            raise LoadFailed(
                f"this graph does not keep its KV cache in place on {providers}",
                hint="name another engine for these devices in the spec",
            )

    def _part(self, ids: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
        return self.run(0, np.ascontiguousarray(ids), np.array([length], np.int64))
