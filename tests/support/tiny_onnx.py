"""A tiny random decoder as an ONNX form: the graph that onnxruntime-genai's builder writes, with 2 layers and no torch.

Its texts are senseless but vary with every id, and most end by themselves within some hundred: the end's column of the head
is longer than the others. (ONNX Runtime wants heads of a multiple of 16 values.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from placement.modelspec import ModelFacts

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, WINDOW = 2, 64, 4, 2, 16, 96, 4000, 1024
EOS = 2
DATA = "model.onnx.data"
FACTS = ModelFacts(
    parameters=4.0e5, layers=LAYERS, hidden=HIDDEN, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM,
    ffn=FFN, vocab=VOCAB, window=WINDOW, architecture="llama",
)  # fmt: skip
_END_LENGTH = 3.0


def write_tiny_onnx(folder: Path, *, last_only: bool = True, external: bool = True) -> Path:
    """Writes the form to a folder, which may exist; returns it.

    Args:
        last_only: logits of the last position only, as with `prune_lm_head`.
        external: weights lie in a data file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save(tiny_model(last_only=last_only), folder, external=external)
    (folder / "genai_config.json").write_text(json.dumps(notes()), encoding="utf-8")
    return folder


def notes() -> dict[str, Any]:
    """What the builder notes beside the graph."""
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": HEAD_DIM,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
    }
    model = {"context_length": WINDOW, "decoder": decoder, "type": "llama", "vocab_size": VOCAB}
    return {"model": model | {"eos_token_id": EOS}, "search": {"past_present_share_buffer": True}}


