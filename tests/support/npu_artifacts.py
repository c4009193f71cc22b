"""Compiled models of the NPU vendors as files: bundles of Furiosa's, folders of Rebellions', and a model that has no weights."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

REVISION = "ae27d44cd8"
WORDS = ("<unk>", "<s>", "</s>", *(f"w{n}" for n in range(61)))


def manifest(*decode: tuple[int, int], tp: int = 8, pp: int = 1, **changes: Any) -> dict[str, Any]:
    """A bundle's manifest with decode kernels of (batch, length), as `fxb show` of 2026.4.0 reads it."""
    sizes = [(1, 1024, 0), *((batch, length, length - 1) for batch, length in decode)]
    kernels = [
        {
            "bucket": {"attention": {"batch_size": b, "attention_size": n, "kv_cache_size": c}},
            "file": "k.edf",
        }
        for b, n, c in sizes
    ]
    release = {"version": "2026.4.0", "revision": REVISION}
    return {
        "format_version": 2,
        "uuid": "00000000-0000-4000-8000-000000000001",
        "created_at": "2026-10-12T08:13:27Z",
        "model": {"architecture": "LlamaForCausalLM", "hidden_size": 64, "intermediate_size": 128,
                  "num_attention_heads": 4, "vocab_size": 64},
        "parallel_config": {"tensor_parallel_size": tp, "pipeline_parallel_size": pp},
        "kernels": {"attention": kernels},
        "versions": {"furiosa_compiler": release, "furiosa_llm": release},
        "extras": {},
    } | changes  # fmt: skip


def write_bundle(path: Path, contents: object) -> Path:
    """A bundle with that manifest and one kernel of a few bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(contents))
        archive.writestr("k.edf", b"kernel")
    return path


def write_model(folder: Path) -> Path:
    """A tiny Llama of 64 words in Hugging Face layout, with a tokenizer and no tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    special = [
        {"id": n, "content": word, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for n, word in enumerate(WORDS[:3])
    ]  # fmt: skip
    files: dict[str, Any] = {
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
            "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": {w: n for n, w in enumerate(WORDS)}, "unk_token": "<unk>"},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
            "chat_template": "{% for m in messages %}{{ m['content'] }} {% endfor %}",
        },
        "config.json": LLAMA,
        # What a request leaves open must not come from here.
        "generation_config.json": {"eos_token_id": 2, "temperature": 0.6, "top_k": 5, "repetition_penalty": 1.3},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return folder


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2, "vocab_size": 64, "head_dim": 16,
    "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def write_compiled(folder: Path, **changes: Any) -> Path:
    """A folder of optimum-rbln's with its graphs; `changes` are keys of `rbln_config.json`, None takes one away."""
    folder.mkdir(parents=True, exist_ok=True)
    graphs = [
        {"compiled_model_name": name, "input_info": [["input_ids", [1, 128], "int64"]],
         "npu": "RBLN-CA25", "num_devices": 2}
        for name in ("prefill", "decoder_batch_4", "decoder_batch_1")
    ]  # fmt: skip
    config = {
        "cls_name": "RBLNLlamaForCausalLMConfig", "optimum_rbln_version": "0.12.0", "_compile_cfgs": graphs,
        "batch_size": 4, "max_seq_len": 4096, "decoder_batch_sizes": [4, 1], "kvcache_num_blocks": 5,
    } | changes  # fmt: skip
    (folder / "rbln_config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None})
    )
    (folder / "config.json").write_text(json.dumps(LLAMA))
    for graph in graphs:
        (folder / f"{graph['compiled_model_name']}.rbln").write_bytes(b"graph")
    return folder
