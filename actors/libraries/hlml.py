"""Intel's pyhlml: one list with everything that it tells of each Gaudi, in SI units. Imports nothing of ours."""

import importlib
from typing import Any

MODULE = "pyhlml"
KEEP = True

_ready = False


def answer(question: str) -> object:
    """`devices` is the only question; a figure that the library does not tell is left out.

    Raises:
        ValueError: another question.
        Exception: the library does not start, as it says itself.
    """
    pyhlml: Any = importlib.import_module(MODULE)
    global _ready  # noqa: PLW0603 - the library is started once in the life of this process
    if question != "devices":
        raise ValueError(question)
    if not _ready:
        pyhlml.hlmlInit()
        _ready = True
    driver = _told(pyhlml.hlmlGetDriverVersion)
    handles = [pyhlml.hlmlDeviceGetHandleByIndex(k) for k in range(pyhlml.hlmlDeviceGetCount())]
    return [{**_device(pyhlml, handle), "driver_version": driver} for handle in handles]


def _device(pyhlml: Any, handle: Any) -> dict[str, object]:
    memory = _told(pyhlml.hlmlDeviceGetMemoryInfo, handle)
    bus = _told(pyhlml.hlmlDeviceGetPCIInfo, handle)
    rates = _told(pyhlml.hlmlDeviceGetUtilizationRates, handle)
    said = {
        "name": _told(pyhlml.hlmlDeviceGetName, handle),
        "uuid": _told(pyhlml.hlmlDeviceGetUUID, handle),
        "serial": _told(pyhlml.hlmlDeviceGetSerial, handle),
        "module_id": _told(pyhlml.hlmlDeviceGetModuleID, handle),
        "bus_id": _text(getattr(bus, "bus_id", None)),
        "memory.total": getattr(memory, "total", None),
        "memory.used": getattr(memory, "used", None),
        "utilization.aip": getattr(rates, "aip", None),
        "temperature.aip": _told(pyhlml.hlmlDeviceGetTemperature, handle, 0),
        "power.draw": _watts(_told(pyhlml.hlmlDeviceGetPowerUsage, handle)),
        "power.limit": _watts(_told(pyhlml.hlmlDeviceGetPowerManagementLimit, handle)),
        "temperature.limit": _told(pyhlml.hlmlDeviceGetTemperatureThreshold, handle, 1),
        "throttled": _told(pyhlml.hlmlDeviceGetCurrentClocksThrottleReasons, handle),
        "clock": _told(pyhlml.hlmlDeviceGetClockInfo, handle),
        "clock.max": _told(pyhlml.hlmlDeviceGetMaxClockInfo, handle),
        "rows.pending": _told(pyhlml.hlmlDeviceGetReplacedRowsPendingStatus, handle),
    }
    return {key: value for key, value in said.items() if value is not None}


def _told(function: Any, *given: object) -> Any:
    """What a function answers; None when this card or this release does not."""
    try:
        return _text(function(*given))
    except Exception:  # noqa: BLE001 - whatever a vendor's library raises
        return None


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _watts(milliwatts: Any) -> float | None:
    return milliwatts / 1000 if isinstance(milliwatts, int) else None
