"""Who starts and ends what: `up` and `down`. Knows processes and files, no Ray.

Everything started is recorded under the state folder before anybody waits for it; `down` and Ctrl-C undo exactly what
is recorded, and what a killed owner left is reaped at the next start.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .client import Client
from .deploying import deploy, wait_for_gateway, wait_for_nodes
from .emulation import at_level, settings_of
from .endings import TERM_S, Say, end, ends_here, ends_if_refused, signals, stays
from .errors import ControlError
from .lab_file import Lab, load_lab
from .launcher import Launcher
from .node_entries import Level
from .processes import abandoned, alive, reap
from .raylet_processes import OwnedRay, new_run
from .raylets import NodeSettings, how, ray_tools
from .settings import Settings
from .sockets import require_answer, require_free
from .spec import GatewaySpec, Spec, parse_spec, read_spec, spec_name
from .state_dir import RunMode, RunRecord, StateDir

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8000
DEFAULT_GATEWAYS = 2
WATCH_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpRequest:
    """What `up` was asked for.

    Attributes:
        spec: path of the spec, `-` for standard input; None = the lab's, or none yet.
        foreground: stay until Ctrl-C and end everything then.
        join: address of a running Ray cluster, which is never ended by us; None = start a private one.
        lab: path of a lab file; None = this machine is the only node.
        level: how deep the nodes of the lab pretend; None = as each says.
    """

    spec: Path | None = None
    foreground: bool = False
    join: str | None = None
    lab: Path | None = None
    level: Level | None = None

    @property
    def mode(self) -> RunMode:
        """How the run is recorded: who outlives whom."""
        if self.join is not None:
            return "joined"
        if self.foreground:
            return "lab" if self.lab is not None else "foreground"
        return "detached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where and how the gateways listen."""

    host: str
    port: int
    gateways: int
    cors_origins: tuple[str, ...]
    ingress: Literal["own", "serve"]

    @property
    def url(self) -> str:
        """Base address that OpenAI clients take."""
        host = LOOPBACK if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - only compared
        return f"http://{host}:{self.port}/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The files of a request, read and checked before anything is started."""

    request: UpRequest
    spec: Spec | None
    yaml: str
    lab: Lab | None
    endpoint: Endpoint


def read_request(request: UpRequest, settings: Settings) -> Asked:
    """Reads spec and lab.

    Raises:
        SpecError: with file and line.
    """
    lab = at_level(load_lab(request.lab), request.level) if request.lab is not None else None
    path = request.spec or (lab.spec if lab is not None else None)
    yaml = read_spec(path) if path is not None else ""
    spec = parse_spec(yaml, spec_name(path)) if path is not None else None
    endpoint = _endpoint(settings, spec)
    return Asked(request=request, spec=spec, yaml=yaml, lab=lab, endpoint=endpoint)


def _endpoint(settings: Settings, spec: Spec | None) -> Endpoint:
    """Flag and environment, which `settings` holds, before the spec, before the default."""
    asked = spec.gateway if spec is not None else GatewaySpec()
    return Endpoint(
        host=settings.host or asked.host or LOOPBACK,
        port=settings.port or asked.port or DEFAULT_PORT,
        gateways=settings.gateways or asked.count or DEFAULT_GATEWAYS,
        cors_origins=asked.cors_origins,
        ingress=asked.ingress,
    )


def up(request: UpRequest, settings: Settings, say: Say) -> Endpoint:
    """Brings a cluster up and serves the spec; with `foreground` it returns after Ctrl-C, with nothing left.

    A second `up` beside a running cluster applies the spec to it.

    Raises:
        SpecError, ControlError: with what to type next. What was started until then has been ended.
    """
    asked = read_request(request, settings)
    state = StateDir(settings.state)
    stop = threading.Event()
    with signals(stop):
        before = _started_before(state, request, say)
        run = before or _start(asked, state, say)
        ends = ends_here if request.foreground else ends_if_refused if before is None else stays
        with ends(run, state, settings, say):
            _serve(asked, settings, say)
            if request.foreground:
                _watch(run, stop)
    return asked.endpoint


def down(settings: Settings, say: Say, *, term_s: float = TERM_S) -> bool:
    """Ends exactly what is recorded; False when nothing was."""
    state = StateDir(settings.state)
    with state.lock():
        run = state.read_run()
        if run is None:
            return False
        end(run, state, settings, term_s)
    say("ended: no process, port or temporary folder is left")
    return True


def greeting(asked: Asked) -> str:
    """What to type now."""
    if asked.spec is None or not asked.spec.app.demands:
        return f"ready at {asked.endpoint.url}; nothing is deployed yet: shardyard apply SPEC"
    body = json.dumps(
        {
            "model": asked.spec.app.demands[0].id,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "stream": True,
        }
    )
    return (
        f"ready at {asked.endpoint.url}; try:\n\n"
        f"  curl -N {asked.endpoint.url}/chat/completions -H 'content-type: application/json' \\\n"
        f"    -d '{body}'\n"
    )


