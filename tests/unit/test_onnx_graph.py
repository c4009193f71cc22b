"""What is refused before a native library sees a graph, and with which words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.tiny_onnx import DATA, FACTS, notes, place_outside, save, tiny_model, write_tiny_onnx

from actors.errors import LoadFailed
from actors.onnx.graph import DecoderGraph, read_graph


@pytest.fixture
def form(tmp_path: Path) -> Path:
    return write_tiny_onnx(tmp_path / "form")


def rewritten(form: Path, change: Callable[[onnx.ModelProto], Any]) -> Path:
    model = onnx.load(form / "model.onnx", load_external_data=False)
    change(model)
    (form / "model.onnx").write_bytes(model.SerializeToString())
    return form


def placed(location: str, offset: int = 0, length: int = 64) -> Callable[[onnx.ModelProto], None]:
    return lambda model: place_outside(model.graph.initializer[0], location, offset, length)


def refused(path: Path, words: str, custom_ops: str = "") -> str:
    with pytest.raises(LoadFailed, match=words) as failure:
        read_graph(path, custom_ops)
    assert failure.value.hint
    return failure.value.message


def test_a_decoder_tells_its_figures(form: Path) -> None:
    graph = read_graph(form)
    assert isinstance(graph, DecoderGraph)
    assert (len(graph.layers), graph.kv_heads, graph.head_dim) == (2, 2, 16)
    assert (graph.vocab, graph.window) == (FACTS.vocab, FACTS.window)
    assert (graph.dtype, graph.kv_dtype, graph.logits_dtype) == ("fp32", "fp32", "fp32")
    assert graph.last_only
    assert not graph.positions
    on_disk = sum((form / name).stat().st_size for name in ("model.onnx", DATA))
    assert graph.weights_bytes == on_disk
    assert read_graph(form / "model.onnx").data == graph.data


def test_a_folder_without_notes_is_fine(form: Path) -> None:
    (form / "genai_config.json").unlink()
    graph = read_graph(form)
    assert (graph.vocab, graph.window, graph.head_dim) == (FACTS.vocab, FACTS.window, 0)


def test_the_smaller_window_counts(form: Path) -> None:
    text = notes()
    text["model"]["context_length"] = 300
    (form / "genai_config.json").write_text(json.dumps(text))
    assert read_graph(form).window == 300


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    refused(tmp_path / "none", "does not exist")
    refused(tmp_path, r"one \*.onnx file; it has none")


@pytest.mark.parametrize("content", [b"", b"GGUF" + bytes(64), b"\x08\x0a" + b"\xff" * 90])
def test_a_file_that_is_no_graph(form: Path, content: bytes) -> None:
    (form / "model.onnx").write_bytes(content)
    refused(form, "no ONNX file|has no graph")


def test_a_torn_graph(form: Path) -> None:
    whole = (form / "model.onnx").read_bytes()
    (form / "model.onnx").write_bytes(whole[: len(whole) // 2])
    refused(form, "torn")


def test_a_graph_that_is_a_pipe_is_not_waited_for(form: Path) -> None:
    (form / "model.onnx").unlink()
    os.mkfifo(form / "model.onnx")
    refused(form, "no regular file")


def test_a_foreign_graph_is_described(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 224, 224])
    kernel = numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "kernel")
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "cnn", [image], [out], [kernel]))
    (tmp_path / "cnn.onnx").write_bytes(model.SerializeToString())
    message = refused(tmp_path, "is no decoder")
    assert "image [n, 3, 224, 224]" in message
    assert "1 Conv" in message


def test_another_attention_is_named(form: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "GroupQueryAttention":
                node.op_type = "MultiHeadAttention"

    refused(rewritten(form, change), "its attention is no GroupQueryAttention")


def test_inputs_of_another_kind_are_named(form: Path) -> None:
    extra = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 8, 8])
    refused(rewritten(form, lambda m: m.graph.input.append(extra)), "pixel_values")


def test_a_quantised_cache_is_refused(form: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for given in model.graph.input:
            if given.name.startswith("past"):
                given.type.tensor_type.elem_type = TensorProto.INT8

    refused(rewritten(form, change), "KV cache are of ONNX type 3")


def test_weights_of_few_bits_are_seen(form: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        node = model.graph.node.add(op_type="MatMulNBits", domain="com.microsoft")
        node.attribute.append(helper.make_attribute("bits", 4))

    assert read_graph(rewritten(form, change)).dtype == "int4"


# -- data files -----------------------------------------------------------------------------------------------------


def test_data_above_the_folder(form: Path) -> None:
    (form.parent / "secret").write_bytes(bytes(64))
    refused(rewritten(form, placed("../secret")), "outside the model's folder")


def test_data_at_an_absolute_path(form: Path) -> None:
    refused(rewritten(form, placed("/etc/hostname", 0, 1)), "outside the model's folder")


@pytest.mark.parametrize("location", ["", ".", "a\0b", "sub/../../form/x"])
def test_data_at_odd_places(form: Path, location: str) -> None:
    refused(rewritten(form, placed(location)), "outside|regular|No such file")


def test_data_over_a_symbolic_link(form: Path) -> None:
    (form.parent / "secret").write_bytes(bytes(64))
    (form / "linked").symlink_to("../secret")
    refused(rewritten(form, placed("linked")), "outside the model's folder")


def test_data_through_a_linked_folder(form: Path) -> None:
    (form.parent / "other").mkdir()
    (form.parent / "other" / "secret").write_bytes(bytes(64))
    (form / "sub").symlink_to("../other")
    refused(rewritten(form, placed("sub/secret")), "outside the model's folder")


def test_data_over_a_hard_link(form: Path) -> None:
    (form.parent / "secret").write_bytes(bytes(64))
    os.link(form.parent / "secret", form / "linked")
    refused(rewritten(form, placed("linked")), "2 hard links")


def test_the_weights_file_itself_over_a_hard_link(form: Path) -> None:
    os.link(form / DATA, form.parent / "also")
    refused(form, "2 hard links")


def test_data_that_is_missing(form: Path) -> None:
    (form / DATA).unlink()
    refused(form, "No such file")


def test_data_that_is_cut_short(form: Path) -> None:
    os.truncate(form / DATA, (form / DATA).stat().st_size - 1)
    refused(form, "cut short")


@pytest.mark.parametrize(
    ("offset", "length"), [(2**62, 4), (-1, 4), (0, 2**63), (0, -4), ("many", 4), (2**80, 0)]
)
def test_data_beyond_the_file(form: Path, offset: Any, length: int) -> None:
    refused(rewritten(form, placed(DATA, offset, length)), "cut short")


def _in_attribute(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node[0].attribute[0].t.CopyFrom(tensor)


def _in_subgraph(model: onnx.ModelProto, tensor: TensorProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [tensor])
    node = model.graph.node.add(op_type="If")
    node.attribute.append(helper.make_attribute("then_branch", branch))


def _in_function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    function = model.functions.add(name="f", domain="own")
    node = function.node.add(op_type="Constant")
    node.attribute.append(helper.make_attribute("value", tensor))


def _in_sparse(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


def _in_training(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(tensor)


@pytest.mark.parametrize(
    "hide", [_in_attribute, _in_subgraph, _in_function, _in_sparse, _in_training]
)
def test_data_outside_is_found_wherever_its_tensor_hides(
    form: Path, hide: Callable[[onnx.ModelProto, TensorProto], None]
) -> None:
    tensor = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1])
    place_outside(tensor, "../secret", 0, 4)
    assert "'hidden'" in refused(rewritten(form, lambda m: hide(m, tensor)), "outside")


# -- foreign code ---------------------------------------------------------------------------------------------------


def _foreign_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example.evil", 1))
    model.graph.node.add(op_type="Run", domain="com.example.evil")


def test_operators_that_need_a_library_are_refused(form: Path) -> None:
    message = refused(rewritten(form, _foreign_operator), "com.example.evil")
    assert "library" in message


def test_an_allowed_library_is_taken_for_them(form: Path, tmp_path: Path) -> None:
    library = tmp_path / "libops.so"
    library.write_bytes(b"")
    assert read_graph(rewritten(form, _foreign_operator), str(library)).libraries == (library,)


def test_no_library_is_loaded_for_a_graph_that_needs_none(form: Path, tmp_path: Path) -> None:
    library = tmp_path / "libops.so"
    library.write_bytes(b"")
    assert read_graph(form, str(library)).libraries == ()


@pytest.mark.parametrize("listed", ["libops.so", "/nowhere/libops.so"])
def test_the_list_has_absolute_paths_of_files(form: Path, listed: str) -> None:
    refused(form, "no absolute path of a file", listed)


def test_functions_of_the_graph_itself_are_no_foreign_code(form: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.functions.add(name="f", domain="own")
        model.graph.node.add(op_type="f", domain="own")

    assert read_graph(rewritten(form, change)).libraries == ()


def with_notes(form: Path, **decoder: Any) -> Path:
    text = notes()
    text["model"]["decoder"] |= decoder
    (form / "genai_config.json").write_text(json.dumps(text))
    return form


def test_notes_that_name_a_library(form: Path, tmp_path: Path) -> None:
    library = tmp_path / "libops.so"
    library.write_bytes(b"")
    named = with_notes(form, session_options={"custom_ops_library": str(library)})
    refused(named, "names the library")
    assert read_graph(named, str(library)).libraries == (library,)
    other = with_notes(form, session_options={"custom_ops_library": "../form/libops.so"})
    refused(other, "names the library", str(library))


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b.onnx", "..", 7])
def test_notes_that_name_odd_files(form: Path, name: Any) -> None:
    refused(with_notes(form, filename=name), "not in its folder")


def test_notes_that_name_odd_files_deep_inside(form: Path) -> None:
    refused(with_notes(form, pipeline=[{"a": {"filename": "../x.onnx"}}]), "not in its folder")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff"])
def test_torn_notes(form: Path, text: str) -> None:
    (form / "genai_config.json").write_bytes(text.encode("latin-1"))
    refused(form, "cannot be read")


def test_weights_inside_the_graph_are_fine(tmp_path: Path) -> None:
    save(tiny_model(), tmp_path, external=False)
    assert read_graph(tmp_path).dtype == "fp32"
