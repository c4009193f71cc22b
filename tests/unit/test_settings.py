"""Flag > environment > default, and impossible values name their variable or flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.settings import load_settings, unknown_variables
from placement.errors import SpecError


def test_without_anything_the_defaults_hold() -> None:
    settings = load_settings({})
    assert (settings.host, settings.port, settings.gateways) == (None, None, None)
    assert settings.state.parts[-1] == "shardyard"
    assert settings.state.is_absolute()


def test_the_environment_beats_the_default_and_a_flag_beats_both(tmp_path: Path) -> None:
    env = {"SHARDYARD_PORT": "9001", "SHARDYARD_STATE": str(tmp_path), "SHARDYARD_HOST": ""}
    assert load_settings(env).port == 9001
    assert load_settings(env, port=9002, host=None).port == 9002
    assert load_settings(env).state == tmp_path
    assert load_settings(env).host is None
    assert load_settings(env).control_file == tmp_path / "control.json"


@pytest.mark.parametrize(
    ("env", "flags", "says"),
    [
        ({"SHARDYARD_PORT": "http"}, {}, "SHARDYARD_PORT: should be a valid integer"),
        ({"SHARDYARD_PORT": "70000"}, {}, "SHARDYARD_PORT: should be less than or equal to 65535"),
        ({}, {"port": 0}, "--port: should be greater than or equal to 1, not 0"),
        ({"SHARDYARD_GATEWAYS": "0"}, {}, "SHARDYARD_GATEWAYS"),
        ({"SHARDYARD_TIMEOUT_S": "-1"}, {}, "SHARDYARD_TIMEOUT_S"),
    ],
)
def test_an_impossible_value_is_named(
    env: dict[str, str], flags: dict[str, int], says: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load_settings(env, **flags)
    assert says in caught.value.message
    assert caught.value.hint


def test_a_key_is_never_shown() -> None:
    assert "secret" not in repr(load_settings({"SHARDYARD_API_KEY": "secret"}))


def test_variables_that_nothing_reads_are_found() -> None:
    env = {"SHARDYARD_PROT": "1", "SHARDYARD_PORT": "1", "SHARDYARD_RUN": "x", "HOME": "/"}
    assert unknown_variables(env) == ["SHARDYARD_PROT"]


def test_what_probes_and_stand_ins_read_is_known():
    names = ("REMOTE", "RECORDING", "STAND_IN", "PROBES", "FURIOSA_PES", "PYTHON_RBLN_DAEMON")
    assert unknown_variables({f"SHARDYARD_{name}": "1" for name in names}) == []
