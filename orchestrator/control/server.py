"""The controller's own HTTP API: loopback, bearer token, JSON. What the command line speaks.

It stands apart from the inference port, so that `status` works when every gateway is dead.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from placement.codec import decode, encode, plan_document
from placement.demand import App
from placement.diff import diff
from placement.errors import ShardyardError, SpecError
from placement.inventory import Inventory
from placement.plan import Change, Infeasible, Plan

from ..controller import Controller
from ..errors import ControlError
from ..explaining import sentences
from ..problems import problems
from ..spec import dump_app, dump_spec, parse_spec, scaled
from ..state import State, inventory

LARGEST_BODY = 4 * 1024**2
MOST_LOG_LINES = 10_000


class Logs(Protocol):
    """Reads logs where they are."""

    async def __call__(self, name: str, lines: int) -> str:
        """The last lines of the log of a slot or node."""
        ...


class ControlApi:
    """The routes over one controller."""

    def __init__(self, controller: Controller, logs: Logs, facts: dict[str, Any]) -> None:
        self._controller = controller
        self._logs = logs
        self._facts = facts

    def app(self, token: str) -> ASGIApp:
        """The ASGI application behind the token."""
        routes = [
            Route("/v1/status", self._guard(self.status)),
            Route("/v1/inventory", self._guard(self.inventory)),
            Route("/v1/spec", self._guard(self.spec)),
            Route("/v1/plan", self._guard(self.plan)),
            Route("/v1/plan", self._guard(self.dry_run), methods=["POST"]),
            Route("/v1/apply", self._guard(self.apply), methods=["POST"]),
            Route("/v1/scale", self._guard(self.scale), methods=["POST"]),
            Route("/v1/replicas", self._guard(self.replicas)),
            Route("/v1/explain", self._guard(self.explain)),
            Route("/v1/logs", self._guard(self.logs)),
        ]
        return RequireToken(Starlette(routes=routes), token)

    def _guard(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                return await endpoint(request)
            except SpecError as error:
                return JSONResponse(error.as_dict(), status_code=400)
            except ControlError as error:
                return JSONResponse(error.as_dict(), status_code=503)
            except ShardyardError as error:
                return JSONResponse(error.as_dict(), status_code=500)

        return guarded

    async def status(self, _request: Request) -> Response:
        """The cluster at a glance."""
        state = self._controller.state
        table = self._controller.table()
        plan = state.plan
        models = [
            {
                "model": model.id,
                "replicas_wanted": sum(s.model == model.id for s in plan.slots) if plan else 0,
                "replicas_ready": _ready(table.replicas, model.id),
                "emulated": model.emulated,
                "problem": model.problem,
            }
            for model in table.models
        ]
        return JSONResponse(
            {
                **self._facts,
                "generation": state.generation,
                "revision": state.revision,
                "nodes": len(state.nodes),
                "nodes_silent": len(state.incarnations) - len(state.nodes),
                "devices": sum(len(n.report.devices) for n in state.nodes.values()),
                "models": models,
                "infeasible": list(state.infeasible.conflict) if state.infeasible else [],
                "problems": problems(self._controller.state),
            }
        )

    async def inventory(self, _request: Request) -> Response:
        """What the planner sees."""
        body = json.loads(encode(inventory(self._controller.state)))
        reports = [node.report for _, node in sorted(self._controller.state.nodes.items())]
        live = {name: asdict(said) for report in reports for name, said in report.readings}
        return JSONResponse(
            {
                "inventory": body,
                "problems": problems(self._controller.state),
                "facts": [asdict(facts) for report in reports for facts in report.facts],
                "bonds": [asdict(bond) for report in reports for bond in report.bonds],
                "readings": live,
                "polls": {r.node: [asdict(poll) for poll in r.polls] for r in reports},
            }
        )

    async def spec(self, _request: Request) -> Response:
        """The desired state as the user wrote it."""
        return JSONResponse({"yaml": self._controller.state.yaml})

    async def plan(self, _request: Request) -> Response:
        """The plan in force, or null."""
        plan = self._controller.state.plan
        return JSONResponse(plan_document(plan, cpu_s=0.0) if plan is not None else None)

    async def dry_run(self, request: Request) -> Response:
        """Plans without changing anything."""
        body = await _body(request)
        app, before = _app_of(body), self._controller.state
        outcome = await self._controller.dry_run(app)
        return self._answer(outcome, before, app, accepted=False)

    async def apply(self, request: Request) -> Response:
        """Makes an app the desired state."""
        body = await _body(request)
        app = _app_of(body)
        before = self._controller.state
        outcome = await self._controller.accept(app, str(body.get("yaml") or dump_app(app)))
        return self._answer(outcome, before, app, accepted=isinstance(outcome, Plan))

    async def scale(self, request: Request) -> Response:
        """Changes the number of replicas of one model."""
        body = await _body(request)
        current = self._controller.state.app
        if current is None:
            raise ControlError("nothing is deployed", hint="shardyard apply SPEC")
        app = scaled(current, str(body.get("model")), body.get("replicas"))
        spec = replace(parse_spec(self._controller.state.yaml, "spec"), app=app)
        before = self._controller.state
        outcome = await self._controller.accept(app, dump_spec(spec))
        return self._answer(outcome, before, app, accepted=isinstance(outcome, Plan))

    def _answer(
        self, outcome: Plan | Infeasible, before: State, app: App, *, accepted: bool
    ) -> Response:
        changes = _changes(outcome, before, app, inventory(self._controller.state))
        return JSONResponse(
            {
                "document": plan_document(outcome, cpu_s=0.0),
                "diff": [change_document(change) for change in changes],
                "explanation": list(sentences(outcome)),
                "accepted": accepted,
            }
        )

    async def replicas(self, _request: Request) -> Response:
        """Every planned slot with its replica, if it has one."""
        return JSONResponse({"replicas": self._rows()})

    def _rows(self) -> list[dict[str, Any]]:
        state = self._controller.state
        rows: dict[str, dict[str, Any]] = {}
        for slot in state.plan.slots if state.plan is not None else ():
            known = state.slots.get(slot.id)
            failure = state.failures.get(slot.id)
            rows[slot.id] = {
                "slot": slot.id,
                "model": slot.model,
                "engine": slot.engine,
                "device_class": slot.device_class,
                "devices": list(slot.devices),
                "node": slot.nodes[0],
                "emulated": slot.emulated,
                "state": known.phase if known is not None else "waiting",
                "since_s": self._controller.age_s(known.since) if known is not None else None,
                "load_ratio": 0.0,
                "detail": failure.reason if failure is not None else "",
            }
        for name, row in state.replicas.items():
            rows[name] = {"devices": [], **rows.get(name, {}), **asdict(row.entry)}
        return [rows[name] for name in sorted(rows)]

    async def explain(self, request: Request) -> Response:
        """Why the plan is as it is, for everything, one model or one slot."""
        state = self._controller.state
        outcome = state.infeasible or state.plan
        if outcome is None:
            raise ControlError("there is no plan yet", hint="shardyard apply SPEC")
        about = request.query_params.get("about", "")
        return JSONResponse({"sentences": list(sentences(outcome, about))})

    async def logs(self, request: Request) -> Response:
        """The last lines of the log of a slot, node, gateway or the controller."""
        name = request.query_params.get("name", "")
        try:
            lines = int(request.query_params.get("lines", "200"))
        except ValueError as error:
            raise SpecError("lines is not a number") from error
        return PlainTextResponse(await self._logs(name, max(1, min(lines, MOST_LOG_LINES))))


def _changes(
    outcome: Plan | Infeasible, before: State, app: App, there: Inventory
) -> tuple[Change, ...]:
    """What differs from the plan in force, and why."""
    if not isinstance(outcome, Plan):
        return ()
    return diff(before.plan, outcome, inventory=there, before_app=before.app, app=app)


def change_document(change: Change) -> dict[str, Any]:
    """One line of a diff as JSON: where the slot was and where it will be."""
    return {
        "kind": change.kind,
        "slot": change.slot,
        "before": list(change.before.devices) if change.before is not None else None,
        "after": list(change.after.devices) if change.after is not None else None,
        "reason": change.reason,
    }


def _ready(replicas: tuple[Any, ...], model: str) -> int:
    return sum(r.model == model and r.state == "ready" for r in replicas)


async def _body(request: Request) -> dict[str, Any]:
    if int(request.headers.get("content-length") or 0) > LARGEST_BODY:
        raise SpecError(f"the body is larger than {LARGEST_BODY} bytes")
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise SpecError("the body is not JSON") from error
    if not isinstance(body, dict):
        raise SpecError("the body is not a JSON object")
    return body


def _app_of(body: dict[str, Any]) -> App:
    try:
        return decode(App, json.dumps(body.get("app")).encode())
    except ValueError as error:
        raise SpecError(f"`app` is not an app: {error}") from error


class RequireToken:
    """ASGI middleware: nothing behind it without the control token, compared in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401."""
        if scope["type"] != "http":
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
            return
        body = {
            "code": "control.unauthorized",
            "message": "the control token is missing or wrong",
            "hint": "use the command line of the user who ran `shardyard up`",
        }
        await JSONResponse(body, status_code=401)(scope, receive, send)
