"""Ports and addresses: who is there is found out at once, and said in one sentence."""

from __future__ import annotations

import socket

import pytest

from orchestrator.errors import ControlError, Unreachable
from orchestrator.sockets import free_port, require_answer, require_free


def test_a_listener_answers_and_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        require_answer(f"127.0.0.1:{port}")
        with pytest.raises(ControlError, match=str(port)) as caught:
            require_free("127.0.0.1", port)
    assert "--port" in caught.value.hint


def test_a_port_that_is_shared_counts_as_taken() -> None:
    with (
        socket.create_server(("127.0.0.1", 0), reuse_port=True) as listener,
        pytest.raises(ControlError),
    ):
        require_free("127.0.0.1", listener.getsockname()[1])


@pytest.mark.parametrize(
    "address", ["", "nowhere", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999999"]
)
def test_what_is_no_address_is_unreachable(address: str) -> None:
    with pytest.raises(Unreachable, match="no Ray cluster"):
        require_answer(address)


def test_where_nobody_listens_is_unreachable_with_the_next_command() -> None:
    with pytest.raises(Unreachable) as caught:
        require_answer(f"127.0.0.1:{free_port()}")
    assert "node start --head" in caught.value.hint
