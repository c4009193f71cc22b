"""Which network addresses an endpoint may have, looked at when a connection is made: then no name can lead elsewhere later.

Decides what counts as private. It must not know what is sent.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "fd00:ec2::254")
)
"""Where clouds tell a machine its secrets; nobody serves models there."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def objection(text: str, *, allow_private: bool) -> str:
    """Why an address may not be connected to, as a sentence; empty when it may.

    >>> objection("10.0.0.7", allow_private=False)
    '10.0.0.7 is a private address'
    >>> objection("10.0.0.7", allow_private=True), objection("1.1.1.1", allow_private=False)
    ('', '')
    >>> objection("::ffff:169.254.169.254", allow_private=True)
    '::ffff:169.254.169.254 is where a cloud tells its secrets'
    """
    try:
        outer = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return f"{text[:60]!r} is no address"
    address = _inner(outer)
    if address in METADATA:
        return f"{text} is where a cloud tells its secrets"
    kind = _kind(address)
    if not kind or (allow_private and kind not in _NEVER):
        return ""
    return f"{text} is {kind} address"


_NEVER = ("a multicast", "an unspecified")


def _kind(address: _Address) -> str:
    if address.is_unspecified:
        return "an unspecified"
    if address.is_multicast:
        return "a multicast"
    if address.is_loopback:
        return "a loopback"
    if address.is_link_local:
        return "a link-local"
    reserved = address.is_reserved or getattr(address, "is_site_local", False)
    return "" if address.is_global and not reserved else "a private"


def _inner(address: _Address) -> _Address:
    """The IPv4 address inside an IPv6 one, where packets to it would go there."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    teredo = address.teredo
    inner = address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
    if inner is None and (address in _NAT64 or 0xFFFF < int(address) < 1 << 32):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return inner or address


class Gate:
    """Makes the sockets of one endpoint's connections, and no other.

    Attributes:
        refused: why the last address was refused; empty when it was not.
        private: whether the last connection went to an address that is not public.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self.refused = ""
        self.private = False

    def socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """A socket for an address as `getaddrinfo` tells it.

        Raises:
            OSError: the address may not be connected to.
        """
        family, kind, protocol, _, where = address_info
        address = str(where[0])
        said = objection(address, allow_private=self._allow_private)
        if said:
            self.refused = said
            raise OSError(errno.EACCES, said)
        self.refused = ""
        self.private = bool(objection(address, allow_private=False))
        return socket.socket(family=family, type=kind, proto=protocol)
