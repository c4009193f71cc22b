"""Which OpenVINO device a planned shard runs on, and with which properties.

Decides from the configuration and from what the library lists, and never in favour of another device than the planned one.
It must not know how anything is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine import EngineConfig
from ..errors import LoadFailed
from ..vendors import families

EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
"""All three together make a text on a processor independent of its batch and of where it is resumed."""

NPU_RESPONSE = 128
"""Tokens that an NPU's context has beyond the longest prompt. The library's own default."""

_NPU_STEP = 64
_KINDS = {"intel-gpu": "GPU", "intel-npu": "NPU"}


def device_of(config: EngineConfig, listed: Sequence[str]) -> str:
    """The library's name of the planned device.

    Args:
        config: its `family` and `handles`. A handle of Intel's GPUs is what the visibility variable counts by, so once the
            process is narrowed to it the library lists that GPU alone; nothing narrows NPUs.
        listed: what the library sees in this process.

    Raises:
        LoadFailed: the device is not there, cannot be told from others, or computes other than planned.
    """
    kind = _kind(config)
    if config.arithmetic == "exact" and kind != "CPU":
        raise LoadFailed(
            f"openvino has no exact arithmetic on {_named(config)}",
            hint="set arithmetic: fast in the spec, or serve it on processors",
        )
    if len(config.handles) > 1 and kind != "CPU":
        raise LoadFailed(
            f"openvino computes on one device, and {len(config.handles)} were planned:"
            f" {', '.join(config.handles)}",
            hint="plan it without tensor parallelism, or on another engine",
        )
    there = [name for name in listed if name.partition(".")[0] == kind]
    if not there:
        raise LoadFailed(
            f"OpenVINO lists no {kind} here, only {', '.join(listed) or 'nothing'}",
            hint=_driver(config),
        )
    if len(there) > 1 or (kind == "NPU" and config.handles not in ((), ("NPU",))):
        raise LoadFailed(
            f"OpenVINO lists {', '.join(there)}, and which of them is {_named(config)} cannot be told",
            hint=_narrowing(config),
        )
    return there[0]


def properties(config: EngineConfig, device: str) -> dict[str, object]:
    """The device's properties for a configuration. Threads and exactness are a processor's."""
    if device != "CPU":
        return {}
    threads: dict[str, object] = {"INFERENCE_NUM_THREADS": config.threads} if config.threads else {}
    return threads | (EXACT if config.arithmetic == "exact" else {})


def single_properties(config: EngineConfig, device: str) -> dict[str, Any]:
    """The properties of a pipeline that runs one sequence after another.

    A prompt may fill the window, because a text that broke off late is resumed as one long prompt.
    """
    if device != "NPU":
        # Without paged attention the library takes the code path that it takes for NPUs.
        return properties(config, device) | {"ATTENTION_BACKEND": "SDPA"}
    longest = -(-config.window // _NPU_STEP) * _NPU_STEP
    return {"MAX_PROMPT_LEN": longest, "MIN_RESPONSE_LEN": NPU_RESPONSE}


def _kind(config: EngineConfig) -> str:
    if config.family and config.family not in _KINDS and config.family in families():
        raise LoadFailed(
            f"openvino does not drive devices of {config.family}",
            hint="its devices are processors, Intel's GPUs and Intel's NPUs; see shardyard nodes",
        )
    return _KINDS.get(config.family, "CPU")


def _named(config: EngineConfig) -> str:
    return " ".join((config.family, *config.handles))


def _driver(config: EngineConfig) -> str:
    family = families().get(config.family)
    install = family.install if family else "reinstall openvino"
    return f"{install}; then see shardyard doctor on the node"


def _narrowing(config: EngineConfig) -> str:
    family = families().get(config.family)
    if family is None or not family.visible.variable:
        return "openvino drives a node's only NPU; serve it on another device; see shardyard doctor"
    return (
        f"{family.visible.variable} must leave it alone in sight: update {family.install.rpartition('install ')[2]},"
        " then see shardyard doctor"
    )