def save(model: onnx.ModelProto, folder: Path, *, external: bool = True) -> Path:
    """Writes a graph, its initialisers to the data file beside it; returns the graph's path."""
    if external:
        with (folder / DATA).open("wb") as data:
            for tensor in model.graph.initializer:
                place_outside(tensor, DATA, data.tell(), len(tensor.raw_data))
                data.write(tensor.raw_data)
                tensor.ClearField("raw_data")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def place_outside(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Makes a tensor's data external."""
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def tiny_model(*, last_only: bool = True) -> onnx.ModelProto:
    """The graph with its weights inside."""
    graph = _Graph()
    graph.mask()
    hidden = graph.embedding()
    for layer in range(LAYERS):
        hidden = graph.layer(layer, hidden)
    graph.head(hidden, last_only=last_only)
    return graph.model(last_only=last_only)


class _Graph:
    def __init__(self) -> None:
        self._random = np.random.default_rng(7)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []

    def weight(self, name: str, values: np.ndarray[Any, Any]) -> str:
        self._weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def random(self, name: str, rows: int, columns: int, scale: float = 1.0) -> str:
        values = self._random.standard_normal((rows, columns)) * scale / np.sqrt(rows)
        return self.weight(name, values)

    def node(
        self, operator: str, inputs: Iterable[str], outputs: Iterable[str] | str, **more: Any
    ) -> str:
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self._nodes.append(helper.make_node(operator, list(inputs), names, name=names[0], **more))
        return names[0]

    def constant(self, name: str, value: list[int] | int) -> str:
        tensor = numpy_helper.from_array(np.array(value, np.int64))
        return self.node("Constant", [], name, value=tensor)

    def mask(self) -> None:
        """Lengths of the rows and the width of the mask."""
        one, dim = self.constant("one", [1]), self.constant("dim", 1)
        sums = self.node("ReduceSum", ["attention_mask", one], "sums", keepdims=0)
        self.node(
            "Cast", [self.node("Sub", [sums, one], "last")], "seqlens_k", to=TensorProto.INT32
        )
        width = self.node(
            "Gather", [self.node("Shape", ["attention_mask"], "shape"), dim], "width", axis=0
        )
        self.node("Cast", [width], "total_seq_len", to=TensorProto.INT32)
        angles = np.outer(np.arange(WINDOW), 10000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM))
        self.weight("cos_cache", np.cos(angles))
        self.weight("sin_cache", np.sin(angles))

    def embedding(self) -> str:
        head = self._random.standard_normal((HIDDEN, VOCAB))
        head /= np.linalg.norm(head, axis=0)
        head[:, EOS] *= _END_LENGTH
        self.weight("lm_head.MatMul.weight", head)
        table = self.node("Transpose", ["lm_head.MatMul.weight"], "table", perm=[1, 0])
        return self.node("Gather", [table, "input_ids"], "embedded")

    def layer(self, n: int, hidden: str) -> str:
        at = f"layers.{n}."
        normed = self.norm(f"{at}input_norm", hidden)
        sizes = HIDDEN + 2 * KV_HEADS * HEAD_DIM
        qkv = self.node(
            "MatMul", [normed, self.random(f"{at}qkv.weight", HIDDEN, sizes, 2.0)], f"{at}qkv"
        )
        past = [f"past_key_values.{n}.key", f"past_key_values.{n}.value"]
        inputs = [qkv, "", "", *past, "seqlens_k", "total_seq_len", "cos_cache", "sin_cache"]
        outputs = [f"{at}attention", f"present.{n}.key", f"present.{n}.value"]
        self.node(
            "GroupQueryAttention", inputs, outputs, domain="com.microsoft", num_heads=HEADS,
            kv_num_heads=KV_HEADS, do_rotary=1, scale=HEAD_DIM**-0.5,
        )  # fmt: skip
        mixed = self.node(
            "MatMul", [outputs[0], self.random(f"{at}o.weight", HIDDEN, HIDDEN, 2.0)], f"{at}o"
        )
        hidden = self.node("Add", [hidden, mixed], f"{at}mixed")
        normed = self.norm(f"{at}post_norm", hidden)
        up = self.node(
            "MatMul", [normed, self.random(f"{at}up.weight", HIDDEN, FFN, 2.0)], f"{at}up"
        )
        gate = self.node("Sigmoid", [up], f"{at}gate")
        down = self.node("Mul", [up, gate], f"{at}act")
        down = self.node(
            "MatMul", [down, self.random(f"{at}down.weight", FFN, HIDDEN, 2.0)], f"{at}down"
        )
        return self.node("Add", [hidden, down], f"{at}out")

    def norm(self, name: str, hidden: str) -> str:
        weight = self.weight(f"{name}.weight", np.ones(HIDDEN))
        return self.node(
            "SimplifiedLayerNormalization", [hidden, weight], name, axis=-1, epsilon=1e-5
        )

    def head(self, hidden: str, *, last_only: bool) -> None:
        hidden = self.norm("final_norm", hidden)
        if last_only:
            last = self.node(
                "Gather", [hidden, self.constant("minus_one", -1)], "last_hidden", axis=1
            )
            hidden = self.node("Unsqueeze", [last, "one"], "last_position")
        self.node("MatMul", [hidden, "lm_head.MatMul.weight"], "logits")

    def model(self, *, last_only: bool) -> onnx.ModelProto:
        tokens = 1 if last_only else "sequence_length"
        ids = (("input_ids", "sequence_length"), ("attention_mask", "total_sequence_length"))
        inputs = [_value(name, TensorProto.INT64, ["batch_size", width]) for name, width in ids]
        outputs = [_value("logits", TensorProto.FLOAT, ["batch_size", tokens, VOCAB])]
        for n in range(LAYERS):
            for kind in ("key", "value"):
                past = ["batch_size", KV_HEADS, "past_sequence_length", "kv_cache_dim"]
                inputs.append(_value(f"past_key_values.{n}.{kind}", TensorProto.FLOAT, past))
                present = ["batch_size", KV_HEADS, "total_sequence_length", "kv_cache_dim"]
                outputs.append(_value(f"present.{n}.{kind}", TensorProto.FLOAT, present))
        graph = helper.make_graph(self._nodes, "tiny", inputs, outputs, self._weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _value(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
