from __future__ import annotations

import json

import pytest

from actors.wire import Failure, Reject
from orchestrator.errors import RequestError
from orchestrator.gateway.problems import RULES, from_failure, from_reject, response


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_json", 400),
        ("context_length_exceeded", 400),
        ("unsupported_parameter", 400),
        ("model_not_found", 404),
        ("body_too_large", 413),
        ("unsupported_media_type", 415),
        ("queue_full", 429),
        ("internal_error", 500),
        ("model_loading", 503),
        ("no_healthy_replica", 503),
        ("deadline_exceeded", 504),
    ],
)
def test_each_code_has_its_status(code: str, status: int) -> None:
    assert response(RequestError("x", reason=code))[0] == status


@pytest.mark.parametrize("code", RULES)
def test_every_body_has_openais_four_fields(code: str) -> None:
    _, headers, body = response(RequestError("it broke", hint="mend it", reason=code, param="p"))
    error = json.loads(body)["error"]
    assert error == {
        "message": "it broke; mend it",
        "type": error["type"],
        "param": "p",
        "code": code,
    }
    assert headers["content-type"] == "application/json"


def test_busy_answers_say_when_to_come_back() -> None:
    _, headers, _ = response(RequestError("x", reason="queue_full", retry_after_s=7.4))
    assert headers["retry-after"] == "7"
    _, headers, _ = response(RequestError("x", reason="draining"))
    assert headers["retry-after"] == "1"
    assert "retry-after" not in response(RequestError("x", reason="invalid_value"))[1]


def test_an_unknown_code_is_an_internal_error() -> None:
    status, _, body = response(from_reject(Reject("gremlins", "x")))
    assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")


def test_a_dead_replica_is_a_503_that_may_be_tried_again() -> None:
    status, headers, body = response(from_failure(Failure("engine_crashed", "gone", True)))
    assert status == 503
    assert "send the request again" in json.loads(body)["error"]["message"]
    assert "retry-after" in headers
