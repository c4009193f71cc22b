"""DOOR to Ray Serve: the deployment that hosts a gateway.

Normally the gateway runs a server of its own on a port that it shares with its siblings (`ingress: own`); for clusters
whose users want plain Serve HTTP the same ASGI app is mounted as an ordinary Serve ingress (`ingress: serve`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import ray
import structlog
from ray import serve

from actors.logs import configure, log_path
from actors.names import CONTROLLER, NAMESPACE

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayJoin:
    """What a gateway needs to serve: where to listen and the secret of the frames."""

    secret: str
    host: str
    port: int
    cors_origins: tuple[str, ...] = ()
    ingress: str = "own"
