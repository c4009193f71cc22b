"""vLLM's OpenAI server with Rebellions' plugin (vllm-rbln), on a model that optimum-rbln has compiled.

Decides what a compiled model and the plan must agree on before the server starts: batch, length, devices and family were fixed
by the compiler, and the server quietly takes them from the model whatever its flags say. It must not know the carrier.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ..compiled_rbln import COMPILE, CompiledModel, npu_family, read_compiled
from ..engine import Capabilities, EngineConfig
from ..errors import LoadFailed
from ..hf_folder import refuse_code
from ..openai.dialect import Dialect
from ..product import listed
from ..server.spec import Ending, When

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
_SERIES = ("RBLN-CA", "RBLN-CR")
_VERSIONS = (
    "shardyard env create rbln --force with the release that compiled it, or compile it again"
)


class RblnServer:
    """See `Server`."""

    name: ClassVar[str] = "rbln"
    environment: ClassVar[str] = "rbln"
    # `-P`: a folder called vllm in the working directory does not stand in for the package.
    argv: ClassVar[tuple[str | When, ...]] = (
        "{python}", "-P", "-m", "vllm.entrypoints.openai.api_server",
        "--model", "{compiled}", "--served-model-name", "{served}", "--uds", "{socket}",
        When("tokenizer", "--tokenizer", "{tokenizer}"),
        "--max-model-len", "{compiled_window}", "--max-num-seqs", "{compiled_batch}",
        # Neither temperature nor penalties come out of the model's folder; its end-of-text ids still do.
        "--generation-config", "vllm",
        "{prefix_caching}", "--disable-uvicorn-access-log", "--disable-fastapi-docs",
    )  # fmt: skip
    variables: ClassVar[Mapping[str, str]] = {
        # Unset: the runtime prefers the first to RBLN_VISIBLE_DEVICES, which the plan sets, and the others would have the
        # plugin compile vLLM's implementation on the spot in place of the compiled model.
        "RBLN_DEVICES": "",
        "VLLM_RBLN_USE_VLLM_MODEL": "",
        "_VLLM_RBLN_RESOLVED_MODEL_IMPL": "",
        "VLLM_PLUGINS": "rbln,rbln_custom_ops,rbln_new_models",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_LOG_STATS_INTERVAL": "300",
    }
    dialect: ClassVar[Dialect] = Dialect(
        ids_switch={"return_token_ids": True},
        ignore_eos=True,
        # Its compiled sampler ignores seeds, and says so for every request.
        seed=False,
        json_schema={"structured_outputs": {"json": "{schema}"}},
        stop_ids=True,
        dead="EngineDeadError|EngineCore encountered",
    )
    metrics: ClassVar[Mapping[str, str]] = {
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "kv_used_ratio": "vllm:kv_cache_usage_perc",
    }
    endings: ClassVar[tuple[Ending, ...]] = (
        Ending(
            says=r"No module named '?(rebel|vllm_rbln)|librbln\S*\.so",
            reason="Rebellions' compiler and runtime are not in its environment",
            hint="rebel-compiler comes from Rebellions' own index, with an account; then: shardyard env create rbln --force",
        ),
        Ending(
            says="Unexpected arguments: dict_keys|is an old version",
            reason="the model was compiled with another release of optimum-rbln",
            hint=_VERSIONS,
        ),
        Ending(
            says="Expected RBLN compiled model|must be specified in rbln_config",
            reason="the compiled model is not whole",
            hint=f"copy the whole folder again; {COMPILE}",
        ),
        Ending(
            says="Lack of device memory|Not enough NPU memory",
            reason="the devices' memory does not hold the model and its KV cache",
            hint="compile it with a smaller batch_size or max_seq_len, or for more devices (num_devices)",
        ),
        Ending(
            says="is not on the same NPU as|Could not determine the RBLN NPU name|is not a valid NPU device"
            "|greater than the number of available devices",
            reason="the devices are not those that the model was compiled for, or none is there",
            hint="rbln-smi; shardyard doctor",
        ),
        Ending(
            says="Failed to create RBLN runtime",
            reason="a device cannot be opened",
            hint="rbln-smi tells who uses it and whether it is well; shardyard doctor",
        ),
        # The worker exits with 70 and prints one line of JSON; the server above it ends with a status of its own.
        Ending(
            says=r"rbln\.worker\.fatal",
            reason="a worker of vllm-rbln gave up",
            hint="the line quoted has the exception; rbln-smi tells whether the device is well",
        ),
        Ending(
            status=70,
            reason="a worker of vllm-rbln gave up",
            hint="its log has the exception; rbln-smi tells whether the device is well",
        ),
        Ending(
            says="ModuleNotFoundError|ImportError|PackageNotFoundError",
            reason="its environment is not whole",
            hint="shardyard env create rbln --force",
        ),
    )

    def values(self, config: EngineConfig) -> Mapping[str, str]:
        """See `Server`. The compiled folder takes the place of the model's: it has tokenizer and configuration, too."""
        compiled = _compiled(config)
        _check_options(config)
        _check_sizes(config, compiled)
        _check_devices(config, compiled)
        _check_family(config.device_class, compiled)
        return {
            "compiled": _folder(config),
            "tokenizer": _tokenizer(config),
            "compiled_window": str(compiled.window),
            "compiled_batch": str(compiled.batch),
            "prefix_caching": f"--{'' if config.tuning.prefix_cache else 'no-'}enable-prefix-caching",
        }

    def capabilities(self, config: EngineConfig) -> Capabilities:
        """See `Server`. What was compiled is the limit, and what was planned, where that is less."""
        compiled = _compiled(config)
        return Capabilities(
            window=min(config.window, compiled.window),
            sequences=min(config.max_sequences, compiled.batch),
            batch_buckets=compiled.batches,
            length_buckets=(compiled.window,),
            penalties=True,
            json_schema=True,
            prefix_cache=config.tuning.prefix_cache,
        )


