"""Errors as clients see them: the only place that knows HTTP statuses and OpenAI error bodies.

It must not know how an error came about; a code that is not in the table is an internal error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from actors.wire import Failure, Reject

from ..errors import RequestError

_CLIENT = "invalid_request_error"
_SERVER = "server_error"

CLIENT_GONE = 499
"""Counted and logged; nobody is there to receive it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a code is answered. `retry` becomes `x-should-retry` where clients would guess wrong."""

    status: int
    type: str
    retry: bool | None = None


RULES: dict[str, Rule] = {
    "invalid_json": Rule(400, _CLIENT),
    "missing_required_parameter": Rule(400, _CLIENT),
    "invalid_value": Rule(400, _CLIENT),
    "context_length_exceeded": Rule(400, _CLIENT),
    "unsupported_parameter": Rule(400, _CLIENT),
    "model_not_found": Rule(404, _CLIENT),
    "unknown_url": Rule(404, _CLIENT),
    "method_not_supported": Rule(405, _CLIENT),
    "request_timeout": Rule(408, _CLIENT),
    "body_too_large": Rule(413, _CLIENT),
    "unsupported_media_type": Rule(415, _CLIENT),
    "queue_full": Rule(429, "rate_limit_error"),
    "internal_error": Rule(500, _SERVER),
    "engine_error": Rule(500, _SERVER),
    "no_healthy_replica": Rule(503, _SERVER),
    "model_loading": Rule(503, _SERVER),
    "draining": Rule(503, _SERVER),
    "overloaded": Rule(503, _SERVER),
    "replica_lost": Rule(503, _SERVER),
    "deadline_exceeded": Rule(504, _SERVER, False),
}

_RETRY_AFTER_S = 1.0


def rule_of(error: RequestError) -> Rule:
    """The row of an error; an unknown code is an internal error."""
    return RULES.get(error.reason, RULES["internal_error"])


def document(error: RequestError) -> dict[str, Any]:
    """The body: `{"error": {message, type, param, code}}`."""
    known = error.reason in RULES
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    return {
        "error": {
            "message": message,
            "type": rule_of(error).type,
            "param": error.param,
            "code": error.reason if known else "internal_error",
        }
    }


def response(error: RequestError) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an error."""
    rule = rule_of(error)
    headers = {"content-type": "application/json"}
    if rule.status in (429, 503):
        wait_s = _RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        headers["retry-after"] = str(max(1, round(wait_s)))
    if rule.retry is not None:
        headers["x-should-retry"] = str(rule.retry).lower()
    return rule.status, headers, json.dumps(document(error)).encode()


def from_reject(reject: Reject) -> RequestError:
    """A replica's refusal, for the client."""
    return RequestError(
        reject.message,
        reason=reject.code,
        param=reject.param,
        retry_after_s=reject.retry_after_s,
    )


_FAILURES = {
    "engine_crashed": "replica_lost",
    "replica_closed": "replica_lost",
    "aborted": "replica_lost",
}


def from_failure(failure: Failure) -> RequestError:
    """A stream's failure, for the client."""
    hint = "send the request again" if failure.retryable else ""
    reason = _FAILURES.get(failure.code, failure.code)
    return RequestError(failure.message, hint=hint, reason=reason)


def internal_error() -> RequestError:
    """What a client hears of a bug of ours: nothing but that it is ours."""
    return RequestError(
        "the gateway could not answer; the log has the cause under this request id",
        reason="internal_error",
    )
