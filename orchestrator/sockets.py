"""Ports of this machine: which are free, and whether one may be taken."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress

from .errors import ControlError, Unreachable

CONNECT_TIMEOUT_S = 5.0

BELOW_EPHEMERAL = range(20_000, 32_768)
"""Not where the kernel takes the ports of outgoing connections from: one of those could take a port between this
moment and the one when a slow program listens on it."""

TRIES = 50


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now, and that no outgoing connection will take.

    Raises:
        ControlError: none was found.
    """
    for _ in range(TRIES):
        port = secrets.choice(BELOW_EPHEMERAL)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.bind((host, port))
            probe.listen(1)
            return port
    raise ControlError(f"no free port on {host} in {TRIES} tries", hint="shardyard doctor")


def own_address() -> str:
    """The address of this machine that its neighbours reach; loopback when it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket only chooses a route; nothing is sent.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def require_answer(address: str) -> None:
    """Checks that somebody listens at `host:port`; Ray's own connection would try for minutes.

    Raises:
        Unreachable: nobody does, or it is no such address.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise Unreachable(
            f"no Ray cluster answers at {address}: {error}",
            hint="give the head as HOST:PORT, or start one: shardyard node start --head",
            address=address,
        ) from error


def require_free(host: str, port: int) -> None:
    """Checks that a port is free by binding it once, exclusively.

    SO_REUSEPORT, which gateways share a port with, would let two clusters of one user share it silently.

    Raises:
        ControlError: it is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise ControlError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                hint=f"choose another one with --port, or find its owner: ss -ltnp 'sport = :{port}'",
                host=host,
                port=port,
            ) from error
