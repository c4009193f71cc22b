"""vLLM's own OpenAI server: NVIDIA and AMD GPUs, and processors through the build of its community.

Decides which of vLLM's options a planned shard becomes, and what its processes on other nodes are started with. It must
not know the carrier that starts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from placement.devices import Dtype

from ..engine import Capabilities, EngineConfig
from ..errors import LoadFailed
from ..hf_folder import checked_weights, lora_rank, quantised
from ..openai.dialect import Dialect
from ..server.node_group import Peer, group_nodes, layer_counts, peer
from ..server.spec import Ending, When
from ..vllm_endings import ENDINGS

ADAPTERS = 16
"""Most adapters beside one model; each has a placeholder of its own."""
CPU_BLOCK = 32
"""Tokens in a block of the KV cache on processors, where vLLM's own 128 let no short prompt be found again."""
GPU_BLOCK = 16

_DTYPES: dict[Dtype, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_QUANTISED: tuple[Dtype, ...] = ("fp8", "int8", "int4")
_ON_CPU = ("", "cpu")
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM takes no others."""

OPTIONS: tuple[str | When, ...] = (
    When("window", "--max-model-len", "{window}"), When("sequences", "--max-num-seqs", "{sequences}"),
    "--dtype", "{dtype}", "--load-format", "{load_format}",
    # Neither temperature nor penalties come out of the model's folder; its end-of-text ids still do.
    "--generation-config", "vllm",
    "{prefix_caching}",
    When("kv_bytes", "--kv-cache-memory-bytes", "{kv_bytes}"),
    # The KV cache has its own size, so this is only the share of a GPU that must be free at the start.
    When("least_free", "--gpu-memory-utilization", "{least_free}"),
    When("block", "--block-size", "{block}"),
    When("eager", "--enforce-eager"),
    When("attention_backend", "--attention-backend", "{attention_backend}"),
    When("quantization", "--quantization", "{quantization}"),
    When("kv_dtype", "--kv-cache-dtype", "{kv_dtype}"),
    When("workers", "--distributed-executor-backend", "mp", "--tensor-parallel-size", "{tp}"),
    When("pp", "--pipeline-parallel-size", "{pp}"),
    When(
        "nodes", "--nnodes", "{nodes}", "--node-rank", "{rank}",
        "--master-addr", "{master}", "--master-port", "{master_port}",
    ),
    When("adapters", "--enable-lora", "--max-loras", "{adapters}", "--max-lora-rank", "{adapter_rank}"),
    When("adapters", "--lora-modules"),
    *(When(f"adapter_{n}", f"{{adapter_{n}}}") for n in range(ADAPTERS)),
)  # fmt: skip
"""What every process of an engine is told alike, whichever node it is on."""


class VllmServer:
    """See `Server`."""

    name: ClassVar[str] = "vllm"
    environment: ClassVar[str] = "vllm"
    # `-P`: a folder called vllm in the working directory does not stand in for the package. The module and not the
    # command `vllm`, which the build for processors cannot start.
    argv: ClassVar[tuple[str | When, ...]] = (
        "{python}", "-P", "-m", "vllm.entrypoints.openai.api_server",
        "--model", "{model}", "--served-model-name", "{served}", "--uds", "{socket}",
        "--disable-uvicorn-access-log", "--disable-fastapi-docs",
        *OPTIONS,
    )  # fmt: skip
    variables: ClassVar[Mapping[str, str]] = {
        "VLLM_HOST_IP": "{address}",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "{interface}",
        "NCCL_SOCKET_IFNAME": "{interface}",
        "VLLM_PP_LAYER_PARTITION": "{layers}",
        "VLLM_CPU_OMP_THREADS_BIND": "{bind}",
        "OMP_NUM_THREADS": "{threads}",
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "VLLM_BATCH_INVARIANT": "{invariant}",
        # These would win over what is planned.
        "VLLM_CPU_KVCACHE_SPACE": "",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "0",
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",
        "VLLM_LOG_STATS_INTERVAL": "300",
    }
    dialect: ClassVar[Dialect] = Dialect(
        ids_switch={"return_token_ids": True},
        ignore_eos=True,
        json_schema={"structured_outputs": {"json": "{schema}"}},
        stop_ids=True,
        dead="EngineDeadError|EngineCore encountered an issue",
    )
    endings: ClassVar[tuple[Ending, ...]] = ENDINGS
    metrics: ClassVar[Mapping[str, str]] = {
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "kv_used_ratio": "vllm:kv_cache_usage_perc",
    }

    def values(self, config: EngineConfig) -> Mapping[str, str]:
        """See `Server`."""
        if not config.model_path:
            raise LoadFailed("no model path", hint="shardyard prepare SOURCE --form safetensors")
        folder = Path(config.model_path)
        weights = checked_weights(folder, allow_pickle=config.tuning.allow_pickle)
        tuning = config.tuning
        return {
            "dtype": _dtype(config),
            "load_format": "safetensors" if weights == "safetensors" else "auto",
            "prefix_caching": f"--{'' if tuning.prefix_cache else 'no-'}enable-prefix-caching",
            "attention_backend": tuning.attention_backend,
            "quantization": _quantization(config, folder),
            "kv_dtype": tuning.kv_dtype,
            "invariant": "1" if _wants_exact(config) and not _on_cpu(config) else "",
            **_memory(config),
            **_threads(config),
            **_adapters(config),
            **_ranks(config, 0),
        }

    def peers(self, config: EngineConfig) -> tuple[Peer, ...]:
        """What must run on the other nodes of a pipeline, in order of their ranks; empty when there are none.

        They are started together with the server, which waits for them. Their meeting port is open on all addresses
        of the first node, as torch binds it nowhere else.
        """
        values = {
            **self.values(config),
            "window": str(config.window),
            "sequences": str(config.max_sequences),
            "tp": str(config.tp),
        }
        command = ("{bin}/vllm", "serve", "{model}", "--headless", *OPTIONS)
        nodes = group_nodes(config.stages, config.tp) if config.stages else ()
        return tuple(
            peer(node, command, self.variables, {**values, **_ranks(config, rank)})
            for rank, node in enumerate(nodes)
            if rank > 0
        )

    def capabilities(self, config: EngineConfig) -> Capabilities:
        """See `Server`. Log probabilities are not claimed, as chunks cannot carry them."""
        exact = _is_exact(config)
        return Capabilities(
            window=config.window,
            sequences=config.max_sequences,
            seed=True,
            penalties=True,
            json_schema=True,
            lora=tuple(name for name, _ in config.tuning.lora),
            prefix_cache=config.tuning.prefix_cache,
            exact=exact,
            numerics="fp32" if exact else "",
            continuation="exact" if exact else "coherent",
        )


def _on_cpu(config: EngineConfig) -> bool:
    return config.family in _ON_CPU


def _wants_exact(config: EngineConfig) -> bool:
    return config.arithmetic == "exact"


def _is_exact(config: EngineConfig) -> bool:
    """Seen on processors only, in fp32, in one process: GPUs are asked for it (VLLM_BATCH_INVARIANT) but not believed.

    With adapters it was seen broken: the model's own text changed when an adapter's ran in the same batch.
    """
    tuning = config.tuning
    alone = config.tp == 1 and not config.stages and not tuning.lora
    plain = not tuning.quantization and tuning.kv_dtype in ("", "auto", "float32")
    wanted = _wants_exact(config) and _on_cpu(config) and alone and plain
    return wanted and not quantised(Path(config.model_path))


def _dtype(config: EngineConfig) -> str:
    if _wants_exact(config):
        return "float32"
    return "auto" if config.dtype is None else _DTYPES.get(config.dtype, "auto")


def _quantization(config: EngineConfig, folder: Path) -> str:
    """The scheme to name; a checkpoint that says its own needs none, and fp8 can be made while loading."""
    asked = config.tuning.quantization
    if asked or config.dtype not in _QUANTISED or quantised(folder):
        return asked
    if config.dtype == "fp8":
        return "fp8"
    raise LoadFailed(
        f"the plan wants {config.dtype} weights and {folder} holds plain ones",
        hint="point the source at a checkpoint quantised so (AWQ, GPTQ, compressed-tensors), or name a quantization"
        " that is made while loading in the model's tuning",
    )


def _memory(config: EngineConfig) -> Mapping[str, str]:
    on_cpu = _on_cpu(config)
    workers = config.tp * max(1, len(config.stages))
    share = config.kv_bytes // workers
    return {
        "kv_bytes": str(max(share, _least_kv(config) // workers)) if share else "",
        "least_free": "" if on_cpu or not share else "0.05",
        "block": str(CPU_BLOCK) if on_cpu else "",
        "eager": "1" if on_cpu else "",
    }


def _least_kv(config: EngineConfig) -> int:
    """Bytes of one sequence that fills the window, and of the block that vLLM keeps back."""
    facts, block = config.facts, CPU_BLOCK if _on_cpu(config) else GPU_BLOCK
    value = 4 if _dtype(config) == "float32" else 2
    blocks = -(-config.window // block) + 1
    return 2 * facts.layers * facts.kv_heads * facts.head_dim * value * blocks * block


def _threads(config: EngineConfig) -> Mapping[str, str]:
    """On processors the cores of each worker; its own choice there would keep one core back."""
    threads = str(config.threads or "")
    if not _on_cpu(config):
        return {"threads": threads, "bind": ""}
    cores = config.cores
    if not cores:
        return {"threads": threads, "bind": "nobind" if threads else "auto"}
    # The CPUs of one core lie next to each other, and one thread per core computes as much as two.
    count = min(config.threads or len(cores), len(cores))
    chosen = cores[:: len(cores) // count][:count]
    each = count // config.tp
    if each < 1:
        raise LoadFailed(
            f"{count} cores cannot be shared by {config.tp} workers",
            hint="plan more cores or a lower tp",
        )
    lists = (chosen[rank * each : (rank + 1) * each] for rank in range(config.tp))
    return {"threads": str(each), "bind": "|".join(",".join(map(str, mine)) for mine in lists)}


def _adapters(config: EngineConfig) -> Mapping[str, str]:
    adapters = config.tuning.lora
    if len(adapters) > ADAPTERS:
        raise LoadFailed(
            f"{len(adapters)} adapters, at most {ADAPTERS} go beside one model",
            hint="spread them over two models of the spec",
        )
    for name, path in adapters:
        if set("=,") & set(name) or "," in path:
            raise LoadFailed(
                f"adapter {name!r} at {path!r}: vLLM takes no `=` or `,` there", hint="rename it"
            )
    pickles = config.tuning.allow_pickle
    rank = max((lora_rank(Path(path), allow_pickle=pickles) for _, path in adapters), default=0)
    words = [f"{name}={path}" for name, path in adapters]
    # On processors a sequence without adapter gets the last slot's when others have one, so that slot stays empty.
    slots = len(adapters) + (1 if _on_cpu(config) else 0)
    return {
        "adapters": str(slots) if adapters else "",
        "adapter_rank": str(next((step for step in _LORA_RANKS if step >= rank), rank)),
        **{f"adapter_{n}": words[n] if n < len(words) else "" for n in range(ADAPTERS)},
    }


def _ranks(config: EngineConfig, rank: int) -> Mapping[str, str]:
    """How the processes find each other: on the loopback, unless the pipeline spans nodes."""
    stages = config.stages
    if stages and _on_cpu(config):
        raise LoadFailed(
            "vLLM on processors starts a pipeline and dies at its first request",
            hint="plan the model on one node, or with another engine",
        )
    nodes = group_nodes(stages, config.tp) if stages else ()
    spans = len(nodes) > 1
    if spans and not config.meeting_port:
        raise LoadFailed(
            "a pipeline over nodes without a port to meet at", hint="report this as a bug"
        )
    return {
        "workers": "1" if config.tp > 1 or stages else "",
        "pp": str(len(stages) or ""),
        "layers": ",".join(map(str, layer_counts(stages, config.facts.layers))) if stages else "",
        "nodes": str(len(nodes)) if spans else "",
        "rank": str(rank),
        "master": nodes[0].host if spans else "",
        "master_port": str(config.meeting_port),
        "address": nodes[rank].host if spans else "127.0.0.1",
        "interface": "" if spans else "lo",
    }
