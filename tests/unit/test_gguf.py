"""The GGUF reader: right about good files, and one clear sentence about every other one."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from support.model_files import facts_keys, gguf_bytes, text_keys, vocabulary, write_gguf

from actors.errors import ModelError
from actors.gguf import read_gguf


def test_reads_what_sizes_a_model(tmp_path: Path) -> None:
    facts = read_gguf(write_gguf(tmp_path / "m.gguf")).facts
    assert facts.parameters == 8 * 16 + 8
    assert (facts.layers, facts.hidden, facts.heads, facts.kv_heads) == (2, 8, 4, 2)
    assert (facts.head_dim, facts.ffn, facts.window) == (2, 16, 512)
    assert facts.vocab == len(vocabulary())
    assert facts.architecture == "llama"
    assert facts.weights_bytes == 8 * 16 * 4 + 32


def test_reads_every_type_of_value(tmp_path: Path) -> None:
    typed = {
        "a": struct.pack("<Ib", 1, -3),
        "b": struct.pack("<Iq", 11, -(2**40)),
        "c": struct.pack("<Id", 12, 0.5),
        "d": struct.pack("<IIQ", 9, 9, 2)
        + struct.pack("<IQ2B", 0, 2, 1, 2)
        + struct.pack("<IQ", 0, 0),
        "e": True,
        "f": ["ä", ""],
    }
    header = read_gguf(write_gguf(tmp_path / "m.gguf", values=facts_keys() | text_keys() | typed))
    assert [header.values[k] for k in "abcdef"] == [
        -3, -(2**40), 0.5, ((1, 2), ()), True, ("ä", ""),
    ]  # fmt: skip


def test_a_figure_per_layer_counts_as_its_largest(tmp_path: Path) -> None:
    values = facts_keys() | {"llama.attention.head_count_kv": [1, 4], "llama.vocab_size": 16}
    assert read_gguf(write_gguf(tmp_path / "m.gguf", values=values)).facts.kv_heads == 4


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    assert read_gguf(path) is read_gguf(path)
    write_gguf(path, values=facts_keys() | text_keys() | {"llama.block_count": 3, "x": 1})
    assert read_gguf(path).facts.layers == 3


def test_every_truncation_is_an_error_with_the_file_named(tmp_path: Path) -> None:
    values = facts_keys() | {"llama.vocab_size": 16}
    whole = gguf_bytes(values)
    path = tmp_path / "short.gguf"
    for length in range(len(whole) - 544):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"short\.gguf is not a usable GGUF file"):
            read_gguf(path)


def _huge(count: int, kind: int = 8) -> bytes:
    return struct.pack("<IIQ", 9, kind, count)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "cut short"),
        (b"PK\x03\x04" + bytes(100), "does not start with GGUF"),
        (gguf_bytes(version=1), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "tensors"),
        (gguf_bytes(facts_keys() | {"x": _huge(2**62)}), "array elements"),
        (gguf_bytes(facts_keys() | {"x": _huge(2**21, kind=10)}), "cut short"),
        (gguf_bytes(facts_keys() | {"x": struct.pack("<IQ", 8, 2**62)}), "cut short"),
        (gguf_bytes(facts_keys() | {"x": struct.pack("<I", 99)}), "value type 99"),
        (gguf_bytes(facts_keys() | {"x": struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9}), "nested"),
        (gguf_bytes(tensors={"t": tuple([1] * 9)}), "9 dimensions"),
        (gguf_bytes(tensor_count=3), "cut short|dimensions|tensor"),
        (gguf_bytes(facts_keys() | {"split.count": 3}), "one of 3 parts"),
        (gguf_bytes({"a": 1}), "names no architecture"),
        (gguf_bytes(facts_keys() | {"llama.block_count": 0}), "block_count is 0"),
        (gguf_bytes(facts_keys() | {"llama.block_count": "x"}), "block_count is 'x'"),
        (gguf_bytes(facts_keys() | {"llama.attention.head_count": True}), "head_count is True"),
        (gguf_bytes(facts_keys() | {"general.alignment": 0}), "alignment"),
        (gguf_bytes({"general.architecture": "llama"}), "is missing"),
    ],
)  # fmt: skip
def test_malicious_and_broken_files(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=sentence) as raised:
        read_gguf(path)
    assert raised.value.hint


def test_claimed_weights_must_fit_the_file(tmp_path: Path) -> None:
    data = gguf_bytes(facts_keys() | {"llama.vocab_size": 16}, tensors={"w": (4, 4)})
    absurd = data.replace(struct.pack("<I2Q", 2, 4, 4), struct.pack("<I2Q", 2, 2**62, 2**62))
    path = tmp_path / "bad.gguf"
    path.write_bytes(absurd)
    with pytest.raises(ModelError, match="weights in"):
        read_gguf(path)


def test_a_folder_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path, tmp_path / "pipe.gguf"):
        with pytest.raises(ModelError, match="is not a file"):
            read_gguf(path)


def test_more_layers_than_any_model_has_are_none(tmp_path: Path) -> None:
    values = facts_keys() | {"llama.block_count": 2**31}
    with pytest.raises(ModelError, match=r"block_count is 2147483648"):
        read_gguf(write_gguf(tmp_path / "m.gguf", values=values))
