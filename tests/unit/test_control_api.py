"""The control API over a controller with fakes: what the command line gets, and what it never gets without the token."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient
from support.control_plane import World, an_app, an_entry, yaml_of

from orchestrator.control.server import ControlApi
from placement.codec import encode

TOKEN = "t" * 64
AUTH = {"authorization": f"Bearer {TOKEN}"}


async def no_logs(name: str, lines: int) -> str:
    return f"{name} {lines}"


def client_of(world: World) -> TestClient:
    api = ControlApi(world.controller, no_logs, {"endpoint": "http://x/v1", "mode": "test"})
    return TestClient(api.app(TOKEN), headers=AUTH, raise_server_exceptions=False)


@pytest.fixture
async def world() -> World:
    world = World("n1")
    await world.settle()
    return world


def body_of(replicas: int = 1) -> dict[str, Any]:
    return {
        "app": json.loads(encode(an_app(replicas=replicas))),
        "yaml": yaml_of(replicas=replicas),
    }


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer x"}, {"authorization": TOKEN}])
@pytest.mark.parametrize("path", ["/v1/status", "/v1/inventory", "/v1/unknown"])
async def test_nothing_without_the_token(world: World, headers: dict[str, str], path: str) -> None:
    client = TestClient(client_of(world).app, headers=headers)
    answer = client.get(path)
    assert answer.status_code == 401
    assert answer.json()["code"] == "control.unauthorized"


async def test_status_counts_what_there_is(world: World) -> None:
    status = client_of(world).get("/v1/status").json()
    assert (status["nodes"], status["devices"], status["models"]) == (1, 1, [])


async def test_apply_answers_with_plan_diff_and_reasons(world: World) -> None:
    answer = client_of(world).post("/v1/apply", json=body_of()).json()
    assert answer["accepted"] is True
    assert [change["kind"] for change in answer["diff"]] == ["start"]
    assert answer["document"]["slots"][0]["slot"] == "tiny/r0"
    assert answer["explanation"]


async def test_an_infeasible_apply_is_not_accepted_and_says_why(world: World) -> None:
    answer = client_of(world).post("/v1/apply", json=body_of(replicas=50)).json()
    assert answer["accepted"] is False
    assert answer["document"]["feasible"] is False
    assert answer["document"]["rejections"]
    assert client_of(world).get("/v1/plan").json() is None


async def test_a_diff_names_the_key_of_the_spec_that_changed(world: World) -> None:
    client = client_of(world)
    client.post("/v1/apply", json=body_of())
    app = an_app(replicas=1)
    (asked,) = app.demands
    wider = replace(app, demands=(replace(asked, concurrency=asked.concurrency * 2),))
    body = body_of() | {"app": json.loads(encode(wider))}
    (change,) = client.post("/v1/plan", json=body).json()["diff"]
    assert change["kind"] == "move"
    assert change["reason"].startswith("the spec changed: models.tiny.concurrency 8 -> 16")


async def test_a_dry_run_changes_nothing(world: World) -> None:
    client = client_of(world)
    client.post("/v1/plan", json=body_of())
    assert client.get("/v1/spec").json() == {"yaml": ""}


async def test_scaling_rewrites_the_spec(world: World) -> None:
    client = client_of(world)
    client.post("/v1/apply", json=body_of(replicas=1))
    answer = client.post("/v1/scale", json={"model": "tiny", "replicas": 2}).json()
    assert answer["accepted"] is True
    assert "replicas: 2" in client.get("/v1/spec").json()["yaml"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/apply", b"{"),
        ("/v1/apply", b"[]"),
        ("/v1/apply", b'{"app": {"name": 1}}'),
        ("/v1/apply", b"[" * 100_000),
        ("/v1/plan", b'{"app": null}'),
    ],
)
async def test_nonsense_gets_one_sentence(world: World, path: str, body: bytes) -> None:
    answer = client_of(world).post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "spec.invalid"


async def test_scaling_before_anything_is_deployed_says_what_to_type(world: World) -> None:
    answer = client_of(world).post("/v1/scale", json={"model": "tiny", "replicas": 2})
    assert answer.status_code == 503
    assert "apply" in answer.json()["hint"]


async def test_replicas_show_planned_and_registered_ones(world: World) -> None:
    client = client_of(world)
    client.post("/v1/apply", json=body_of(replicas=2))
    await world.controller.register(an_entry("tiny/r0"))
    rows = {row["slot"]: row for row in client.get("/v1/replicas").json()["replicas"]}
    assert rows["tiny/r0"]["state"] == "ready"
    assert rows["tiny/r1"]["state"] == "waiting"


async def test_logs_are_passed_on_with_a_bounded_count(world: World) -> None:
    client = client_of(world)
    assert client.get("/v1/logs?name=tiny/r0&lines=99999999").text == "tiny/r0 10000"
    assert client.get("/v1/logs?name=x&lines=many").status_code == 400
