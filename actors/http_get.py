"""One GET with a deadline and a cap, for probes; everything that goes wrong is None."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

_CHUNK = 65536


def get(
    url: str, timeout_s: float, most_bytes: int, headers: Mapping[str, str]
) -> tuple[int, str] | None:
    """Status and body of a GET, redirects not followed; None when nobody answers it whole in time."""
    deadline = time.monotonic() + timeout_s
    parts = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        connection = kinds[parts.scheme](parts.hostname or "", parts.port, timeout=timeout_s)
    except (KeyError, ValueError, http.client.HTTPException):
        return None
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"accept": "application/json", **headers})
        answer = connection.getresponse()
        body = _body(answer, deadline, most_bytes)
        return None if body is None else (answer.status, body.decode(errors="replace"))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _body(answer: http.client.HTTPResponse, deadline: float, most_bytes: int) -> bytes | None:
    body = bytearray()
    while chunk := answer.read1(_CHUNK):
        body += chunk
        if len(body) > most_bytes or time.monotonic() > deadline:
            return None
    return bytes(body)
