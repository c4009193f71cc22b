"""Tiny model files, written by the tests themselves: a GGUF file, and a Hugging Face directory."""

from __future__ import annotations

import itertools
import json
import string
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
START, END = 1, 2


def byte_alphabet() -> list[str]:
    """The 256 characters of a byte-level vocabulary, by byte."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = itertools.count(256)
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


SPACE = byte_alphabet()[ord(" ")]


def vocabulary() -> list[str]:
    """Control tokens, single bytes, `he` and `hel`, one user-defined token, 1352 words after a space."""
    pairs = ["".join(p) for p in itertools.product(string.ascii_lowercase, repeat=2)]
    words = [SPACE + pair + end for end in ("", "x") for pair in pairs]
    return [*CONTROL, *byte_alphabet(), "he", "hel", "<think>", *words]


def kinds() -> list[int]:
    """The GGUF type of each token of `vocabulary`."""
    return [3 if t in CONTROL else 4 if t == "<think>" else 1 for t in vocabulary()]


def facts_keys() -> dict[str, Any]:
    """The figures of a very small decoder."""
    return {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 512,
        "llama.embedding_length": 8,
        "llama.feed_forward_length": 16,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
    }


def text_keys() -> dict[str, Any]:
    """A byte-level tokenizer with a chat template."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": vocabulary(),
        "tokenizer.ggml.token_type": kinds(),
        "tokenizer.ggml.merges": ["h e", "he l"],
        "tokenizer.ggml.bos_token_id": START,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.chat_template": CHATML,
    }


def gguf_bytes(
    values: Mapping[str, Any] | None = None,
    *,
    tensors: Mapping[str, tuple[int, ...]] | None = None,
    tensor_count: int | None = None,
    version: int = 3,
) -> bytes:
    """A GGUF file with float32 tensors of these shapes, all zero."""
    values = facts_keys() | text_keys() if values is None else values
    tensors = (
        {"token_embd.weight": (8, 16), "output_norm.weight": (8,)} if tensors is None else tensors
    )
    count = len(tensors) if tensor_count is None else tensor_count
    head = b"GGUF" + struct.pack("<IQQ", version, count, len(values))
    head += b"".join(_text(key) + _typed(value) for key, value in values.items())
    offset = 0
    for name, shape in tensors.items():
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        size = 4
        for dimension in shape:
            size *= dimension
        offset += -(-size // 32) * 32
    return head + bytes(-len(head) % 32) + bytes(offset)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> bytes:
    if isinstance(value, bytes):  # an encoded value, for the malicious ones
        return value
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)


def write_gguf(path: Path, **options: Any) -> Path:
    """Writes `gguf_bytes` and returns the path."""
    path.write_bytes(gguf_bytes(**options))
    return path


def write_checkpoint(folder: Path, **config: Any) -> Path:
    """A Hugging Face directory with the vocabulary of `vocabulary`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    added = [
        {"id": n, "content": t, "special": t in CONTROL, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for n, t in enumerate(tokens) if t in CONTROL or t == "<think>"
    ]  # fmt: skip
    pre = [{"type": "Digits", "individual_digits": True},
           {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]  # fmt: skip
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "unk_token": "<|endoftext|>", "fuse_unk": False, "byte_fallback": False,
                  "vocab": {t: n for n, t in enumerate(tokens)}, "merges": [["h", "e"], ["he", "l"]]},
    }  # fmt: skip
    described = {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": len(tokens),
        "max_position_embeddings": 512, "eos_token_id": END,
    }  # fmt: skip
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [8, 16], "data_offsets": [0, 512]}}
    ).encode()
    files = {
        "config.json": described | config,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {"chat_template": CHATML, "eos_token": "<|im_end|>"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    safetensors = struct.pack("<Q", len(header)) + header + bytes(512)
    (folder / "model.safetensors").write_bytes(safetensors)
    return folder
