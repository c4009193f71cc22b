"""Forms of a model: what is found of a source, what is refused, and that nothing half-done is ever found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.model_files import write_checkpoint, write_gguf

from actors.checkpoint import read_checkpoint
from actors.errors import ModelMissing
from actors.forms import store as forms
from actors.forms.safetensors import generation_config, older, tokenizer_config, tokenizer_json
from actors.sources import form_path, resolve
from actors.vocabulary import gguf_vocabulary, hf_vocabulary
from placement.inventory import ModelForm


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "forms"
    monkeypatch.setenv(forms.FORMS_ENV, str(folder))
    return folder


def made(source: Path, form: str, dtype: Any, **told: Any) -> Path:
    """A published form with one file."""
    belongs = forms.identity(source)
    place = forms.place_of(belongs, form, dtype)
    with forms.scratch(place) as scratch:
        folder = scratch / form
        folder.mkdir()
        (folder / ("model.gguf" if form == "gguf" else "weights")).write_bytes(b"12345")
        manifest = {"format": form, "dtype": dtype, "source": "x", "identity": belongs} | told
        forms.publish(folder, place, manifest)
    return place


def formats(source: Path) -> list[tuple[str, str | None]]:
    return [(form.format, form.dtype) for form in forms.forms_of(source)]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("config.json", "model.safetensors"), ("safetensors",)),
        (("genai_config.json", "model.onnx", "model.onnx.data"), ("onnx",)),
        (("openvino_model.xml", "openvino_model.bin"), ("openvino",)),
        (("rbln_config.json", "decoder.rbln"), ("rbln",)),
        (("model.safetensors", "m.fxb"), ("fxb", "safetensors")),
        (("pytorch_model.bin",), ("pickle",)),
        (("model.safetensors", "pytorch_model.bin"), ("safetensors",)),
        (("config.json",), ()),
    ],
)
def test_a_folder_tells_its_format(
    tmp_path: Path, names: tuple[str, ...], found: tuple[str, ...]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    assert forms.formats_in(folder) == found


def test_a_source_has_its_own_form_and_those_that_were_prepared(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    assert formats(source) == [("gguf", None)]
    made(source, "onnx", "int4")
    made(source, "safetensors", "fp32")
    assert formats(source) == [("gguf", None), ("onnx", "int4"), ("safetensors", "fp32")]
    told = resolve(f"file://{source}").forms
    assert told == (
        ModelForm(format="gguf"),
        ModelForm(format="onnx", dtype="int4"),
        ModelForm(format="safetensors"),
    )


def test_a_form_of_other_files_is_not_found(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    made(source, "onnx", "fp32")
    stat = source.stat()
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert formats(source) == [("gguf", None)]


@pytest.mark.parametrize(
    ("spoil", "flaw"),
    [
        (lambda place: (place / forms.MANIFEST).unlink(), "missing or cannot be read"),
        (lambda place: (place / forms.MANIFEST).write_text("[1"), "missing or cannot be read"),
        (lambda place: (place / "weights").write_bytes(b"123"), "weights is missing or of another"),
        (lambda place: (place / "weights").unlink(), "weights is missing or of another"),
        (lambda place: place.rename(place.with_name("onnx-int8")), "tells of onnx in int4"),
    ],
)
def test_a_broken_form_is_refused_and_listed_with_its_flaw(
    tmp_path: Path, spoil: Any, flaw: str
) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    spoil(made(source, "onnx", "int4"))
    assert formats(source) == [("gguf", None)]
    assert [flaw in listed.flaw for listed in forms.everything()] == [True]


@pytest.mark.parametrize(
    ("lie", "flaw"),
    [
        ({"files": {"/etc/passwd": 1}}, "names files elsewhere"),
        ({"files": {"../../weights": 5}}, "names files elsewhere"),
        ({"files": {"a\0b": 1}}, "names files elsewhere"),
        ({"files": {"\ud800": 1}}, "names files elsewhere"),
        ({"files": {"weights": "5"}}, "weights is missing or of another"),
        ({"files": {"weights": [5]}}, "weights is missing or of another"),
        ({"files": {"x" * 5000: 1}}, "is missing or of another"),
    ],
)
def test_a_manifest_that_lies_hides_no_other_form(
    tmp_path: Path, lie: dict[str, Any], flaw: str
) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    made(source, "safetensors", "fp32")
    manifest = made(source, "onnx", "int4") / forms.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | lie))
    assert formats(source) == [("gguf", None), ("safetensors", "fp32")]
    assert flaw in next(f.flaw for f in forms.everything() if f.form.format == "onnx")


def test_a_dtype_that_is_none_is_no_form_of_any(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    made(source, "onnx", "banana")
    other = made(source, "gguf", "int4")
    (other / "model.gguf").rename(other / "weights")
    manifest = other / forms.MANIFEST
    manifest.write_text(manifest.read_text().replace("model.gguf", "weights"))
    assert formats(source) == [("gguf", None)]


def test_a_form_that_was_copied_to_another_source_is_refused(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    made(source, "onnx", "int4", identity="0" * 16)
    assert formats(source) == [("gguf", None)]
    assert forms.everything()[0].flaw == "it was made of other files"


def test_an_interrupted_making_leaves_nothing_that_is_found(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    place = forms.place_of(forms.identity(source), "onnx", "fp32")
    with pytest.raises(KeyboardInterrupt), forms.scratch(place) as scratch:
        (scratch / "onnx").mkdir()
        raise KeyboardInterrupt
    assert list(place.parent.iterdir()) == []
    # A killed maker leaves its folder; nobody takes it for a form, and the next one clears it.
    left = place.parent / ".making-onnx-fp32"
    left.mkdir()
    (left / "half").touch()
    assert formats(source) == [("gguf", None)]
    with forms.scratch(place) as scratch:
        assert list(scratch.iterdir()) == []


def test_an_engine_gets_the_form_that_it_reads(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    source = f"file://{path}"
    half = made(path, "gguf", "fp16")
    onnx = made(path, "onnx", "int4")
    assert form_path(source, ("gguf",), "int4") == path
    assert form_path(source, ("gguf",), None) == path
    assert form_path(source, ("gguf",), "fp16") == half / "model.gguf"
    assert form_path(source, ("onnx",), "int4") == onnx
    assert form_path(source, ("onnx",), None) == onnx
    assert form_path(source, (), "fp32") == path


@pytest.mark.parametrize(
    ("wanted", "dtype", "hint"),
    [
        (("onnx",), "fp32", "shardyard prepare {} --form onnx --dtype fp32"),
        (("safetensors",), "bf16", "shardyard prepare {} --form safetensors"),
        (("fxb", "safetensors"), None, "shardyard prepare {} --form safetensors"),
        (("rbln",), None, "bring {} to this node as rbln"),
    ],
)
def test_a_form_that_is_not_there_comes_with_its_command(
    tmp_path: Path, wanted: tuple[str, ...], dtype: Any, hint: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    made(path, "onnx", "int4")
    source = f"file://{path}"
    with pytest.raises(ModelMissing, match="lies here as gguf, onnx in int4") as missing:
        form_path(source, wanted, dtype)
    assert missing.value.hint == hint.format(source)


def test_pickles_are_read_by_nobody_who_does_not_ask_for_them(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "hf")
    for weights in folder.glob("*.safetensors"):
        weights.rename(folder / "pytorch_model.bin")
    source = f"file://{folder}"
    with pytest.raises(ModelMissing, match="lies here as pickle"):
        form_path(source, ("safetensors",), None)
    assert form_path(source, ("safetensors", "pickle"), None) == folder


def test_an_onnx_folder_is_a_model_by_its_builders_notes(tmp_path: Path) -> None:
    decoder = {
        "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_size": 2,
    }  # fmt: skip
    notes = {
        "model": {"decoder": decoder, "vocab_size": 300, "context_length": 64, "type": "llama"}
    }
    (tmp_path / "genai_config.json").write_text(json.dumps(notes))
    (tmp_path / "model.onnx").write_bytes(b"12")
    (tmp_path / "model.onnx.data").write_bytes(b"345")
    presence = resolve(f"file://{tmp_path}")
    assert presence.forms == (ModelForm(format="onnx"),)
    facts = presence.facts
    assert facts is not None
    assert (facts.layers, facts.kv_heads, facts.window, facts.weights_bytes) == (2, 2, 64, 5)
    assert facts.parameters == 2 * 300 * 8 + 2 * (2 * 8 * 2 * 6 + 3 * 8 * 32)


def test_a_converted_folder_has_the_tokenizer_of_the_gguf_file(tmp_path: Path) -> None:
    vocabulary, facts = gguf_vocabulary(write_gguf(tmp_path / "m.gguf"))
    folder = write_checkpoint(tmp_path / "hf", vocab_size=facts.vocab)
    documents = {
        "tokenizer.json": tokenizer_json(vocabulary),
        "tokenizer_config.json": tokenizer_config(vocabulary, facts.window),
        "generation_config.json": generation_config(vocabulary),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    (folder / "chat_template.jinja").write_text(vocabulary.chat_template)
    read, _ = hf_vocabulary(folder)
    assert read.control == vocabulary.control
    assert read.pieces == vocabulary.pieces
    assert (read.eos_ids, read.bos_ids) == (vocabulary.eos_ids, vocabulary.bos_ids)
    assert read.chat_template == vocabulary.chat_template
    text = "hello <|im_end|> 12 h\u00e9"
    assert read.tokenizer.encode(text).ids == vocabulary.tokenizer.encode(text).ids


def test_a_configuration_is_understood_by_older_readers() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e5}
    found = older({"dtype": "float16", "rope_parameters": rope})
    assert (found["rope_theta"], found["torch_dtype"]) == (1e5, "float16")
    scaled = older({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e5, "factor": 2.0}})
    assert "rope_theta" not in scaled


def test_a_checkpoint_of_safetensors_is_sized_by_its_weights(tmp_path: Path) -> None:
    assert read_checkpoint(write_checkpoint(tmp_path / "hf")).parameters == 128
