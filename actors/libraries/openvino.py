"""What OpenVINO can run on: its devices with their names, asked in a process of its own.

Decides which properties are asked and that each may be missing: a plugin without its driver raises for any of them. It
must not know which devices the machine has.
"""

from __future__ import annotations

from typing import Any

MODULE = "openvino"
KEEP = False

_PROPERTIES = (
    "FULL_DEVICE_NAME",
    "DEVICE_ARCHITECTURE",
    "DEVICE_TYPE",
    "OPTIMIZATION_CAPABILITIES",
    "GPU_DEVICE_TOTAL_MEM_SIZE",
    "NPU_DRIVER_VERSION",
)


def answer(question: str) -> Any:
    """`devices`: everything that OpenVINO lists."""
    del question
    import openvino

    core = openvino.Core()
    return {
        "version": str(getattr(openvino, "__version__", "")),
        "devices": [_device(core, name) for name in core.available_devices],
    }


def _device(core: Any, name: str) -> dict[str, Any]:
    told = {key.lower(): value for key in _PROPERTIES if (value := _property(core, name, key))}
    return {"name": str(name), **told}


def _property(core: Any, name: str, key: str) -> Any:
    """A device's property; None when its plugin does not have it, or cannot tell without its driver."""
    try:
        value = core.get_property(name, key)
    except Exception:  # noqa: BLE001 - RuntimeError, and whatever a plugin raises
        return None
    return list(map(str, value)) if isinstance(value, list) else str(value)
