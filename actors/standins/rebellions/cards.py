"""The devices that all of Rebellions' stand-ins agree on, from one environment variable. Figures are made up."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass

CARDS_ENV = "RBLN_STAND_IN"
MOST = 64

_PRODUCTS = {
    "RBLN_ATOM": ("RBLN-CA02", "1020", 1, 16877879296),
    "RBLN_ATOM_PLUS": ("RBLN-CA22", "1220", 1, 16877879296),
    "RBLN_ATOM_MAX": ("RBLN-CA25", "1250", 4, 16877879296),
    "RBLN_REBEL_QUAD": ("RBLN-CR13", "2130", 1, 140 * 2**30),
}
"""Class -> product, device id, devices on a card, bytes of each."""


@dataclass(frozen=True)
class Card:
    """One device as the driver would count it."""

    number: int
    product: str
    device_id: str
    board: str
    uuid: str
    pci: str
    numa_node: int
    memory_bytes: int
    power_uw: int = 18_100_000
    temperature_mc: int = 31_000

    @property
    def name(self) -> str:
        """The kernel's name for it."""
        return f"rbln{self.number}"


def declared(class_name: str, count: int) -> str:
    """The variable's value for so many devices of a class.

    >>> declared("RBLN_ATOM_MAX", 8)
    'RBLN-CA25:8'

    Raises:
        ValueError: there is no such class, or too many devices.
    """
    if class_name not in _PRODUCTS or not 0 <= count <= MOST:
        raise ValueError(f"a stand-in has 0 to {MOST} devices of {', '.join(_PRODUCTS)}")
    return f"{_PRODUCTS[class_name][0]}:{count}"


def cards(described: str | None = None) -> tuple[Card, ...]:
    """The devices of a value; the process's own, when none is given.

    >>> [(c.name, c.board[-2:], c.pci) for c in cards("RBLN-CA25:5")][3:]
    [('rbln3', '01', '0000:06:00.0'), ('rbln4', '02', '0000:13:00.0')]
    """
    product, _, count = (described or os.environ.get(CARDS_ENV, "")).partition(":")
    known = next((row for row in _PRODUCTS.values() if row[0] == product), None)
    if known is None or not count.isdigit():
        return ()
    return tuple(_card(k, min(int(count), MOST), *known) for k in range(min(int(count), MOST)))


def _card(
    number: int, count: int, product: str, device_id: str, dies: int, memory_bytes: int
) -> Card:
    board, die = divmod(number, dies)
    address = f"0000:{16 * (board // 4) + 3:02x}:{board % 4:02x}.0"
    if dies > 1:
        address = f"0000:{16 * board + 3 + die:02x}:00.0"
    return Card(
        number=number,
        product=product,
        device_id=device_id,
        board=f"{25_800_101 + board:016d}",
        uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{product}-{number}.invalid")),
        pci=address,
        numa_node=int(number * 2 >= count),
        memory_bytes=memory_bytes,
    )
