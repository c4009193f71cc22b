"""The gateway's ASGI application: routes, request ids, counting, and errors as OpenAI bodies.

Mountable anywhere: under our own server, or as an ordinary Serve ingress. It must not know either.
"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.wire import LARGEST_OPEN
from placement.units import MIB

from ..errors import RequestError
from ..metrics import GatewayMetrics
from ..routing.pick import model_state
from ..routing.replicas import ModelEntry
from .exchange import Dispatcher
from .inference import Inference
from .link import ClientGone
from .openai import chat_call, completion_call
from .problems import CLIENT_GONE, internal_error, response
from .streams import Chat, Completion
from .upstream import Upstreams

log = structlog.get_logger()

_SANE_ID = re.compile(r"[A-Za-z0-9._:/@+-]{1,200}")
_RECEIPTS = (
    "x-request-id",
    "x-shardyard-replica",
    "x-shardyard-device-class",
    "x-shardyard-engine",
    "x-shardyard-emulated",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """How one gateway serves.

    Attributes:
        version: of the distribution, for `/version`.
        cors_origins: browsers' origins that may call; none by default.
        most_requests: at once in this gateway, whatever they wait for.
        deadline_s: for a whole answer.
        silence_s: after this long without a token a comment keeps the connection alive.
    """

    version: str = "unknown"
    cors_origins: tuple[str, ...] = ()
    largest_body: int = 8 * MIB
    most_requests: int = 2048
    deadline_s: float = 600.0
    silence_s: float = 15.0


class Gateway:
    """The application's parts; `app` is what a server runs."""

    def __init__(self, config: GatewayConfig, upstreams: Upstreams) -> None:
        self._config = config
        self._upstreams = upstreams
        self.metrics = GatewayMetrics()
        self.metrics.watch_replicas(self._rows)
        self.draining = False
        self.app: ASGIApp = self._build()

    def drain(self) -> None:
        """Refuses new inference from now on; what runs goes on."""
        self.draining = True

    def _build(self) -> ASGIApp:
        config = self._config
        dispatcher = Dispatcher(self._upstreams, self.metrics, silence_s=config.silence_s)
        limits = {
            "largest_body": min(config.largest_body, LARGEST_OPEN // 2),
            "deadline_s": config.deadline_s,
        }
        chat = Inference(dispatcher, Chat(), chat_call, **limits)
        completion = Inference(dispatcher, Completion(), completion_call, **limits)
        routes = [
            Route("/v1/chat/completions", self._admitted(chat), methods=["POST"]),
            Route("/v1/completions", self._admitted(completion), methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{id:path}", self._model),
            Route("/live", self._live),
            Route("/ready", self._ready),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/version", self._version),
        ]
        starlette = Starlette(
            routes=routes,
            middleware=self._cors(),
            exception_handlers={
                RequestError: _request_error,
                HTTPException: _http_error,
                Exception: _bug,
            },
        )
        starlette.router.redirect_slashes = False
        return Boundary(starlette, self.metrics, {route.path for route in routes})

    def _cors(self) -> list[Middleware]:
        origins = self._config.cors_origins
        if not origins:
            return []
        return [
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=list(_RECEIPTS),
            )
        ]

    def _admitted(self, inference: Inference) -> ASGIApp:
        return _Admitted(self, inference, self._config.most_requests)

    # -- models -------------------------------------------------------------------------------------------------

    async def _models(self, _request: Request) -> Response:
        """The models that can answer now."""
        listed = [self._describe(entry) for entry in self._upstreams.table().models]
        ready = [model for model in listed if model["shardyard"]["replicas_ready"]]
        return JSONResponse({"object": "list", "data": ready})

    async def _model(self, request: Request) -> Response:
        """One model, also while it is loading."""
        name = request.path_params["id"]
        for entry in self._upstreams.table().models:
            if entry.id == name:
                return JSONResponse(self._describe(entry))
        raise RequestError(
            f"the model {name[:100]!r} does not exist",
            hint="GET /v1/models lists the models",
            reason="model_not_found",
            param="model",
        )

    def _describe(self, entry: ModelEntry) -> dict[str, Any]:
        state, ready = model_state(entry, self._upstreams.table(), self._upstreams.loads())
        return {
            "id": entry.id,
            "object": "model",
            "created": entry.created,
            "owned_by": "shardyard",
            "shardyard": {
                "emulated": entry.emulated,
                "window": entry.window,
                "state": state,
                "replicas_ready": ready,
            },
        }

    # -- health -------------------------------------------------------------------------------------------------

    async def _live(self, _request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"status": "live"})

    async def _ready(self, _request: Request) -> Response:
        """At least one model can answer."""
        states = self._states()
        return self._health_response("ready" in states.values(), states)

    async def _health(self, _request: Request) -> Response:
        """Every model can answer."""
        states = self._states()
        return self._health_response(set(states.values()) == {"ready"}, states)

    def _states(self) -> dict[str, str]:
        table, loads = self._upstreams.table(), self._upstreams.loads()
        return {entry.id: model_state(entry, table, loads)[0] for entry in table.models}

    def _health_response(self, good: bool, states: dict[str, str]) -> Response:
        status = "draining" if self.draining else "ok" if good else "unavailable"
        return JSONResponse(
            {"status": status, "models": states}, status_code=200 if status == "ok" else 503
        )

    async def _metrics(self, _request: Request) -> Response:
        return PlainTextResponse(
            self.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def _version(self, _request: Request) -> Response:
        return JSONResponse({"version": self._config.version})

    def _rows(self) -> list[tuple[str, bool, int]]:
        return [
            (slot, load.state == "ready", load.outstanding)
            for (slot, _), load in self._upstreams.loads().items()
        ]


class _Admitted:
    """Refuses inference while draining or when too many requests are in this gateway."""

    def __init__(self, gateway: Gateway, inference: Inference, most: int) -> None:
        self._gateway = gateway
        self._inference = inference
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._gateway.draining:
            raise RequestError("this gateway is shutting down", reason="draining")
        if self._running >= self._most:
            raise RequestError(
                f"this gateway has {self._running} requests already", reason="overloaded"
            )
        self._running += 1
        self._gateway.metrics.running.inc()
        try:
            await self._inference(scope, receive, send)
        finally:
            self._running -= 1
            self._gateway.metrics.running.dec()


class Boundary:
    """Outermost layer: a request id on every response, one count per request, HTTP only."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, paths: set[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["status"] = 0
        began = time.perf_counter()

        async def identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", request_id.encode()))
                state["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, identified)
        except ClientGone:
            state["status"] = CLIENT_GONE
            raise
        finally:
            self._count(scope, state, time.perf_counter() - began)

    def _count(self, scope: Scope, state: dict[str, Any], seconds: float) -> None:
        if state["status"] == CLIENT_GONE:
            self._metrics.client_gone.inc()
        path = scope["path"]
        route = path if path in self._paths else "other"
        self._metrics.answered(route, state.get("model", ""), state["status"], seconds)


def _request_id(scope: Scope) -> str:
    """The client's own, when it is sane."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _SANE_ID.fullmatch(given):
                return str(given)
    return "req-" + uuid.uuid4().hex


def _problem(error: RequestError) -> Response:
    status, headers, body = response(error)
    return Response(body, status_code=status, headers=headers)


async def _request_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _problem(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = "method_not_supported" if error.status_code == 405 else "unknown_url"
    says = f"{request.method} {request.url.path[:200]}"
    problem = _problem(RequestError(f"there is no {says} here", reason=reason))
    for name, value in (error.headers or {}).items():
        problem.headers[name] = value
    return problem


async def _bug(request: Request, error: Exception) -> Response:
    if not isinstance(error, ClientGone):
        log.error("request.broken", request=request.state.request_id, exc_info=error)
    return _problem(internal_error())
