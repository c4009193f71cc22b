"""How a planned shard and its sampling are said in llama.cpp's words (package xllamacpp), and how its server is started so
that nobody else reaches it.

Decides every setting that it would otherwise choose by itself. It must not know sequences or who steps.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

from placement.errors import ShardyardError

from .engine import EngineConfig, Sampling
from .errors import EngineError, LoadFailed
from .gguf import read_gguf
from .lost_ids import Pieces

MODULE = "xllamacpp"
BATCHED_TOKENS = 64
"""Prompt tokens that a processor reads at once, no slower than more of them; between two such reads a request can be aborted."""
WINDOW_STEP = 256
"""It rounds each sequence's window up to a multiple of this."""

_ALL_F32 = 0
"""`general.file_type` of a GGUF file whose weights are all fp32."""
_ON_CPU = ("", "cpu")
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""Its threads wait by sleeping: on cores that others use too, spinning makes it ten times slower."""


def completion(prompt_ids: tuple[int, ...], sampling: Sampling, max_tokens: int) -> dict[str, Any]:
    """A request in llama.cpp's words. What it would add of its own (top_k, min_p) is switched off."""
    body: dict[str, Any] = {
        "prompt": list(prompt_ids),
        "n_predict": max_tokens,
        "stream": True,
        "verbose": True,  # the only way in which this route tells ids
        "return_tokens": True,
        "return_progress": True,
        "ignore_eos": sampling.ignore_eos,
        "samplers": ["penalties", "temperature", "top_p"],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed % 0xFFFF_FFFF,  # the highest would mean one by chance
        "repeat_last_n": len(prompt_ids) + max_tokens,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
    }
    if sampling.json_schema:
        body["json_schema"] = _schema(sampling.json_schema)
    return body


def _schema(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise EngineError("the JSON schema is not JSON") from None


def refuse_what_it_cannot(config: EngineConfig) -> None:
    """Raises `LoadFailed` for a plan that it cannot serve."""
    path = Path(config.model_path)
    if not config.model_path or not path.exists():
        raise LoadFailed(
            f"{config.model_path or 'no model path'} does not exist",
            hint="check the model's source on this node",
        )
    if not path.is_file():
        raise LoadFailed(f"{path} is not a GGUF file", hint="llamacpp reads GGUF files alone")
    if config.tuning.lora or config.tuning.quantization:
        what = "adapters" if config.tuning.lora else "weights that are quantised while they load"
        raise LoadFailed(f"llamacpp serves no {what}", hint="take them out, or choose vllm")


def is_exact(config: EngineConfig) -> bool:
    """Whether a greedy text depends neither on its batch nor on where it is resumed: nothing is rounded further than to fp32.

    Seen so on processors; other devices add up in an order of their own.
    """
    plain = read_gguf(config.model_path).whole("general.file_type") == _ALL_F32
    return plain and config.arithmetic == "exact" and config.family in _ON_CPU


def pieces_of(path: str) -> Pieces:
    """The bytes of each token; also sees to it that the file is whole before anything native reads it."""
    from .vocabulary import gguf_vocabulary

    try:
        read_gguf(path)
    except ShardyardError as error:
        raise LoadFailed(error.message, hint=error.hint) from None
    try:
        return Pieces(gguf_vocabulary(Path(path))[0].pieces)
    except ShardyardError:  # a kind of tokenizer that is not ours: torn characters stay lost
        return Pieces(())


def started(config: EngineConfig) -> Any:
    """The server. It listens on a socket that is deleted before anybody could reach it, and has a key that nobody knows."""
    os.environ.update({name: value for name, value in _PASSIVE.items() if name not in os.environ})
    library = importlib.import_module(MODULE)
    folder = Path(tempfile.mkdtemp(prefix="llamacpp-"))
    try:
        parameters = _parameters(library, config)
        parameters.hostnames = [str(folder / "closed.sock")]
        server = library.Server(parameters)
        address = str(server.listening_address)
    except RuntimeError:
        raise LoadFailed(
            f"llama.cpp cannot load {config.model_path}",
            hint="see the lines that it printed; its kind of model may be unknown to it, or memory short",
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not address.startswith("unix:"):
        raise LoadFailed(
            f"llama.cpp listens at {address} instead of a private socket",
            hint=f"install another version of {MODULE}",
        )
    return server


def _parameters(library: Any, config: EngineConfig) -> Any:
    """Exactly the planned window for each sequence, and nothing held beyond the plan."""
    p, on_cpu = library.CommonParams(), config.family in _ON_CPU
    p.model.path = config.model_path
    p.n_parallel = config.max_sequences
    p.n_ctx = -(-config.window // WINDOW_STEP) * WINDOW_STEP * config.max_sequences
    p.kv_unified = p.fit_params = p.ctx_shift = False
    if on_cpu:
        p.n_batch = p.n_ubatch = BATCHED_TOKENS
    p.cache_ram_mib = p.n_ctx_checkpoints = 0
    p.cache_idle_slots = False
    p.n_gpu_layers = 0 if on_cpu else -1
    p.api_keys = [secrets.token_hex(32)]
    p.ui = p.endpoint_slots = p.endpoint_props = p.endpoint_metrics = False
    p.offline, p.n_threads_http, p.verbosity, p.warmup = True, 1, 1, False
    for cpu in (p.cpuparams, p.cpuparams_batch):
        cpu.poll = 0
        if config.threads:
            cpu.n_threads = config.threads
    _choose_types(library, config, p)
    return p


def _choose_types(library: Any, config: EngineConfig, p: Any) -> None:
    tuning = config.tuning
    kv = tuning.kv_dtype or ("f32" if config.arithmetic == "exact" else "")
    if kv:
        p.cache_type_k = p.cache_type_v = _named(library.ggml_type, "GGML_TYPE_", kv, "kv_dtype")
    if tuning.attention_backend:
        kinds, prefix = library.llama_flash_attn_type, "LLAMA_FLASH_ATTN_TYPE_"
        name = tuning.attention_backend
        p.flash_attn_type = _named(kinds, prefix, name, "attention_backend")


def _named(kinds: Any, prefix: str, name: str, key: str) -> Any:
    known = {kind.name.removeprefix(prefix).lower(): kind for kind in kinds}
    if name.lower() not in known:
        raise LoadFailed(
            f"{key} {name!r} is unknown to llama.cpp", hint=f"known: {', '.join(known)}"
        )
    return known[name.lower()]
