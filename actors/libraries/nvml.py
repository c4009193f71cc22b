"""What NVIDIA's management library (NVML) tells, asked through nvidia-ml-py in a process of its own.

`facts`: everything that stays as it is. `live`: what changes, of the devices that the last `facts` found. Decides which
functions are called and that each may be missing: a driver that lacks one costs that field, never the answer. It must
not know what an answer means for placement.
"""

from __future__ import annotations

import ctypes
import time
from collections import Counter
from pathlib import Path
from typing import Any

MODULE = "pynvml"
KEEP = True

_CARDS = Path("/proc/driver/nvidia/gpus")
_SYSFS = Path("/sys/bus/pci/devices")
_MOST_EVENTS = 256
_NO_INSTANCE = 0xFFFFFFFF
_LINKS = 36
_XID_EVENT = 8
_LOST = (15, 16)
"""NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED"""

_FACTS: dict[str, tuple[Any, ...]] = {
    "name": ("nvmlDeviceGetName",),
    "serial": ("nvmlDeviceGetSerial",),
    "vbios": ("nvmlDeviceGetVbiosVersion",),
    "numa": ("nvmlDeviceGetNumaNodeId",),
    "cores": ("nvmlDeviceGetNumGpuCores",),
    "bus_bits": ("nvmlDeviceGetMemoryBusWidth",),
    "memory_mhz": ("nvmlDeviceGetMaxClockInfo", 2),
    "sm_mhz": ("nvmlDeviceGetMaxClockInfo", 1),
    "power_limit_mw": ("nvmlDeviceGetEnforcedPowerLimit",),
    "shutdown_c": ("nvmlDeviceGetTemperatureThreshold", 0),
    "slowdown_c": ("nvmlDeviceGetTemperatureThreshold", 1),
    "highest_c": ("nvmlDeviceGetTemperatureThreshold", 3),
    "ecc_uncorrected_ever": ("nvmlDeviceGetTotalEccErrors", 1, 1),
}
_NOW: dict[str, tuple[Any, ...]] = {
    "temperature_c": ("nvmlDeviceGetTemperature", 0),
    "power_mw": ("nvmlDeviceGetPowerUsage",),
    "sm_mhz": ("nvmlDeviceGetClockInfo", 1),
    "sm_mhz_highest": ("nvmlDeviceGetMaxClockInfo", 1),
    "ecc_uncorrected": ("nvmlDeviceGetTotalEccErrors", 1, 0),
    "retire_pending": ("nvmlDeviceGetRetiredPagesPendingStatus",),
}
"""Key of the document -> function and what follows the card's handle."""


class _Session:
    """One initialisation of the library and the handles that came of it."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self.cards = _cards_of_driver()
        self.handles: dict[str, Any] = {}
        self.instances: dict[str, tuple[str | None, Any]] = {}
        self.xids: dict[str, dict[tuple[int, int | None], float]] = {}
        nvml.nvmlInit()
        self.events: Any = self.call("nvmlEventSetCreate")

    def call(self, name: str, *args: Any) -> Any:
        """A function's result; None when this driver, card or user cannot have it."""
        try:
            return getattr(self.nvml, name)(*args)
        except Exception:  # noqa: BLE001 - NVMLError, NVMLLibraryMismatchError, AttributeError, ctypes errors
            return None

    def lost(self, handle: Any) -> bool:
        """Whether the driver has lost the card."""
        try:
            self.nvml.nvmlDeviceGetTemperature(handle, self.nvml.NVML_TEMPERATURE_GPU)
        except Exception as error:  # noqa: BLE001 - see call
            return getattr(error, "value", None) in _LOST
        return False


_session: _Session | None = None


def answer(question: str) -> Any:
    """The document of a question, or `{"error": {"code", "text"}}` when the library cannot be used at all."""
    import pynvml

    try:
        session = _opened(pynvml, fresh=question == "facts")
    except Exception as error:  # noqa: BLE001 - NVMLError and whatever a broken installation raises
        return _error(error)
    if question == "facts":
        return _facts(session)
    if not session.handles:
        _facts(session)
    return _live(session)


def _opened(nvml: Any, *, fresh: bool) -> _Session:
    """The session; begun anew when the driver's cards are others, which NVML does not notice by itself."""
    global _session  # noqa: PLW0603 - this script is a process's whole state
    if _session is not None and fresh and _session.cards != _cards_of_driver():
        _session.call("nvmlShutdown")
        _session = None
    if _session is None:
        _session = _Session(nvml)
    return _session


