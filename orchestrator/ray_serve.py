"""DOOR to Ray Serve: one application per slot, one per gateway. Fills `ports.Deployments`.

Serve supervises processes and pins them to devices; it routes nothing. Its proxies stay off unless plain Serve HTTP
is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.schema import LoggingConfig

from actors.names import DEPLOYMENT, GATEWAY_PREFIX
from actors.ray_replica import ReplicaHost, ReplicaJoin
from actors.slot import SlotSpec

from .errors import ControlError
from .gateway.ray_ingress import GatewayHost, GatewayJoin, IngressHost
from .ray_cluster import with_deadline

HEALTH_PERIOD_S = 0.25
HEALTH_TIMEOUT_S = 5.0
DRAIN_S = 30.0
"""How long a replica that is removed may finish its running streams."""

PROXY_TIMEOUT_S = 10.0

FAILED = ("DEPLOY_FAILED",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeDeployments:
    """The slots of this cluster's Serve."""

    join: ReplicaJoin

    async def start(self, specs: Sequence[SlotSpec]) -> None:
        """Hands slots over in one call."""
        targets = [self._target(spec) for spec in specs]
        await with_deadline(lambda: _run(targets), "starting slots", 30.0)

    async def stop(self, slots: Sequence[str]) -> None:
        """Removes slots without waiting for their streams."""
        for slot in slots:
            await with_deadline(
                lambda name=slot: serve.delete(name, _blocking=False), f"stopping {slot}"
            )

    async def observe(self) -> tuple[tuple[str, str], ...]:
        """Every slot application and, where it failed for good, why."""
        rows = await with_deadline(_statuses, "status of Serve")
        return tuple(sorted((row.name, _failure(row)) for row in rows if "/" in row.name))

    def _target(self, spec: SlotSpec) -> serve.RunTarget:
        replica: Any = serve.deployment(ReplicaHost)
        deployment = replica.options(
            name=DEPLOYMENT,
            num_replicas=1,
            health_check_period_s=HEALTH_PERIOD_S,
            health_check_timeout_s=HEALTH_TIMEOUT_S,
            graceful_shutdown_timeout_s=DRAIN_S,
            graceful_shutdown_wait_loop_s=0.1,
            logging_config=LoggingConfig(enable_access_log=False),
            **_pinning(spec),
        )
        # An identical call must not restart the replica: without a version Serve takes every call for new code.
        deployment._version = spec.fingerprint
        return serve.RunTarget(
            target=deployment.bind(spec, self.join), name=spec.id, route_prefix=None
        )


def _pinning(spec: SlotSpec) -> dict[str, Any]:
    """Exclusive device resources are both the pin and the lock."""
    if len(spec.claims) == 1:
        return {"ray_actor_options": {"num_cpus": 0, "resources": dict(spec.claims[0])}}
    return {
        "ray_actor_options": {"num_cpus": 0},
        "placement_group_bundles": [dict(claims) for claims in spec.claims],
        "placement_group_strategy": "PACK",
    }


def _run(targets: list[serve.RunTarget]) -> None:
    serve.run_many(
        targets,
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def _statuses() -> list[Any]:
    """Serve's overview of every application; empty while Serve is not there.

    Private in Ray 2.60: the public `serve.status` builds the schema of every deployment each time, which is most of what
    an idle controller would do.
    """
    client = _get_global_client(raise_if_no_controller_running=False)
    return client.list_serve_statuses() if client is not None else []


def _failure(row: Any) -> str:
    if row.app_status.status not in FAILED:
        return ""
    messages = [d.message for d in row.deployment_statuses if d.message]
    lines = (messages or [row.app_status.message or "Serve gave no reason"])[0].strip().splitlines()
    return lines[-1] if lines else "Serve gave no reason"


def start_serve(*, http_port: int | None = None) -> None:
    """Starts Serve on the cluster, with its proxies off unless a port is given for plain Serve HTTP."""
    if http_port is None:
        serve.start(proxy_location="Disabled")
    else:
        serve.start(
            proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": http_port}
        )


def require_proxy(port: int) -> None:
    """Checks that plain Serve HTTP will answer on a port: a Serve that runs already keeps the proxies that it has.

    Raises:
        ControlError: it has none, or they listen on another port.
    """
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return
    options = client.http_config
    # Private in Ray 2.60; the options themselves do not say where proxies run.
    location = ray.get(client._controller.get_proxy_location.remote(), timeout=PROXY_TIMEOUT_S)
    if location == ProxyLocation.Disabled:
        raise ControlError(
            "Serve runs on this cluster already, without HTTP proxies, which cannot be added",
            hint="leave out `ingress: serve` in the spec, or start Serve's proxies first",
        )
    if options.port != port:
        raise ControlError(
            f"Serve runs on this cluster already, with its proxies on port {options.port}",
            hint=f"--port {options.port}",
            port=options.port,
        )


def start_gateways(join: GatewayJoin, count: int) -> None:
    """Starts the gateways on the head: `count` with servers of their own on one port, or one behind Serve's proxy."""
    if join.ingress == "serve":
        _run([_gateway(IngressHost, join, 0, route_prefix="/")])
    else:
        _run([_gateway(GatewayHost, join, index, route_prefix=None) for index in range(count)])


def _gateway(
    host: type, join: GatewayJoin, index: int, *, route_prefix: str | None
) -> serve.RunTarget:
    gateway: Any = serve.deployment(host)
    deployment = gateway.options(
        name="gateway",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=DRAIN_S,
        graceful_shutdown_wait_loop_s=0.1,
        max_ongoing_requests=10_000,
        logging_config=LoggingConfig(enable_access_log=False),
    )
    deployment._version = f"{join.host}:{join.port}/{index}"
    name = f"{GATEWAY_PREFIX}{index}"
    return serve.RunTarget(target=deployment.bind(join), name=name, route_prefix=route_prefix)


def stop_all() -> None:
    """Removes every application of ours; Serve itself stays, others may use it."""
    for name in list(serve.status().applications):
        if "/" in name or name.startswith(GATEWAY_PREFIX):
            serve.delete(name, _blocking=False)