def families_of(device_class: str) -> frozenset[str]:
    """The families of products that are devices of a class; empty = the class is none of the catalog's.

    >>> sorted(families_of("RBLN_ATOM_MAX")), families_of("NVIDIA_H100_80G")
    (['RBLN-CA2'], frozenset())
    """
    names = (f"{series}{n:02}" for series in _SERIES for n in range(100))
    classes = ((name, listed("rebellions", name)) for name in names)
    return frozenset(
        npu_family(name)
        for name, known in classes
        if known is not None and known.name == device_class
    )


def _folder(config: EngineConfig) -> str:
    return config.artifact or config.model_path


def _compiled(config: EngineConfig) -> CompiledModel:
    if not _folder(config):
        raise LoadFailed(
            "vllm-rbln is served compiled models only, and the model has none", hint=COMPILE
        )
    folder = Path(_folder(config))
    compiled = read_compiled(folder)
    refuse_code(folder)
    if compiled.pickles and not config.tuning.allow_pickle:
        raise LoadFailed(
            f"{folder} holds {', '.join(compiled.pickles[:3])}, and optimum-rbln runs the code in such files",
            hint="set allow_pickle: true for this model if you compiled it yourself",
        )
    return compiled


def _tokenizer(config: EngineConfig) -> str:
    """The folder with the tokenizer; empty = it is beside the graphs, where optimum-rbln puts it when it finds one."""
    if _has_tokenizer(_folder(config)):
        return ""
    if config.model_path and _has_tokenizer(config.model_path):
        return config.model_path
    raise LoadFailed(
        f"{_folder(config)} has no tokenizer, and there is none with the model either",
        hint="copy tokenizer.json and tokenizer_config.json of the model into it",
    )


def _has_tokenizer(folder: str) -> bool:
    return any((Path(folder) / name).is_file() for name in _TOKENIZERS)


def _check_options(config: EngineConfig) -> None:
    if config.stages:
        raise LoadFailed(
            "vllm-rbln runs no pipelines over nodes",
            hint="set pp: 1, and compile for more devices (num_devices) if the model needs them",
        )
    if config.tuning.lora or config.tuning.quantization or config.tuning.kv_dtype:
        raise LoadFailed(
            "adapters, quantisation and the KV cache's type are fixed when a model is compiled, not when it is served",
            hint="take them out of the spec and give them to optimum-rbln",
        )


def _check_sizes(config: EngineConfig, compiled: CompiledModel) -> None:
    for what, planned, limit, field in (
        ("a window", config.window, compiled.window, "max_seq_len"),
        ("sequences at once", config.max_sequences, compiled.batch, "batch_size"),
    ):
        if planned > limit:
            raise LoadFailed(
                f"{what}: {planned} planned, and {_folder(config)} was compiled for {limit}",
                hint=f"plan {limit} or less, or compile it with {field}={planned}",
            )


def _check_devices(config: EngineConfig, compiled: CompiledModel) -> None:
    given = len(config.handles) or config.tp
    if compiled.devices != config.tp or given != config.tp:
        raise LoadFailed(
            f"{_folder(config)} was compiled for {compiled.devices} devices, planned are {config.tp}, given {given}",
            hint=f"set tp: {compiled.devices}, or compile it with num_devices={config.tp}",
        )


def _check_family(device_class: str, compiled: CompiledModel) -> None:
    families = families_of(device_class)
    if compiled.npu and families and npu_family(compiled.npu) not in families:
        raise LoadFailed(
            f"it was compiled for {compiled.npu} and the devices are {device_class}",
            hint=f"compile it with npu= one of {', '.join(sorted(families))}x, or plan it on other devices",
        )
