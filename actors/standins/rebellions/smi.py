"""Stands in for `rbln-smi -j`: the shape of the real tool, with its repeated indices, numbers in texts and units."""

from __future__ import annotations

import json
import sys

from .cards import Card, cards


def document(described: tuple[Card, ...]) -> dict[str, object]:
    """What the tool prints."""
    return {
        "KMD_version": "3.0.0",
        "devices": [_device(card) for card in described],
        "contexts": [],
    }


def _device(card: Card) -> dict[str, object]:
    return {
        "npu": card.number % 4,
        "name": card.product,
        "sid": card.board,
        "uuid": card.uuid,
        "device": card.name,
        "status": "normal",
        "fw_ver": "3.0.0",
        "pci": {
            "dev": f"0x{card.device_id}",
            "bus_id": card.pci,
            "numa_node": str(card.numa_node),
            "link_speed": "32.0GT/s",
            "link_width": "16",
        },
        "temperature": f"{card.temperature_mc // 1000}C",
        "card_power": f"{card.power_uw}uW",
        "pstate": "P14",
        "memory": {"used": "0", "total": str(card.memory_bytes)},
        "util": "0.0",
        "board_info": "0005000c",
        "location": 5,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(cards()), indent=2) + "\n")
