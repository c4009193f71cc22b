"""Whether somebody listens on a port. Decides nothing about who may; must not know gateways or Ray."""

from __future__ import annotations

import errno
import socket
import time

from .errors import ControlError

PORT_PERIOD_S = 0.05


def port_taken(host: str, port: int) -> bool:
    """True when somebody listens there, also one who shares his port (SO_REUSEPORT).

    Raises:
        ControlError: the address is not this machine's, or the port is reserved for root.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise ControlError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                hint="choose another --host or --port",
                port=port,
            ) from error
    return False


def wait_port_free(host: str, port: int, timeout_s: float) -> bool:
    """Waits until nobody listens there; False when somebody still does at the deadline."""
    deadline = time.monotonic() + timeout_s
    while port_taken(host, port):
        if time.monotonic() >= deadline:
            return False
        time.sleep(PORT_PERIOD_S)
    return True