def _started_before(state: StateDir, request: UpRequest, say: Say) -> RunRecord | None:
    """The run that is up already, after what a killed owner left has been cleaned up."""
    with state.lock():
        run = state.read_run()
        if run is not None and abandoned(run):
            reaped = reap(state)
            count = len(reaped.processes) if reaped is not None else 0
            say(f"cleaned up after a run whose owner was killed ({count} processes)")
            run = None
    if run is None:
        return None
    if request.foreground or request.lab is not None or request.join is not None:
        raise ControlError(
            f"a cluster of yours is running already ({run.mode}, Ray at {run.address})",
            hint="shardyard apply SPEC    or    shardyard down    or another SHARDYARD_STATE",
            address=run.address,
        )
    say("a cluster is running already: the spec is applied to it")
    return run


def _start(asked: Asked, state: StateDir, say: Say) -> RunRecord:
    request, endpoint = asked.request, asked.endpoint
    if request.join is not None:
        require_answer(request.join)
    with state.lock():
        if request.join is None or endpoint.ingress == "own":
            require_free(endpoint.host, endpoint.port)
        if endpoint.host not in (LOOPBACK, "localhost", "::1"):
            say(f"warning: {endpoint.host}:{endpoint.port} is open to others and asks for no key")
        ray = new_run(
            state,
            request.mode,
            environ=os.environ,
            authenticated=request.join is None,
            die_with_parent=request.foreground,
        )
        env = os.environ if request.join is not None else ray.environment()
        try:
            with Launcher(env=env, folder=state.path) as launcher:
                _start_ray(ray, asked, say)
                _start_controller(launcher, ray, asked, say)
        except BaseException:
            reap(state, force=True)
            raise
    return ray.run


def _start_ray(ray: OwnedRay, asked: Asked, say: Say) -> None:
    """The head, then a lab's nodes one after the other: raylets that start at once slow each other down."""
    began = time.monotonic()
    if asked.request.join is not None:
        ray.joins(asked.request.join)
        return
    # A node that cannot be emulated here is told before anything is started.
    folder, lab = ray.shared.temp_dir, asked.lab
    emulated = [settings_of(n, lab.inventory, folder) for n in lab.nodes] if lab else []
    head = NodeSettings(name="lab-head", emulate="{}") if lab else NodeSettings()
    ray.start_head(head, host=LOOPBACK)
    say(f"Ray is up at {ray.run.address} ({time.monotonic() - began:.1f} s)")
    for settings in emulated:
        ray.start_worker(settings, address=ray.run.address)
        seconds = time.monotonic() - began
        say(f"emulated node {settings.name} joined, {how(settings)} ({seconds:.1f} s)")


def _start_controller(launcher: Launcher, ray: OwnedRay, asked: Asked, say: Say) -> None:
    began = time.monotonic()
    endpoint, secrets, joined = asked.endpoint, ray.state.secrets(), asked.request.join is not None
    launcher.ask(
        {
            "action": "start",
            "address": ray.run.address,
            "state_dir": str(ray.state.path),
            "token": secrets.control_token,
            "secret": secrets.frame_secret,
            "host": endpoint.host,
            "port": endpoint.port,
            "gateways": endpoint.gateways,
            "cors_origins": list(endpoint.cors_origins),
            "ingress": endpoint.ingress,
            "data_host": "" if joined else LOOPBACK,
            "facts": {
                "endpoint": endpoint.url,
                "ray_address": ray.run.address,
                "ray_tools": ray_tools(ray.run.address, ray.shared.token_path),
                "mode": ray.run.mode,
            },
        }
    )
    say(f"controller and gateways started ({time.monotonic() - began:.1f} s)")


def _serve(asked: Asked, settings: Settings, say: Say) -> None:
    with Client.of(settings.control_file, timeout_s=settings.timeout_s) as client:
        nodes = asked.lab.nodes if asked.lab is not None else ()
        wait_for_nodes(client, len(nodes) + 1, say, devices=sum(len(n.devices) for n in nodes))
        if asked.spec is not None:
            deploy(client, asked.spec, asked.yaml, say)
        wait_for_gateway(str(client.status()["endpoint"]))
    say(greeting(asked))


def _watch(run: RunRecord, stop: threading.Event) -> None:
    """Returns on a signal.

    Raises:
        ControlError: Ray's own processes ended by themselves.
    """
    with suppress(KeyboardInterrupt):
        while not stop.wait(WATCH_PERIOD_S):
            _require_alive(run)


def _require_alive(run: RunRecord) -> None:
    ended = [record.role for record in run.processes if not alive(record)]
    if ended:
        raise ControlError(
            f"{', '.join(ended)} ended by itself", hint="read the logs below SHARDYARD_STATE"
        )
