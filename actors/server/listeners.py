"""Which TCP addresses processes listen on, read from `/proc`.

Decides whether an address can be reached from another machine. It must not know who the processes are.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from ..process_tree import PROC

_LISTENING = "0A"
_TABLES = ("tcp", "tcp6")


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and a process that holds it."""

    pid: int
    address: str
    port: int

    @property
    def exposed(self) -> bool:
        """Whether other machines may reach it."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return not (mapped or address).is_loopback

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


def listeners(pids: Iterable[int]) -> tuple[Listener, ...]:
    """What these processes listen on; one that cannot be looked into is left out."""
    tables: dict[str, dict[str, tuple[str, int]]] = {}
    found: list[Listener] = []
    for pid in pids:
        with contextlib.suppress(OSError):
            space = os.readlink(PROC / str(pid) / "ns" / "net")  # noqa: PTH115
            if space not in tables:
                tables[space] = _table(pid)
            places = {tables[space][inode] for inode in _sockets(pid) if inode in tables[space]}
            found += [Listener(pid, *place) for place in sorted(places)]
    return tuple(found)


def _sockets(pid: int) -> list[str]:
    folder = PROC / str(pid) / "fd"
    found: list[str] = []
    for name in os.listdir(folder):  # noqa: PTH208
        with contextlib.suppress(OSError):
            target = os.readlink(folder / name)  # noqa: PTH115
            if target.startswith("socket:["):
                found.append(target[8:-1])
    return found


def _table(pid: int) -> dict[str, tuple[str, int]]:
    """Inode -> address and port of every listening socket in the network of a process."""
    rows: dict[str, tuple[str, int]] = {}
    for name in _TABLES:
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING:
                    rows[fields[9]] = _place(fields[1])
    return rows


def _place(text: str) -> tuple[str, int]:
    """An address as the kernel prints it: 32-bit words in the machine's byte order.

    >>> _place("0100007F:1F90") if sys.byteorder == "little" else ("127.0.0.1", 8080)
    ('127.0.0.1', 8080)
    """
    digits, _, port = text.partition(":")
    words = [bytes.fromhex(digits[n : n + 8]) for n in range(0, len(digits), 8)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return str(ipaddress.ip_address(b"".join(words))), int(port, 16)
