"""Settings of a process: flag > environment > default. The only reader of `SHARDYARD_*`.

Decides names, types and defaults. It must not know what a setting is used for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from placement.errors import SpecError

PREFIX = "SHARDYARD_"
INTERNAL = frozenset(
    {"NODE", "RACK", "EMULATE", "RUN", "LOGS", "ROLE", "PROBES", "RECORDING", "STAND_IN"}
)
"""Marks that our own processes hand to their children; seldom set by hand."""
PROBED = frozenset(
    {"REMOTE", "NVML", "STANDIN_NVML", "INTEL_IGPU", "FURIOSA_PES", "ENVS", "ENGINES"}
)
"""What probes, stand-ins and engines' environments read; `PYTHON_<LIBRARY>` and `ENV_<NAME>` besides."""


class Settings(BaseModel):
    """All settings. Each one is `SHARDYARD_<NAME>` in the environment.

    Attributes:
        state: folder of the state of clusters that this user started: journal, secrets, process records, logs.
        host: address that the OpenAI endpoint listens on; None = the spec or the default decides.
        port: port of the OpenAI endpoint; None = likewise.
        gateways: gateway processes that share the port; None = likewise.
        timeout_s: longest wait for one answer of the controller.
        api_key: sent as bearer token by `shardyard run`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Path = Field(default_factory=lambda: _state_home() / "shardyard")
    host: Annotated[str, Field(min_length=1)] | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    gateways: Annotated[int, Field(ge=1, le=64)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    api_key: str = Field(default="", repr=False)

    @property
    def control_file(self) -> Path:
        """Address and token of the control API, written by the controller."""
        return self.state / "control.json"


def load_settings(environ: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """The settings of this process; a flag that is None was not given.

    Raises:
        SpecError: a variable or flag has an impossible value.
    """
    env = os.environ if environ is None else environ
    given = {name: env[variable(name)] for name in Settings.model_fields if env.get(variable(name))}
    given |= {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = str(found["loc"][0])
        who = f"--{name.replace('_', '-')}" if flags.get(name) is not None else variable(name)
        says = found["msg"].removeprefix("Input ")
        raise SpecError(
            f"{who}: {says}, not {str(found['input'])[:60]}",
            hint=f"change {who}, or leave it out",
        ) from None
    return settings.model_copy(update={"state": settings.state.expanduser().absolute()})


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """`SHARDYARD_*` variables that nothing reads, sorted."""
    env = os.environ if environ is None else environ
    known = {variable(name) for name in Settings.model_fields}
    known |= {PREFIX + name for name in INTERNAL | PROBED}
    ours = (name for name in env if name.startswith(PREFIX))
    named = (f"{PREFIX}PYTHON_", f"{PREFIX}ENV_")
    return sorted(name for name in ours if name not in known and not name.startswith(named))


def _state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
