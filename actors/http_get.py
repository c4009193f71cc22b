"""One GET with a deadline and a cap, for probes; what goes wrong is an answer, too."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from .remote_gate import objection

_CHUNK = 65536
_KINDS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}


Answer = tuple[int, str, bool]
"""Status, body, and whether whoever answered has an address that is not public."""


def get(url: str, timeout_s: float, most_bytes: int, headers: Mapping[str, str]) -> Answer:
    """The answer to a GET, redirects not followed; status 0 and the cause when nobody answers it whole in time.

    Runs in a thread of its own: looking up a name knows no deadline.
    """
    said: list[Answer] = []
    asking = threading.Thread(
        target=lambda: said.append(_get(url, timeout_s, most_bytes, headers)), daemon=True
    )
    asking.start()
    asking.join(timeout_s)
    return said[0] if said else (0, f"no whole answer within {timeout_s:g} s", False)


def _get(url: str, timeout_s: float, most_bytes: int, headers: Mapping[str, str]) -> Answer:
    deadline = time.monotonic() + timeout_s
    try:
        parts = urlsplit(url)
        connection = _KINDS[parts.scheme](parts.hostname or "", parts.port, timeout=timeout_s)
    except (KeyError, ValueError, http.client.HTTPException):
        return 0, "not an address of http or https", False
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.connect()
        private = bool(objection(str(connection.sock.getpeername()[0]), allow_private=False))
        connection.request("GET", path, headers={"accept": "application/json", **headers})
        answer = connection.getresponse()
        body = _body(answer, deadline, most_bytes)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return 0, _cause(error), False
    else:
        if body is None:
            return 0, f"more than {most_bytes} bytes, or not whole in time", private
        return answer.status, body.decode(errors="replace"), private
    finally:
        connection.close()


def _body(answer: http.client.HTTPResponse, deadline: float, most_bytes: int) -> bytes | None:
    body = bytearray()
    while chunk := answer.read1(_CHUNK):
        body += chunk
        if len(body) > most_bytes or time.monotonic() > deadline:
            return None
    return bytes(body)


def _cause(error: Exception) -> str:
    """A sentence without the address, which may hold a secret."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'no reason given'}"
    if isinstance(error, TimeoutError):
        return "nobody answered in time"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"not HTTP: {type(error).__name__}"
