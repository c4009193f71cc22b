"""Reads an ONNX decoder and refuses what must not reach a native library, on the very bytes that are loaded afterwards.

Decides which graphs the `onnxruntime` engine can serve: token ids and a mask in, logits out, and a KV cache per layer that
`GroupQueryAttention` reads and writes in place. It must not know sessions, devices or requests.
"""

from __future__ import annotations

import stat
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import LoadFailed
from .files import check_externals, external_tensors
from .folder import FolderNotes, allowed_libraries, read_notes

ATTENTION = "GroupQueryAttention"
VENDOR_DOMAIN = "com.microsoft"
MAX_GRAPH_BYTES = (1 << 31) - 1
"""Of the graph file; more is not a protobuf. Weights lie in data files beside it."""

REBUILD = "make a decoder's onnx form: shardyard prepare SOURCE --form onnx --dtype fp32"

_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", VENDOR_DOMAIN))
_INT64 = 7
_FLOATS = {1: "fp32", 10: "fp16"}
_INPUTS = frozenset(("input_ids", "attention_mask", "position_ids"))
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "DynamicQuantizeMatMul")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Names of one layer's KV cache: inputs and outputs of the graph."""

    past: tuple[str, str]
    present: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderGraph:
    """A checked graph.

    Attributes:
        data: the graph file's bytes; `folder` has its data files.
        dtype: of the weights: `fp32`, `fp16`, `int8` or `int4`.
        kv_dtype, logits_dtype: `fp32` or `fp16`.
        head_dim, vocab, window: 0 = the graph does not say.
        last_only: logits come for the last position only.
        positions: it wants position ids.
        libraries: allowed custom-op libraries that it needs.
        weights_bytes: of the graph and its data files.
    """

    data: bytes
    folder: Path
    layers: tuple[Layer, ...]
    kv_heads: int
    head_dim: int
    vocab: int
    window: int
    dtype: str
    kv_dtype: str
    logits_dtype: str
    last_only: bool
    positions: bool
    libraries: tuple[Path, ...]
    weights_bytes: int


def read_graph(path: Path, custom_ops: str = "") -> DecoderGraph:
    """Reads the graph of a folder, or a graph file.

    Args:
        path: where the model is.
        custom_ops: absolute paths of libraries with custom operators that may be loaded, joined by the path separator.

    Raises:
        LoadFailed: it is missing, torn, not a decoder of ours, or reaches for what is not its own.
    """
    if not path.exists():
        raise LoadFailed(f"{path} does not exist", hint="check the model's source on this node")
    folder = (path if path.is_dir() else path.parent).resolve()
    notes = read_notes(folder)
    file = _graph_file(folder, notes) if path.is_dir() else folder / path.name
    data = _read(file)
    model = _parsed(file, data)
    files = check_externals(folder, external_tensors(model))
    allowed = allowed_libraries(custom_ops)
    named = notes.named_libraries(folder, allowed)
    libraries = _libraries(file, model, named, allowed)
    return _decoder(file, data, model, notes, libraries, len(data) + sum(files.values()))


def _graph_file(folder: Path, notes: FolderNotes) -> Path:
    if notes.graph:
        return folder / notes.graph
    graphs = sorted(folder.glob("*.onnx"))
    if len(graphs) != 1:
        names = ", ".join(g.name for g in graphs[:5]) or "none"
        raise LoadFailed(f"{folder} must have one *.onnx file; it has {names}", hint=REBUILD)
    return graphs[0]


def _read(file: Path) -> bytes:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise LoadFailed(f"{file} is no regular file", hint=REBUILD)
        if status.st_size > MAX_GRAPH_BYTES:
            raise LoadFailed(
                f"{file} has {status.st_size} bytes, more than a graph can have", hint=REBUILD
            )
        return file.read_bytes()
    except OSError as error:
        raise LoadFailed(f"{file} cannot be read: {error.strerror}", hint=REBUILD) from None


def _parsed(file: Path, data: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RecursionError) as error:
        raise LoadFailed(f"{file} is no ONNX file, or a torn one ({error})", hint=REBUILD) from None
    if not model.graph.node:
        raise LoadFailed(f"{file} has no graph: it is no ONNX file, or a torn one", hint=REBUILD)
    return model


def _nodes(model: Any) -> list[Any]:
    """All nodes, also those in subgraphs and functions."""
    found: list[Any] = []
    waiting = [*model.graph.node, *chain.from_iterable(f.node for f in model.functions)]
    while waiting:
        node = waiting.pop()
        found.append(node)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)
    return found


def _libraries(
    file: Path, model: Any, named: tuple[Path, ...], allowed: tuple[Path, ...]
) -> tuple[Path, ...]:
    """Custom-op libraries to load: none unless the graph has operators that only they can know."""
    own = {function.domain for function in model.functions}
    unknown = sorted({node.domain for node in _nodes(model)} - _DOMAINS - own)
    if unknown and not allowed:
        raise LoadFailed(
            f"{file} has operators of {', '.join(unknown)}, which need a library of their own",
            hint="if you trust one, set SHARDYARD_ORT_CUSTOM_OPS to its absolute path on this node",
        )
    return allowed if unknown else named


