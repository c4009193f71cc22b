"""DOOR to Ray: connecting, the list of nodes, and one agent per node. Fills `ports.Cluster`.

Everything here has a deadline; blocking Ray calls run in a thread so that the caller's loop goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.agent_token import agent_token
from actors.names import AGENT_PREFIX, NAMESPACE
from actors.ray_node import NodeAgent

from .errors import ControlError

CALL_TIMEOUT_S = 10.0

T = TypeVar("T")


async def with_deadline(call: Callable[[], T], what: str, timeout_s: float = CALL_TIMEOUT_S) -> T:
    """Runs a blocking Ray call in a daemon thread of its own.

    A thread pool will not do: a Ray call that never returns would occupy a worker for ever.

    Raises:
        ControlError: when it does not return in time.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    threading.Thread(target=_call_into, args=(call, loop, done), daemon=True, name=what).start()
    try:
        return await asyncio.wait_for(done, timeout_s)
    except TimeoutError as error:
        raise ControlError(f"Ray did not answer within {timeout_s:.0f} s: {what}") from error


def _call_into(
    call: Callable[[], T], loop: asyncio.AbstractEventLoop, done: asyncio.Future[T]
) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - carried to the awaiting task, whatever it is
        _settle(loop, lambda failure=error: done.cancelled() or done.set_exception(failure))
    else:
        _settle(loop, lambda: done.cancelled() or done.set_result(result))


def _settle(loop: asyncio.AbstractEventLoop, settle: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)


def connect(address: str) -> None:
    """Connects this process to a running cluster, never starts one.

    Raises:
        ControlError: when there is none at that address.
    """
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ControlError(
            f"no Ray cluster answers at {address}: {error}",
            hint="shardyard node start --head    or    shardyard up SPEC",
            address=address,
        ) from error


def living_nodes() -> list[dict[str, Any]]:
    """Ray's rows of the nodes that live."""
    return [row for row in ray.nodes() if row["Alive"]]


class RayCluster:
    """The nodes of the cluster that this process is connected to.

    Args:
        agent_secret: from which each agent's token is made.
    """

    def __init__(self, agent_secret: str = "") -> None:
        self._agent_secret = agent_secret

    async def incarnations(self) -> frozenset[str]:
        """Ray's ids of the living nodes."""
        rows = await with_deadline(living_nodes, "list of nodes")
        return frozenset(row["NodeID"] for row in rows)

    async def start_agent(self, incarnation: str) -> None:
        """Starts the agent of a node, pinned to it; one that runs already is kept."""
        token = agent_token(self._agent_secret, incarnation)
        await with_deadline(
            lambda: _start_agent(incarnation, token), f"agent on {incarnation[:12]}"
        )

    async def agent_call(self, incarnation: str, method: str, *args: object) -> Any:
        """Calls a method of a node's agent."""

        def call() -> Any:
            agent = ray.get_actor(AGENT_PREFIX + incarnation[:12], namespace=NAMESPACE)
            return ray.get(getattr(agent, method).remote(*args), timeout=CALL_TIMEOUT_S)

        return await with_deadline(call, f"{method} on {incarnation[:12]}")


def _start_agent(incarnation: str, token: str) -> None:
    NodeAgent.options(
        name=AGENT_PREFIX + incarnation[:12],
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=4,
        scheduling_strategy=NodeAffinitySchedulingStrategy(incarnation, soft=False),
    ).remote(incarnation, token)
