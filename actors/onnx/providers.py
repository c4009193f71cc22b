"""ONNX Runtime's execution providers as data: which devices each serves, where it comes from, how it holds a KV cache.

Decides the provider of a replica and its options. Never falls back to the CPU: a provider that is not there is an error that
names the package. It must not load anything. The rows for accelerators follow ONNX Runtime's interfaces and their packages'
notes; those that ran here are `cpu`, and `openvino` as far as its plugin (which takes Intel's processors only) goes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from ..engine import EngineConfig
from ..errors import LoadFailed

KvPlace = Literal["host", "slots", "whole"]
"""`host`: in our memory. `slots`: on the device, one slot addressed by a pointer. `whole`: on the device, behind a handle that
has no inside, so that there can be one sequence only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One execution provider.

    Attributes:
        key: how a spec names it (tuning `attention_backend`).
        name: ONNX Runtime's name.
        package: what `pip install` brings it.
        plugin: import package that has its library; empty = it is built into the package.
        hardware: of a plugin's devices: `CPU`, `GPU` or `NPU`.
        kv: where the KV cache lies.
        memory: ONNX Runtime's name of the device's memory, for a KV cache on the device.
        options: of the provider. `{threads}` is filled in, and an option whose value is then empty is left out.
        exact: greedy text was shown to depend neither on the batch nor on where it is resumed, on fp32 graphs.
        beside: provider that may take what this one leaves, by key.
    """

    key: str
    name: str
    package: str
    plugin: str = ""
    hardware: str = ""
    kv: KvPlace = "host"
    memory: str = "cpu"
    options: tuple[tuple[str, str], ...] = ()
    exact: bool = False
    beside: str = ""

    def filled(self, config: EngineConfig) -> dict[str, str]:
        """The options for a configuration."""
        threads = str(config.threads) if config.threads else ""
        filled = {name: value.format(threads=threads) for name, value in self.options}
        return {name: value for name, value in filled.items() if value}


# The visibility variable of a family (vendors.toml) leaves its engine only its own device, which is number 0 then.
_FIRST = (("device_id", "0"),)
_OPENVINO = {
    "key": "openvino",
    "name": "OpenVINOExecutionProvider",
    "package": "onnxruntime-ep-openvino",
    "plugin": "onnxruntime_ep_openvino",
}
_DIRECTML = Provider(
    key="directml", name="DmlExecutionProvider", package="onnxruntime-directml",
    kv="whole", memory="dml", options=_FIRST,
)  # fmt: skip
_WEBGPU = Provider(
    key="webgpu", name="WebGpuExecutionProvider", package="onnxruntime-webgpu",
    kv="whole", memory="webgpu",
)  # fmt: skip
_CUDA = Provider(
    key="cuda", name="CUDAExecutionProvider", package="onnxruntime-gpu", kv="slots", memory="cuda",
    options=(*_FIRST, ("arena_extend_strategy", "kSameAsRequested")),
)  # fmt: skip
_TENSORRT = Provider(
    key="tensorrt", name="TensorrtExecutionProvider", package="onnxruntime-gpu", kv="slots",
    memory="cuda", options=_FIRST, beside="cuda",
)  # fmt: skip
_TENSORRT_RTX = Provider(
    key="tensorrt-rtx", name="NvTensorRTRTXExecutionProvider", package="onnxruntime-trt-rtx",
    kv="slots", memory="cuda", options=_FIRST, beside="cuda",
)  # fmt: skip

FAMILIES: dict[str, tuple[Provider, ...]] = {
    "cpu": (
        Provider(key="cpu", name="CPUExecutionProvider", package="onnxruntime", exact=True),
        Provider(**_OPENVINO, hardware="CPU", options=(("num_of_threads", "{threads}"),)),
    ),
    "nvidia": (_CUDA, _TENSORRT, _TENSORRT_RTX, _DIRECTML, _WEBGPU),
    "amd": (
        # The ROCm provider left ONNX Runtime; MIGraphX took its place.
        Provider(
            key="migraphx", name="MIGraphXExecutionProvider", package="onnxruntime-migraphx",
            options=_FIRST,
        ),
        _DIRECTML, _WEBGPU,
    ),
    "intel-gpu": (Provider(**_OPENVINO, hardware="GPU"), _DIRECTML, _WEBGPU),
    "intel-npu": (Provider(**_OPENVINO, hardware="NPU"),),
    "qualcomm": (
        Provider(
            key="qnn", name="QNNExecutionProvider", package="onnxruntime-qnn",
            plugin="onnxruntime_qnn", hardware="NPU",
        ),
    ),
    "apple": (
        Provider(
            key="coreml", name="CoreMLExecutionProvider", package="onnxruntime",
            options=(("ModelFormat", "MLProgram"), ("MLComputeUnits", "ALL")),
        ),
        _WEBGPU,
    ),
    "ascend": (
        Provider(
            key="cann", name="CANNExecutionProvider", package="onnxruntime-cann", kv="slots",
            memory="cann", options=_FIRST,
        ),
    ),
}  # fmt: skip
"""By family of devices; the first that is there is taken, unless a spec names one."""


def choose(config: EngineConfig, available: Collection[str]) -> Provider:
    """The provider for a replica's devices.

    Args:
        config: the replica.
        available: names (ONNX Runtime's) of the providers that can be loaded on this node.

    Raises:
        LoadFailed: there is none for the devices, or not the one that is wanted, or there are several devices.
    """
    family = config.family or "cpu"
    rows = FAMILIES.get(family, ())
    if not rows:
        raise LoadFailed(
            f"ONNX Runtime has no execution provider for devices of the family {family!r}",
            hint="name another engine in the spec; this one serves " + ", ".join(sorted(FAMILIES)),
        )
    if config.tp > 1 or len(config.stages) > 1:
        raise LoadFailed(
            f"this engine runs a replica on one device, not on {config.tp * max(1, len(config.stages))}",
            hint="name an engine that splits models in the spec, e.g. vllm",
        )
    return _first(family, _wanted(family, rows, config.tuning.attention_backend), available)


def _wanted(family: str, rows: tuple[Provider, ...], key: str) -> tuple[Provider, ...]:
    """The rows that may be taken: the one that is asked for, else what needs no asking."""
    if not key:
        return tuple(r for r in rows if not r.beside) if family != "cpu" else rows[:1]
    named = tuple(r for r in rows if r.key == key)
    if not named:
        keys = ", ".join(r.key for r in rows)
        raise LoadFailed(
            f"attention_backend {key!r} is no execution provider for {family}",
            hint=f"use one of: {keys}; or leave it out",
        )
    return named


def _first(family: str, rows: tuple[Provider, ...], available: Collection[str]) -> Provider:
    for row in rows:
        if row.name in available:
            return row
    first = rows[0]
    raise LoadFailed(
        f"the execution provider {first.name} for {family} is not installed on this node;"
        f" there are: {', '.join(sorted(available))}",
        hint=f"pip install {first.package}",
    )


def named(key: str) -> Provider:
    """The first row with a key.

    >>> named("cuda").name
    'CUDAExecutionProvider'
    """
    return next(row for rows in FAMILIES.values() for row in rows if row.key == key)
