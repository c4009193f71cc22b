"""FuriosaAI's own OpenAI server, `furiosa-llm serve`, on RNGD cards and on groups of their processing elements (PEs).

Decides which devices the server is told and what a bundle and the plan must agree on before it starts: the bundle fixes how
many PEs share a layer, and every further copy that would fit the PEs given is one that nobody has planned. It must not know
the carrier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ..compiled_furiosa import Bundle, read_bundle
from ..engine import Capabilities, EngineConfig
from ..errors import LoadFailed
from ..hf_folder import checked_weights
from ..openai.dialect import Dialect
from ..server.spec import Ending, When

CARD_PES = 8
"""Of an RNGD."""

_HANDLE = re.compile(r"npu:\d{1,4}(?::([0-7])(?:-([0-7]))?)?")
_DOCTOR = "shardyard doctor; furiosa-smi status"
_BUILD = "fxb build MODEL OUT.fxb -tp PES, with the furiosa-llm that serves it"


class FuriosaServer:
    """See `Server`."""

    name: ClassVar[str] = "furiosa"
    environment: ClassVar[str] = "furiosa"
    argv: ClassVar[tuple[str | When, ...]] = (
        "{bin}/furiosa-llm", "serve", "{model}", "--fxb", "{artifact}", "--devices", "{devices}",
        # It would listen on every address otherwise; it knows no unix sockets.
        "--host", "127.0.0.1", "--port", "{port}", "--served-model-name", "{served}",
        When("window", "--max-model-len", "{window}"),
        When("sequences", "--max-concurrency", "{sequences}"),
        # Else it makes a copy of the model on every group of PEs that it finds among those given.
        "--data-parallel-size", "1",
        "{prefix_caching}", "--allowed-origins", "[]", "--disable-uvicorn-access-log",
    )  # fmt: skip
    variables: ClassVar[Mapping[str, str]] = {"NO_COLOR": "1"}
    dialect: ClassVar[Dialect] = Dialect(
        ids_switch={"return_token_ids": True},
        ignore_eos=True,
        # It takes both fields and does nothing with them.
        seed=False,
        penalties=False,
        json_schema={"structured_outputs": {"json": "{schema}"}},
        stop_ids=True,
        # What a request leaves open comes out of the model's generation_config.json, also when it is greedy.
        extra={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop": []},
    )
    metrics: ClassVar[Mapping[str, str]] = {
        "running": "furiosa_llm_num_requests_running",
        "waiting": "furiosa_llm_num_requests_waiting",
        "kv_used_ratio": "furiosa_llm_kv_cache_usage",
    }
    endings: ClassVar[tuple[Ending, ...]] = (
        Ending(
            says="LLM engine terminated",
            reason="its native engine died, so it ended itself",
            hint="furiosa-smi status; the lines before it in its log and the kernel log tell why",
        ),
        Ending(
            says=r"librenegade\.so|libfuriosa\S*\.so",
            reason="FuriosaAI's driver libraries are not on this node",
            hint="install furiosa-driver-rngd and the runtime from FuriosaAI's apt repository; shardyard doctor",
        ),
        Ending(
            says="Error: .*(Not enough devices|Tensor parallelism degree|must lie within|aligned PEs|textual device format)",
            reason="the PEs given do not form the groups that the bundle was built for",
            hint="set SHARDYARD_FURIOSA_PES to the bundle's PEs per group, or build the bundle for the PEs that a device has",
        ),
        Ending(
            says="(?i)out of memory|not enough free KV blocks|insufficient .*memory",
            reason="the cards' memory does not hold the model and its KV cache",
            hint="a smaller window, fewer sequences, or a bundle for more PEs",
        ),
        Ending(
            says="NPU error|HAL error|Error: No available devices|DeviceNotFound|[Dd]evice busy|cannot acquire",
            reason="a card cannot be opened",
            hint=f"end what else uses it, and let this user open /dev/rngd (group furiosa); {_DOCTOR}",
        ),
        Ending(
            says=r"Error: .*(reading zip archive|parsing manifest\.json|not a valid FXB|\.fxb files|stale\) matches)",
            reason="the bundle cannot be used",
            hint=f"{_BUILD}; fxb show OUT.fxb tells what it was built with",
        ),
        Ending(
            says="Error: .*(max_model_len|max_position_embeddings|context length)",
            reason="the window is longer than the bundle or the model allows",
            hint="set a smaller window, or build the bundle with --max-model-len",
        ),
        Ending(
            says="Error: .*chat template",
            reason="the model's tokenizer has no chat template, without which it does not start",
            hint="put chat_template.jinja beside the model's tokenizer_config.json",
        ),
        Ending(
            says="address already in use",
            reason="another process took its port between its choice and its use",
            hint="apply again: another port is chosen",
        ),
        Ending(
            says="ModuleNotFoundError|ImportError|PackageNotFoundError",
            reason="its environment is not whole",
            hint="shardyard env create furiosa --force",
        ),
    )

    def values(self, config: EngineConfig) -> Mapping[str, str]:
        """See `Server`."""
        _check_model(config)
        bundle = _bundle(config)
        _check_pes(config, bundle)
        if bundle.longest and config.window > bundle.longest:
            raise LoadFailed(
                f"a window of {config.window} tokens is planned and {config.artifact} was built for {bundle.longest}",
                hint=f"set window to {bundle.longest} or less, or build the bundle with --max-model-len {config.window}",
            )
        return {
            "artifact": config.artifact,
            "devices": ",".join(config.handles),
            "prefix_caching": f"--{'' if config.tuning.prefix_cache else 'no-'}enable-prefix-caching",
        }

    def capabilities(self, config: EngineConfig) -> Capabilities:
        """See `Server`. Its arithmetic is bf16 at best, so a text goes on fluently and not exactly."""
        bundle = _bundle(config)
        return Capabilities(
            window=config.window,
            sequences=config.max_sequences,
            batch_buckets=bundle.batches,
            length_buckets=bundle.lengths,
            json_schema=True,
            prefix_cache=config.tuning.prefix_cache,
        )


def pes_of(handle: str) -> int:
    """How many PEs a launch handle names.

    Raises:
        LoadFailed: it is none of FuriosaAI's.

    >>> [pes_of(h) for h in ("npu:0", "npu:1:4-7", "npu:0:3")]
    [8, 4, 1]
    """
    match = _HANDLE.fullmatch(handle)
    if match is None:
        raise LoadFailed(
            f"{handle[:60]!r} is no device of FuriosaAI's",
            hint="they look like npu:0, npu:0:3 and npu:0:0-3; shardyard devices lists them",
        )
    first, last = match.groups()
    if first is None:
        return CARD_PES
    return max(int(last or first) - int(first) + 1, 1)


def _check_model(config: EngineConfig) -> None:
    if config.stages or config.tuning.lora or config.tuning.quantization:
        what = "pipeline stages" if config.stages else "adapters and quantisation"
        raise LoadFailed(
            f"{what} are fixed when a bundle is built, not when it is served",
            hint="take them out of the spec, or serve the model with another engine",
        )
    if not config.model_path:
        raise LoadFailed("no model path", hint="shardyard prepare SOURCE --form safetensors")
    checked_weights(Path(config.model_path), allow_pickle=False)


def _bundle(config: EngineConfig) -> Bundle:
    if not config.artifact:
        raise LoadFailed(
            "furiosa-llm serves compiled bundles only, and the model has none", hint=_BUILD
        )
    return read_bundle(Path(config.artifact))


def _check_pes(config: EngineConfig, bundle: Bundle) -> None:
    given = sum(pes_of(handle) for handle in config.handles)
    if not given:
        raise LoadFailed("no devices are given to it", hint="shardyard plan tells what it needs")
    if len(set(config.handles)) != len(config.handles):
        raise LoadFailed(
            f"a device is given twice: {', '.join(config.handles)[:200]}", hint=_DOCTOR
        )
    if given != bundle.pes:
        stages = f" in {bundle.pp} stages" if bundle.pp > 1 else ""
        raise LoadFailed(
            f"{config.artifact} was built for {bundle.pes} PEs{stages}, and {given} are given: {', '.join(config.handles)}",
            hint=f"build it with -tp {given}, or set SHARDYARD_FURIOSA_PES so that a replica's devices have {bundle.pes} PEs",
        )
