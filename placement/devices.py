"""What one accelerator is, and what its class can do. Figures live in the catalog; nothing here names a vendor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from .ids import DeviceId, NodeId

Dtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4"]

BYTES_PER_VALUE: dict[Dtype, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
}


class Kind(StrEnum):
    """Families of devices, as users speak of them."""

    GPU = "gpu"
    NPU = "npu"
    PIM = "pim"
    CPU = "cpu"
    REMOTE = "remote"


class Health(StrEnum):
    """Whether new work may be placed on a device: only on a healthy one.

    A lost device that answers again is `recovered` until it has proved itself for a while.
    """

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    LOST = "lost"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A remote OpenAI endpoint, as its operator declares it. What it offers may be placed on it instead of on hardware.

    Attributes:
        url: `openai+https://` or `openai+http://` address.
        models: names that may be sent there; a model whose source is the endpoint needs no entry.
        tokens_per_s: output tokens per second of one sequence.
        ttft_s: time to first token.
        price_per_million_tokens: of output, in the user's currency.
    """

    url: str
    models: frozenset[str] = frozenset()
    tokens_per_s: float
    ttft_s: float
    price_per_million_tokens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClass:
    """An SKU with its figures.

    A device divides into `shares`: 1 for an accelerator, its cores for a CPU. `bandwidth_bytes_per_s`, `flops`,
    `power_w` and `price_per_hour` are **per share**; a share also carries 1/shares of the device's memory.

    Attributes:
        memory_bytes: of a whole device, usable by models; 0 where each device tells its own (CPU).
        bandwidth_bytes_per_s: memory bandwidth per share, data sheet.
        bandwidth_cap_bytes_per_s: where a device's shares together saturate; 0 = never before their sum.
        flops: dense FLOP/s (OP/s for integers) per share by dtype; a dtype that is missing cannot run.
        bandwidth_efficiency: reached fraction of `bandwidth_bytes_per_s` in decode.
        flops_efficiency: reached fraction of `flops` in prefill.
        uncertainty: relative error to expect of a prediction, e.g. 0.4 = +-40 %.
        link_bytes_per_s: all-reduce bus bandwidth inside an island; 0 = no tensor parallelism.
        link_latency_s: all-reduce start-up time inside an island.
        load_bytes_per_s: how fast weights reach the device.
        power_w, idle_w: board power at full load and idle, per share.
        price_per_hour: per share, in the user's currency.
        source: where the figures come from.
        recalled: names of the catalog's figures that were recalled or assumed, not read in a source.
        speed: fraction of the class's own rates that `flops` and the bandwidths here are; below 1 for throttled devices.
        endpoint: what a class of kind `remote` is; its devices have one share per sequence that they take at once.
    """

    name: str
    vendor: str
    kind: Kind
    memory_bytes: int
    bandwidth_bytes_per_s: float
    flops: tuple[tuple[Dtype, float], ...]
    power_w: float
    idle_w: float = 0.0
    price_per_hour: float = 0.0
    bandwidth_cap_bytes_per_s: float = 0.0
    bandwidth_efficiency: float = 0.75
    flops_efficiency: float = 0.5
    uncertainty: float = 0.4
    link_bytes_per_s: float = 0.0
    link_latency_s: float = 30e-6
    load_bytes_per_s: float = 1e9
    source: str = ""
    recalled: tuple[str, ...] = ()
    speed: float = 1.0
    endpoint: Endpoint | None = None


def at_speed(device_class: DeviceClass, speed: float) -> DeviceClass:
    """The class with the rates that its devices reach at a fraction of their clock; memory and power stay.

    >>> gpu = DeviceClass(name="G", vendor="v", kind=Kind.GPU, memory_bytes=1, bandwidth_bytes_per_s=8.0,
    ...                   flops=(("fp16", 4.0),), power_w=1.0)
    >>> half = at_speed(gpu, 0.5)
    >>> half.bandwidth_bytes_per_s, half.flops, at_speed(half, 1.0) == gpu
    (4.0, (('fp16', 2.0),), True)
    """
    if speed == device_class.speed:
        return device_class
    factor = speed / device_class.speed
    return replace(
        device_class,
        bandwidth_bytes_per_s=device_class.bandwidth_bytes_per_s * factor,
        bandwidth_cap_bytes_per_s=device_class.bandwidth_cap_bytes_per_s * factor,
        flops=tuple((dtype, rate * factor) for dtype, rate in device_class.flops),
        speed=speed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator of a node, or one NUMA domain of its CPU.

    Attributes:
        device_class: name of its `DeviceClass`.
        memory_bytes: usable by models.
        shares: how many exclusive parts it can be given out in (1; cores for a CPU).
        island: devices of a node with the same number are joined by a fast interconnect.
        emulated: declared, not found; only the emulated engine may run on it.
        identity: vendor + serial or UUID + bus address; stable, never an index.
        handle: what today's launch command calls it, e.g. `0` or `npu:0`.
        speed: fraction of its class's rates that it reaches now, in quarters; below 1 while it is throttled.
    """

    id: DeviceId
    node: NodeId
    device_class: str
    memory_bytes: int
    shares: int = 1
    island: int = 0
    health: Health = Health.HEALTHY
    emulated: bool = False
    identity: str = ""
    handle: str = ""
    speed: float = 1.0
