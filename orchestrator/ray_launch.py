"""DOOR to Ray: a short-lived process that starts or removes our controller on a running cluster.

`python -m orchestrator.ray_launch` reads one JSON object from standard input and answers with one on standard output.
The command line runs it as a child, so that it never is a Ray client itself.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import ray
from pydantic import BaseModel, ConfigDict

from actors.names import AGENT_PREFIX, CONTROLLER, NAMESPACE
from actors.ray_node import retract_resources
from actors.ray_replica import ReplicaJoin
from placement.errors import ShardyardError

from .errors import ControlError
from .gateway.ray_ingress import GatewayJoin
from .ray_cluster import connect
from .ray_controller import ControllerConfig, ControllerHost, controller_options
from .ray_serve import require_proxy, stop_all

START_TIMEOUT_S = 90.0


class LaunchRequest(BaseModel):
    """What the owner asks for. `data_host` is where replicas listen; empty = the address of their node."""

    model_config = ConfigDict(strict=True, extra="forbid")

    action: Literal["start", "stop"]
    address: str
    state_dir: str = ""
    token: str = ""
    secret: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    gateways: int = 2
    cors_origins: list[str] = []
    ingress: Literal["own", "serve"] = "own"
    data_host: str = ""
    facts: dict[str, Any] = {}


def start(request: LaunchRequest) -> dict[str, Any]:
    """Starts the controller, or finds it; answers with the address of its API."""
    if request.ingress == "serve":
        require_proxy(request.port)
    config = ControllerConfig(
        state_dir=request.state_dir,
        token=request.token,
        replicas=ReplicaJoin(secret=request.secret, host=request.data_host),
        gateway=GatewayJoin(
            secret=request.secret,
            host=request.host,
            port=request.port,
            cors_origins=tuple(request.cors_origins),
            ingress=request.ingress,
        ),
        gateways=request.gateways,
        facts=request.facts,
    )
    controller = ControllerHost.options(**controller_options()).remote(config)
    url = ray.get(controller.start.remote(), timeout=START_TIMEOUT_S)
    return {"url": url}


def stop(_request: LaunchRequest) -> dict[str, Any]:
    """Removes what is ours from a cluster that goes on living: applications, controller, agents, resources."""
    stop_all()
    names = [
        row["name"]
        for row in ray.util.list_named_actors(all_namespaces=True)
        if row["namespace"] == NAMESPACE
    ]
    for name in sorted(names, key=lambda n: n != CONTROLLER):
        if name == CONTROLLER or name.startswith(AGENT_PREFIX):
            ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
    retract_resources()
    return {"removed": names}


def main() -> int:
    """Reads the request, answers, and always leaves the cluster."""
    try:
        request = LaunchRequest.model_validate_json(sys.stdin.read())
        connect(request.address)
        answer = {"start": start, "stop": stop}[request.action](request)
    except ShardyardError as error:
        answer = {"error": error.as_dict()}
    except (ray.exceptions.RayError, TimeoutError) as error:
        cause = ControlError(
            f"the controller did not start: {type(error).__name__}: {error}",
            hint="shardyard logs controller",
        )
        answer = {"error": cause.as_dict()}
    finally:
        ray.shutdown()
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    raise SystemExit(main())
