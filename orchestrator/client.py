"""The Python side of two HTTP interfaces: the controller's API, and the OpenAI endpoint for `shardyard run`.

Decides deadlines and turns answers that are errors into our exceptions. It must not know Ray, nor how anything is
shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from actors.errors import DeviceError, EngineError, ModelError
from placement.codec import decode, encode
from placement.demand import App
from placement.errors import PlacementError, ShardyardError, SpecError
from placement.inventory import Inventory

from .errors import ControlError, RequestError, TimedOut, Unreachable

CONNECT_S = 3.0
TOKEN_S = 120.0
"""Longest silence of a text stream: a long prompt on a slow CPU."""

_FAMILIES: Mapping[str, type[ShardyardError]] = {
    "spec": SpecError,
    "placement": PlacementError,
    "device": DeviceError,
    "model": ModelError,
    "engine": EngineError,
}

_START_HINT = "shardyard up SPEC"


class ControlAddress(BaseModel):
    """What `control.json` holds."""

    model_config = ConfigDict(strict=True)

    url: str
    token: str


def read_address(path: Path) -> ControlAddress:
    """Where the controller of this user's cluster answers.

    Raises:
        Unreachable: no cluster was started from here, or the file is broken.
    """
    try:
        return ControlAddress.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        says = "no cluster is running (as far as this state folder knows)"
        raise Unreachable(says, hint=_START_HINT, file=str(path)) from None
    except (OSError, ValidationError) as error:
        kind = type(error).__name__
        says = f"{path} cannot be read ({kind})"
        raise Unreachable(says, hint="shardyard doctor", file=str(path)) from None


class Client:
    """Speaks to one controller. Every call has a deadline and raises a ShardyardError when it fails."""

    def __init__(self, url: str, token: str, *, timeout_s: float = 60.0) -> None:
        # Loopback never goes through a proxy that the environment names.
        self._http = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
            trust_env=False,
        )

    @classmethod
    def of(cls, control_file: Path, *, timeout_s: float = 60.0) -> Self:
        """A client of the controller that `control.json` names. Raises as `read_address` does."""
        address = read_address(control_file)
        return cls(address.url, address.token, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def status(self) -> dict[str, Any]:
        """The cluster at a glance: endpoint, generation, nodes, models, problems."""
        return self._json("GET", "/v1/status")

    def inventory(self) -> tuple[Inventory, list[dict[str, str]]]:
        """What the planner sees, and what probes and nodes complain about."""
        body = self.inventory_document()
        return decode(Inventory, json.dumps(body["inventory"]).encode()), body["problems"]

    def inventory_document(self) -> dict[str, Any]:
        """The same as JSON, with what is known of each device (`facts`), what it does now (`readings`, by device id) and
        how they are joined (`bonds`).
        """
        return self._json("GET", "/v1/inventory")

    def spec(self) -> str:
        """The desired state as YAML; empty when nothing is deployed."""
        return str(self._json("GET", "/v1/spec")["yaml"])

    def plan(self) -> dict[str, Any] | None:
        """The plan in force as a document, or None."""
        return self._json("GET", "/v1/plan")

    def dry_run(self, app: App) -> dict[str, Any]:
        """Plans without changing anything: `document` and `diff`."""
        return self._json("POST", "/v1/plan", {"app": _app_json(app)})

    def apply(self, app: App, yaml: str) -> dict[str, Any]:
        """Makes an app the desired state: `document`, `diff` and `accepted`."""
        return self._json("POST", "/v1/apply", {"app": _app_json(app), "yaml": yaml})

    def scale(self, model: str, replicas: int) -> dict[str, Any]:
        """Changes the number of replicas of one model; answers as `apply` does."""
        return self._json("POST", "/v1/scale", {"model": model, "replicas": replicas})

    def replicas(self) -> list[dict[str, Any]]:
        """Every planned slot, with its replica if it has one."""
        return list(self._json("GET", "/v1/replicas")["replicas"])

    def explain(self, about: str = "") -> list[str]:
        """Why the plan is as it is: sentences about everything, one model or one slot."""
        return list(self._json("GET", "/v1/explain", query={"about": about})["sentences"])

    def logs(self, name: str, lines: int) -> str:
        """The last lines of the log of a slot or node."""
        query = {"name": name, "lines": str(lines)}
        return self._send("GET", "/v1/logs", None, query).text

    def _json(
        self, method: str, path: str, body: Any = None, query: dict[str, str] | None = None
    ) -> Any:
        response = self._send(method, path, body, query)
        try:
            return response.json()
        except ValueError:
            says = f"the controller answered {path} with something that is not JSON"
            raise ControlError(says, hint="shardyard doctor") from None

    def _send(
        self, method: str, path: str, body: Any, query: dict[str, str] | None
    ) -> httpx.Response:
        try:
            response = self._http.request(method, path, json=body, params=query)
        except httpx.TimeoutException as error:
            raise self._silent(path, error) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            says = f"no controller answers at {self._http.base_url} ({error})"
            raise Unreachable(says, hint=f"{_START_HINT}; or shardyard doctor") from None
        if response.is_error:
            raise _error_of(response)
        return response

    def _silent(self, path: str, error: httpx.TimeoutException) -> ControlError:
        if isinstance(error, httpx.ConnectTimeout):
            says = f"no controller answers at {self._http.base_url}"
            return Unreachable(says, hint=f"{_START_HINT}; or shardyard doctor")
        waited = self._http.timeout.read
        says = f"the controller did not answer {path} within {waited:g} s"
        return TimedOut(says, hint="shardyard status; longer with --timeout or SHARDYARD_TIMEOUT_S")


def chat(
    endpoint: str,
    model: str,
    messages: Sequence[dict[str, str]],
    *,
    api_key: str = "",
    **options: Any,
) -> Iterator[str]:
    """Pieces of the answer to a conversation, as they come.

    Args:
        endpoint: base address of the OpenAI interface, ending in `/v1`.
        messages: `role` and `content` each.
        options: further fields of the request, e.g. `max_tokens`, `temperature`.

    Raises:
        RequestError: the endpoint refused, or the stream ended before its end.
        Unreachable: no gateway answers.
    """
    body = {"model": model, "messages": list(messages), "stream": True, **options}
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = httpx.Timeout(TOKEN_S, connect=CONNECT_S)
    url = f"{endpoint}/chat/completions"
    try:
        with (
            httpx.Client(timeout=timeout, trust_env=False) as http,
            http.stream("POST", url, json=body, headers=headers) as response,
        ):
            if response.is_error:
                response.read()
                raise _request_error(response)
            yield from _pieces(response.iter_lines())
    except httpx.ReadTimeout:
        says = f"{model} sent nothing for {TOKEN_S:g} s"
        raise TimedOut(says, hint="shardyard ps") from None
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise Unreachable(
            f"no gateway answers at {endpoint} ({error})", hint="shardyard status"
        ) from None


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        data = line.removeprefix("data: ")
        if data == line or not data:
            continue
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise _refusal(event["error"])
        for choice in event["choices"]:
            yield choice["delta"].get("content") or ""
    raise RequestError("the answer ended before its end", hint="shardyard ps")


def _app_json(app: App) -> Any:
    return json.loads(encode(app))


def _request_error(response: httpx.Response) -> RequestError:
    try:
        found = response.json()["error"]
        return _refusal(found)
    except (ValueError, KeyError, TypeError):
        return RequestError(
            f"the endpoint answered {response.status_code}", hint="shardyard status"
        )


def _refusal(found: dict[str, Any]) -> RequestError:
    reason = str(found.get("code") or "invalid_value")
    hint = "shardyard status" if reason == "model_not_found" else "shardyard ps"
    return RequestError(str(found["message"]), hint=hint, reason=reason)


def _error_of(response: httpx.Response) -> ShardyardError:
    """The controller's error as one of ours; `as_dict` gives the code that it had there."""
    try:
        found = dict(response.json())
        code, message = str(found["code"]), str(found.pop("message"))
    except (ValueError, KeyError, TypeError):
        says = f"the controller answered {response.status_code}"
        return ControlError(says, hint="shardyard logs controller")
    hint = str(found.pop("hint", ""))
    return _FAMILIES.get(code.partition(".")[0], ControlError)(message, hint=hint, **found)
