"""What FuriosaAI's `furiosa_smi` tells of its cards. Runs in the environment of that package and imports nothing of ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

MODULE = "furiosa_smi"
KEEP = True


def answer(question: str) -> object:
    """`cards`: a list of objects, one per card; what the library cannot tell of a card is null.

    Raises:
        ValueError: another question.
    """
    if question != "cards":
        raise ValueError(f"no such question: {question!r}")
    furiosa_smi = importlib.import_module(MODULE)
    devices = furiosa_smi.list_devices()
    driver = _told(lambda: str(furiosa_smi.driver_info())) if devices else None
    return [
        {**_card(device), "driver": driver, "links": _links(device, devices)} for device in devices
    ]


def _card(device: Any) -> dict[str, object]:
    return {
        "index": _told(device.dev_node_index),
        "product": _told(device.product_name),
        "pci": _told(lambda: str(device.bdf())),
        "uuid": _told(device.uuid),
        "serial": _told(device.serial),
        "firmware": _told(lambda: str(device.firmware_version())),
        "alive": _told(device.liveness),
        "numa_node": _told(device.numa_node),
        "pes": _told(device.core_num),
        "temperature_c": _told(lambda: device.device_temperature().soc_peak()),
        "power_w": _told(device.power_consumption),
        "power_limit_w": _told(lambda: device.power_limit() / 1000),
        "memory_bytes": _told(lambda: sum(m.total_bytes() for m in device.memory_usage().values())),
        "used_bytes": _told(lambda: sum(m.in_use_bytes() for m in device.memory_usage().values())),
        "throttled": _told(lambda: [str(reason) for reason in device.throttle_reason()]),
    }


def _links(device: Any, devices: list[Any]) -> dict[str, object]:
    """How the vendor says that it is joined to each other card, by address."""
    others = [other for other in devices if str(other.bdf()) != str(device.bdf())]
    return {
        str(other.bdf()): _told(lambda o=other: str(device.device_to_device_link_type(o)))
        for other in others
    }


def _told(ask: Callable[[], Any]) -> Any:
    """An answer, or None where the library fails: one file that it cannot read must not hide the rest."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - whatever a vendor's library raises
        return None