def _decoder(
    file: Path,
    data: bytes,
    model: Any,
    notes: FolderNotes,
    libraries: tuple[Path, ...],
    weights_bytes: int,
) -> DecoderGraph:
    graph = model.graph
    inputs = {v.name: v.type.tensor_type for v in graph.input}
    outputs = {v.name: v.type.tensor_type for v in graph.output}
    attention = [n for n in graph.node if (n.domain, n.op_type) == (VENDOR_DOMAIN, ATTENTION)]
    layers = tuple(
        Layer(past=(n.input[3], n.input[4]), present=(n.output[1], n.output[2]))
        for n in attention
        if len(n.input) > 4 and len(n.output) > 2
    )
    _check_names(file, graph, inputs, outputs, layers)
    cache, logits = inputs[layers[0].past[0]], outputs["logits"]
    dims = [d.dim_value for d in cache.shape.dim]
    shape = [d.dim_value for d in logits.shape.dim]
    if len(dims) != 4 or dims[1] < 1 or len(shape) != 3:
        raise LoadFailed(
            f"{file}: the shapes of its KV cache or logits are not usable", hint=REBUILD
        )
    return DecoderGraph(
        data=data,
        folder=file.parent,
        layers=layers,
        kv_heads=dims[1],
        head_dim=dims[3] or notes.head_dim,
        vocab=shape[2] or notes.vocab,
        window=_window(graph, attention, notes),
        dtype=_weights_dtype(file, model),
        kv_dtype=_float(file, "KV cache", cache.elem_type),
        logits_dtype=_float(file, "logits", logits.elem_type),
        last_only=shape[1] == 1,
        positions="position_ids" in inputs,
        libraries=libraries,
        weights_bytes=weights_bytes,
    )


def _check_names(
    file: Path,
    graph: Any,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    layers: tuple[Layer, ...],
) -> None:
    """That the graph takes ids and a mask and keeps its whole state in KV caches of our kind."""
    past = {name for layer in layers for name in layer.past}
    present = {name for layer in layers for name in layer.present}
    if not {"input_ids", "attention_mask"} <= set(inputs) or "logits" not in outputs:
        raise LoadFailed(f"{file} is no decoder: {_described(graph, inputs)}", hint=REBUILD)
    if not layers:
        why = f"its attention is no {ATTENTION}" if _has_past(inputs) else "it has no KV cache"
        raise LoadFailed(f"{file} cannot be batched: {why}", hint=REBUILD)
    if strange := sorted(set(inputs) - _INPUTS - past - {i.name for i in graph.initializer}):
        raise LoadFailed(
            f"{file} wants inputs of another kind: {', '.join(strange[:5])}", hint=REBUILD
        )
    if not past <= set(inputs) or not present <= set(outputs):
        raise LoadFailed(f"{file}: its KV cache is neither input nor output", hint=REBUILD)
    if any(inputs[name].elem_type != _INT64 for name in _INPUTS & set(inputs)):
        raise LoadFailed(f"{file}: its ids or mask are not 64-bit integers", hint=REBUILD)


def _has_past(inputs: dict[str, Any]) -> bool:
    return any("past" in name for name in inputs)


def _described(graph: Any, inputs: dict[str, Any]) -> str:
    """What a foreign graph is, so that its owner recognises it."""
    shapes = []
    for name, given in list(inputs.items())[:4]:
        dims = (str(d.dim_value or d.dim_param or "?") for d in given.shape.dim)
        shapes.append(f"{name} [{', '.join(dims)}]")
    operators = Counter(node.op_type for node in graph.node).most_common(3)
    most = ", ".join(f"{count} {operator}" for operator, count in operators)
    return f"it takes {'; '.join(shapes) or 'nothing'} and has {most}"


def _window(graph: Any, attention: list[Any], notes: FolderNotes) -> int:
    """Rows of the table of rotary angles, or what the folder says, whichever ends first."""
    tables = {node.input[7] for node in attention if len(node.input) > 7 and node.input[7]}
    rows = [i.dims[0] for i in graph.initializer if i.name in tables and i.dims]
    return min((n for n in (*rows, notes.window) if n > 0), default=0)


def _weights_dtype(file: Path, model: Any) -> str:
    nodes = _nodes(model)
    bits = {
        a.i for n in nodes if n.op_type == "MatMulNBits" for a in n.attribute if a.name == "bits"
    }
    if bits:
        return f"int{min(bits)}"
    if any(node.op_type in _QUANTISED for node in nodes):
        return "int8"
    sizes: Counter[int] = Counter()
    for tensor in model.graph.initializer:
        count = 1
        for dim in tensor.dims:
            count *= dim
        sizes[tensor.data_type] += count
    kinds = [kind for kind, _ in sizes.most_common() if kind != _INT64]
    return _float(file, "weights", kinds[0] if kinds else 1)


def _float(file: Path, what: str, kind: int) -> str:
    if kind not in _FLOATS:
        raise LoadFailed(
            f"{file}: its {what} are of ONNX type {kind}, not fp32 or fp16", hint=REBUILD
        )
    return _FLOATS[kind]
