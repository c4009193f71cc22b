"""Which addresses processes listen on, and what the metrics page of a server says."""

from __future__ import annotations

import os
import socket

import pytest

from actors.server.endings import Ended, meaning
from actors.server.listeners import Listener, listeners
from actors.server.metrics import samples
from actors.server.spec import Ending


def test_listening_sockets_are_found_and_others_are_not() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as local,
        socket.create_server(("0.0.0.0", 0)) as open_door,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.create_connection(local.getsockname()) as client,
    ):
        found = {door.port: door for door in listeners([os.getpid(), 2**22 + 1])}
        assert found[local.getsockname()[1]].exposed is False
        assert found[open_door.getsockname()[1]] == Listener(
            os.getpid(), "0.0.0.0", open_door.getsockname()[1]
        )
        assert found[open_door.getsockname()[1]].exposed
        assert not found[six.getsockname()[1]].exposed
        assert client.getsockname()[1] not in found


@pytest.mark.parametrize(
    ("address", "exposed"),
    [("127.0.0.53", False), ("::1", False), ("::ffff:127.0.0.1", False), ("::", True), ("10.0.0.1", True), ("fe80::1", True)],
)  # fmt: skip
def test_what_other_machines_may_reach(address: str, exposed: bool) -> None:
    assert Listener(1, address, 80).exposed is exposed


def test_figures_of_a_page() -> None:
    page = '# HELP a x\n# TYPE a gauge\na{m="x"} 1.0\na{m="y"} 2\nab 5\nb NaN\nb 0.5\n'
    assert samples(page, ("a", "b", "c")) == {"a": [1.0, 2.0], "b": [0.5]}
    with pytest.raises(ValueError):
        samples("a what is this\n", ("a",))


def test_the_first_row_that_fits_says_what_an_end_means() -> None:
    endings = (
        Ending(status=1, says="no memory", reason="the device is full", hint="less"),
        Ending(status=1, reason="it failed", hint="read"),
    )
    lines = ("Traceback", "RuntimeError: no memory", "see above", " ")
    assert meaning(Ended(status=1, lines=lines), endings) == (
        "the device is full (status 1): RuntimeError: no memory", "less",
    )  # fmt: skip
    assert meaning(Ended(status=1, lines=("bye",)), endings) == (
        "it failed (status 1): bye",
        "read",
    )
    assert meaning(Ended(status=-11), endings)[0] == "it ended (signal SIGSEGV)"
    assert "memory" in meaning(Ended(status=-9), endings)[0]
    assert meaning(Ended(), endings)[0] == "it ended (its status is not known)"
