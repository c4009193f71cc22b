"""Whether a port is taken, also by one who shares it."""

from __future__ import annotations

import socket
import threading

import pytest

from orchestrator.errors import ControlError
from orchestrator.tcp_ports import port_taken, wait_port_free


@pytest.fixture
def listener():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def test_a_shared_port_counts_as_taken(listener):
    port = listener.getsockname()[1]
    assert port_taken("127.0.0.1", port)
    assert port_taken("0.0.0.0", port)
    assert not wait_port_free("127.0.0.1", port, 0.0)
    listener.close()
    assert not port_taken("127.0.0.1", port)


def test_waiting_ends_when_the_port_is_free(listener):
    port = listener.getsockname()[1]
    threading.Timer(0.1, listener.close).start()
    assert wait_port_free("127.0.0.1", port, 10.0)


def test_an_address_of_another_machine_is_an_error_with_a_hint():
    with pytest.raises(ControlError) as caught:
        port_taken("192.0.2.1", 8000)
    assert "--host" in caught.value.hint