def _cards_of_driver() -> frozenset[str]:
    return frozenset(place.name for place in _CARDS.glob("*"))


def _facts(s: _Session) -> dict[str, Any]:
    s.handles.clear()
    s.instances.clear()
    listed = [_card(s, index) for index in range(s.call("nvmlDeviceGetCount") or 0)]
    _drain(s)
    for card in listed:
        card["xids"] = _xids(s, card.get("uuid"))
    cuda = s.call("nvmlSystemGetCudaDriverVersion_v2")
    return {
        "driver": _text(s.call("nvmlSystemGetDriverVersion")),
        "cuda": None if not cuda else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "gpus": listed,
        "near": _near(s, listed),
    }


def _card(s: _Session, index: int) -> dict[str, Any]:
    try:
        handle = s.nvml.nvmlDeviceGetHandleByIndex(index)
    except Exception as error:  # noqa: BLE001 - see _Session.call
        return _error(error)
    uuid = _text(s.call("nvmlDeviceGetUUID", handle))
    if uuid and uuid not in s.xids:
        s.xids[uuid] = {}
        s.call("nvmlDeviceRegisterEvents", handle, _XID_EVENT, s.events)
    if uuid:
        s.handles.setdefault(uuid, handle)
    mode = s.call("nvmlDeviceGetMigMode", handle)
    divided = bool(mode and mode[0])
    return {
        "uuid": uuid,
        **_now(s, handle),
        **_told(s, handle, _FACTS),
        **_pci(s, handle),
        **_memory(s, handle),
        "mig": None if mode is None else divided,
        "instances": _instances(s, uuid, handle) if divided else [],
        "nvlinks": [] if divided else _nvlinks(s, handle),
        "nvlink_mbyte_per_s": _field(s, handle, "NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON"),
    }


