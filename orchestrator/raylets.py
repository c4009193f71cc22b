"""Command lines and environment of the Ray processes that we start. Pure: it runs nothing and imports no Ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from actors.logs import LOGS_ENV
from actors.names import (
    EMULATE_ENV,
    NODE_ENV,
    NODE_LABEL,
    PROBES_ENV,
    RACK_ENV,
    RACK_LABEL,
    RECORDING_ENV,
    RUN_ENV,
    STAND_IN_ENV,
)
from actors.stand_in import StandIn, with_paths
from actors.vendors import families

OBJECT_STORE_BYTES = 100 * 1024**2
"""Tokens never pass through Ray's object store; it only carries small arguments."""

INHERITED_RAY_VARIABLES = ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_JOB_ID")
"""Would make `ray start` or a connection go to somebody else's cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySettings:
    """What all Ray processes of one run share.

    Attributes:
        run_id: mark by which every process of the run can be found again.
        temp_dir: Ray's session folder; short, as socket paths below it may have 107 characters only.
        token_path: file with Ray's token, made by us; None = as the operator's RAY_AUTH_* variables say, who hands
            the token to all machines of a cluster himself (without them: no authentication).
    """

    run_id: str
    temp_dir: Path
    token_path: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What one node is started with.

    Attributes:
        name: our stable name; empty = derived from the machine.
        emulate: description of an emulated node as JSON; empty = the real machine.
        recording: folder of a recorded machine that the node replays.
        probes: names of the probes that look at it, joined by commas; empty = all.
        stand_in: what makes vendors' own software believe in devices; None = nothing does.
    """

    name: str = ""
    rack: str = ""
    emulate: str = ""
    recording: str = ""
    probes: str = ""
    stand_in: StandIn | None = None


def how(node: NodeSettings) -> str:
    """What a lab's node is, for people.

    >>> how(NodeSettings(name="n", emulate="{}"))
    'declared'
    """
    if node.stand_in is not None:
        return "below its vendor's library"
    return "recorded" if node.recording else "declared"


def ray_environment(
    base: Mapping[str, str], shared: RaySettings, node: NodeSettings
) -> dict[str, str]:
    """The environment of a node's Ray processes; its workers inherit it.

    A dead raylet is noticed after about 3 s instead of 12 s, and a head that is away for minutes does not end its
    nodes.
    """
    env = {k: v for k, v in base.items() if k not in INHERITED_RAY_VARIABLES}
    itself = not node.emulate and node.stand_in is None
    env.update(
        {
            RUN_ENV: shared.run_id,
            LOGS_ENV: str(shared.temp_dir / "shardyard-logs"),
            NODE_ENV: node.name,
            RACK_ENV: node.rack,
            EMULATE_ENV: node.emulate,
            RECORDING_ENV: node.recording or (base.get(RECORDING_ENV, "") if itself else ""),
            PROBES_ENV: node.probes or (base.get(PROBES_ENV, "") if itself else ""),
            STAND_IN_ENV: "1" if node.stand_in is not None else "",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_initial_delay_ms": "2000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "RAY_SERVE_LOG_TO_STDERR": "0",
            **{family.ray.noset: "1" for family in families().values() if family.ray is not None},
        }
    )
    # Ray 2.60 switches authentication on by itself when it finds a token in the home folder.
    env.setdefault("RAY_AUTH_MODE", "disabled")
    if shared.token_path is not None:
        env["RAY_AUTH_MODE"] = "token"
        env["RAY_AUTH_TOKEN_PATH"] = str(shared.token_path)
        env.pop("RAY_AUTH_TOKEN", None)
    return with_paths(env, node.stand_in.environment) if node.stand_in is not None else env


def ray_tools(address: str, token_path: Path | None) -> str:
    """What a person types for Ray's own tools; only a token of ours has to be named.

    >>> ray_tools("127.0.0.1:6379", None)
    'ray status --address 127.0.0.1:6379'
    """
    auth = f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token_path} " if token_path else ""
    return f"{auth}ray status --address {address}"


def head_command(
    shared: RaySettings,
    node: NodeSettings,
    *,
    host: str,
    port: int,
    dashboard_port: int,
    agent_port: int,
    client_port: int,
) -> list[str]:
    """`ray start` of the head; it stays in the foreground of its own process."""
    return [
        *_ray(node),
        "start",
        "--block",
        "--head",
        f"--port={port}",
        f"--node-ip-address={host}",
        f"--temp-dir={shared.temp_dir}",
        "--include-dashboard=true",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard_port}",
        f"--ray-client-server-port={client_port}",
        *_node_options(node, agent_port),
    ]


def worker_command(
    node: NodeSettings, *, address: str, agent_port: int, host: str = ""
) -> list[str]:
    """`ray start` of a node that joins the cluster at `address`."""
    return [
        *_ray(node),
        "start",
        "--block",
        f"--address={address}",
        *([f"--node-ip-address={host}"] if host else []),
        *_node_options(node, agent_port),
    ]


def _ray(node: NodeSettings) -> list[str]:
    """`ray`, started by a process that meets the node's devices and labels it with them."""
    prefix = node.stand_in.prefix if node.stand_in is not None else ()
    labelled = [sys.executable, "-P", "-m", "orchestrator.labelled_start", "--"]
    return [*prefix, *labelled, sys.executable, "-m", "ray.scripts.scripts"]


def _node_options(node: NodeSettings, agent_port: int) -> list[str]:
    labels = {NODE_LABEL: node.name, RACK_LABEL: node.rack}
    given = ",".join(f"{key}={value}" for key, value in labels.items() if value)
    named = {f.ray.resource for f in families().values() if f.ray is not None}
    guessed = dict.fromkeys(sorted(named - {"GPU"}), 0)
    return [
        # Which accelerators exist is our agent's word, not Ray's guess.
        "--num-gpus=0",
        f"--resources={json.dumps(guessed)}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--dashboard-agent-listen-port={agent_port}",
        "--disable-usage-stats",
        *([f"--labels={given}"] if given else []),
    ]
