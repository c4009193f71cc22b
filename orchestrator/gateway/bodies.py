"""Request bodies: JSON only, bounded in size and time while they are read. It must not know what they say."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope

from ..errors import RequestError
from .link import ClientGone

BODY_TIMEOUT_S = 30.0


async def read_body(scope: Scope, receive: Receive, largest: int) -> bytes:
    """The whole body.

    Raises:
        RequestError: not JSON by its headers, too large (before it is read, where the length is given), too slow.
        ClientGone: the client hung up.
    """
    headers = dict(scope["headers"])
    _require_json(headers)
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > largest:
        raise _too_large(largest)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body = message.get("body", b"")
    else:
        body = await _rest(message, receive, largest)
    if len(body) > largest:
        raise _too_large(largest)
    return bytes(body)


def _require_json(headers: dict[bytes, bytes]) -> None:
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json" or b"content-encoding" in headers:
        raise RequestError(
            "the body has to be plain application/json",
            hint="send the header content-type: application/json",
            reason="unsupported_media_type",
        )


async def _rest(message: Message, receive: Receive, largest: int) -> bytes:
    chunks = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunks += message.get("body", b"")
                if len(chunks) > largest:
                    raise _too_large(largest)
                if not message.get("more_body"):
                    return bytes(chunks)
                message = await receive()
    except TimeoutError as error:
        raise RequestError(
            f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s", reason="request_timeout"
        ) from error


def _too_large(largest: int) -> RequestError:
    return RequestError(f"the body is larger than {largest} bytes", reason="body_too_large")
