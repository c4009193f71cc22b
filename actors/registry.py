"""A replica's row in the controller's registry: what it says of itself, renewed under a lease."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from placement.calibration import Calibration

from .engine import UNKNOWN, Capabilities

ReplicaState = Literal["loading", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEntry:
    """One row of the controller's registry.

    Attributes:
        slot: planned replica, e.g. `smollm2/r0`.
        incarnation: Serve's replica tag, new for every process.
        model: name that clients use.
        concurrency: sequences it decodes at once; `queue` more may wait in it.
        state: only `ready` replicas get new requests.
        load_ratio: done fraction of loading, 1 when ready.
        emulated: declared devices, emulated engine.
        window: longest sequence in tokens.
        speed: what its devices reach now of what was planned, 0 to 1; the controller fills it in from their nodes' reports.
        pid: of the Serve replica's process, whose process group holds its engine.
        capabilities: what its engine can do; settled when it is ready.
        calibration: what its engine was measured to do when it had loaded; None = not measured.
    """

    slot: str
    incarnation: str
    model: str
    engine: str
    device_class: str
    node: str
    host: str
    port: int
    pid: int
    concurrency: int
    queue: int
    window: int
    state: ReplicaState = "loading"
    load_ratio: float = 0.0
    emulated: bool = False
    detail: str = ""
    speed: float = 1.0
    capabilities: Capabilities = UNKNOWN
    calibration: Calibration | None = None