def _told(s: _Session, handle: Any, table: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    found = {key: s.call(name, handle, *rest) for key, (name, *rest) in table.items()}
    return {k: _text(v) if isinstance(v, (str, bytes)) else v for k, v in found.items()}


def _pci(s: _Session, handle: Any) -> dict[str, Any]:
    pci = s.call("nvmlDeviceGetPciInfo", handle)
    device = getattr(pci, "pciDeviceId", None)
    capability = s.call("nvmlDeviceGetCudaComputeCapability", handle)
    mode = s.call("nvmlDeviceGetEccMode", handle)
    return {
        "pci": _text(getattr(pci, "busId", None)),
        "device": f"{device >> 16:04x}" if isinstance(device, int) and device else None,
        "capability": None if not capability else f"{capability[0]}.{capability[1]}",
        "ecc": None if mode is None else bool(mode[0]),
    }


def _memory(s: _Session, handle: Any) -> dict[str, Any]:
    """The second version of the call tells reserved memory apart; old drivers have the first one only."""
    version = getattr(s.nvml, "nvmlMemory_v2", None)
    said = s.call("nvmlDeviceGetMemoryInfo", handle, version)
    said = said or s.call("nvmlDeviceGetMemoryInfo", handle)
    return {f"memory_{k}": getattr(said, k, None) for k in ("total", "reserved", "used")}


def _instances(s: _Session, card: str | None, handle: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for index in range(s.call("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        part = s.call("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        if part is None:
            continue
        uuid = _text(s.call("nvmlDeviceGetUUID", part))
        if uuid:
            s.instances.setdefault(uuid, (card, part))
        slices = s.call("nvmlDeviceGetAttributes", part)
        found.append(
            {
                "uuid": uuid,
                "name": _text(s.call("nvmlDeviceGetName", part)),
                "gi": s.call("nvmlDeviceGetGpuInstanceId", part),
                "ci": s.call("nvmlDeviceGetComputeInstanceId", part),
                "slices": getattr(slices, "computeInstanceSliceCount", None),
                "memory_mib": getattr(slices, "memorySizeMB", None),
                **_memory(s, part),
            }
        )
    return found


def _nvlinks(s: _Session, handle: Any) -> list[dict[str, Any]]:
    """Active links, those with the same far end as one row."""
    ends: Counter[tuple[str | None, int | None, int | None]] = Counter()
    for link in range(_LINKS):
        state = s.call("nvmlDeviceGetNvLinkState", handle, link)
        if state is None:
            break
        if state == 1:
            far = s.call("nvmlDeviceGetNvLinkRemotePciInfo", handle, link)
            kind = s.call("nvmlDeviceGetNvLinkRemoteDeviceType", handle, link)
            version = s.call("nvmlDeviceGetNvLinkVersion", handle, link)
            ends[_text(getattr(far, "busId", None)), kind, version] += 1
    return [
        {"pci": pci, "kind": kind, "version": version, "links": links}
        for (pci, kind, version), links in ends.items()
    ]


def _fabric(s: _Session, handle: Any) -> int | None:
    """How far the set-up of the NVLink fabric is; only boards with NVSwitch and new drivers tell."""
    made = s.call("c_nvmlGpuFabricInfo_t")
    if made is None or s.call("nvmlDeviceGetGpuFabricInfo", handle, ctypes.byref(made)) is None:
        return None
    return int(made.state)


def _near(s: _Session, listed: list[dict[str, Any]]) -> list[list[Any]]:
    """Closest common ancestor of each pair, where the PCI tree is not in sysfs for the probe to read."""
    if all((_SYSFS / (card.get("pci") or "-").lower()[-12:]).exists() for card in listed):
        return []
    known = list(s.handles.items())
    found = (
        (a, b, s.call("nvmlDeviceGetTopologyCommonAncestor", one, other))
        for k, (a, one) in enumerate(known)
        for b, other in known[k + 1 :]
    )
    return [[a, b, level] for a, b, level in found if level is not None]


def _live(s: _Session) -> dict[str, Any]:
    """Raises where the library itself has lost its driver: this process ends then, and the next one starts anew."""
    s.nvml.nvmlDeviceGetCount()
    _drain(s)
    cards = {
        uuid: {
            **_now(s, handle),
            "memory_used": _memory(s, handle)["memory_used"],
            "xids": _xids(s, uuid),
        }
        for uuid, handle in s.handles.items()
    }
    parts = {uuid: {"card": card, **_memory(s, part)} for uuid, (card, part) in s.instances.items()}
    return {"gpus": cards, "instances": parts}


def _now(s: _Session, handle: Any) -> dict[str, Any]:
    """What changes, and what speaks of the card's health: cheap enough to be asked each second."""
    busy = s.call("nvmlDeviceGetUtilizationRates", handle)
    rows = s.call("nvmlDeviceGetRemappedRows", handle)
    reasons = s.call("nvmlDeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:
        reasons = s.call("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return {
        **_told(s, handle, _NOW),
        "lost": s.lost(handle),
        "busy": getattr(busy, "gpu", None),
        "reasons": reasons,
        "remap_pending": None if rows is None else bool(rows[2]),
        "remap_failed": None if rows is None else bool(rows[3]),
        "recovery": _field(s, handle, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"),
        "fabric": _fabric(s, handle),
    }


def _drain(s: _Session) -> None:
    """NVML keeps what happens between two questions."""
    for _ in range(_MOST_EVENTS):
        event = s.call("nvmlEventSetWait", s.events, 0) if s.events is not None else None
        if event is None:
            return
        uuid = _text(s.call("nvmlDeviceGetUUID", event.device))
        part = None if event.gpuInstanceId == _NO_INSTANCE else int(event.gpuInstanceId)
        if uuid:
            s.xids.setdefault(uuid, {})[int(event.eventData), part] = time.monotonic()


def _xids(s: _Session, uuid: str | None) -> list[list[Any]]:
    """Errors since this process began: number, GPU instance or None, seconds ago."""
    now = time.monotonic()
    said = s.xids.get(uuid or "", {})
    return [[xid, part, round(now - at, 1)] for (xid, part), at in sorted(said.items(), key=str)]


def _field(s: _Session, handle: Any, name: str) -> int | None:
    """One of NVML's numbered fields, when it is a whole number of 32 bits."""
    number = getattr(s.nvml, name, None)
    told = s.call("nvmlDeviceGetFieldValues", handle, [number]) if number is not None else None
    if not told or told[0].nvmlReturn != 0:
        return None
    return int(told[0].value.uiVal)


def _text(given: Any) -> str | None:
    if isinstance(given, bytes):
        given = given.decode(errors="replace")
    return given.strip() or None if isinstance(given, str) else None


def _error(error: Exception) -> dict[str, Any]:
    said = f"{type(error).__name__}: {error}"[:300]
    return {"error": {"code": getattr(error, "value", None), "text": said}}
