"""`shardyard env`: what is built, what stops a build, and that nothing half-built ever counts.

The interpreter is a script that answers like Python, venv and pip; tests/engines builds one for real.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from actors import environments
from actors.recipe import recipes
from orchestrator import environments as building
from orchestrator.cli import main
from orchestrator.doctor_environments import (
    check_environments,
    check_software,
    engines_said,
)
from orchestrator.environments import Order
from orchestrator.errors import InstallError

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) echo "${FAKE_VERSION:-3.11.7}";;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg";;
  "-m pip "*)
    echo "$* | $PIP_EXTRA_INDEX_URL | $TMPDIR" >> "$FAKE_LOG"
    echo "Installing collected packages: torch"
    case "$FAKE_PIP" in
      fail) echo "WARNING: skipped"; echo "Looking in indexes: http://x"; echo "ERROR: no match at http://me:secret@vendor/simple"; exit 1;;
      hang) echo $$ > "$FAKE_LOG.pid"; exec sleep 600;;
    esac;;
  "-P -c "*) if [ -n "$FAKE_TRIAL" ]; then echo "ImportError: $FAKE_TRIAL" >&2; exit 1; fi;;
esac
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith((environments.OWN_ENV, "PIP_", "FAKE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv(environments.ENVS_ENV, str(tmp_path / "envs"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "pip"))
    return tmp_path / "envs"


@pytest.fixture
def python(tmp_path: Path) -> str:
    script = tmp_path / "python3"
    script.write_text(PYTHON)
    script.chmod(0o755)
    return str(script)


def run(*argv: str) -> Result:
    return CliRunner().invoke(main, ["env", *argv])


def create(python: str, *argv: str, name: str = "torch") -> Result:
    return run("create", name, "--python", python, *argv)


def rows() -> dict[str, dict[str, Any]]:
    done = run("list", "-o", "json")
    assert done.exit_code == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)["environments"]}


def poll(path: Path, deadline_s: float = 20.0) -> str:
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if path.exists() and path.read_text().strip():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} did not come")


def gone(pid: int, deadline_s: float = 10.0) -> bool:
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.02)
    return False


def test_the_list_names_the_command_for_what_is_missing() -> None:
    assert set(rows()) == set(recipes())
    assert rows()["vllm"]["state"] == "missing"
    assert rows()["vllm"]["hint"] == "shardyard env create vllm"
    assert "shardyard env create vllm" in run("list").stdout


def test_a_built_environment_is_ready_and_is_not_built_twice(python: str, tmp_path: Path) -> None:
    done = create(python)
    assert done.exit_code == 0, done.stderr
    assert "torch: ready in" in done.stdout
    assert "step 1 of 1: install torch==" in done.stderr
    assert "Installing collected" in done.stderr
    row = rows()["torch"]
    assert (row["state"], row["flavour"], row["python"]) == ("ready", "default", "3.11.7")
    assert environments.interpreter("torch") is not None
    words = (tmp_path / "pip").read_text()
    assert "--no-input --disable-pip-version-check" in words
    assert not (Path(row["path"]) / "tmp").exists()

    again = create(python)
    assert again.exit_code == 2
    assert "is in" in again.stderr
    assert "--force" in again.stderr
    assert create(python, "--force").exit_code == 0


def test_an_unknown_name_or_flavour_suggests_the_nearest(python: str) -> None:
    done = create(python, name="vlm")
    assert (done.exit_code, "did you mean vllm?" in done.stderr) == (2, True)
    done = create(python, "--flavour", "cpuu", name="vllm")
    assert (done.exit_code, "did you mean cpu?" in done.stderr) == (2, True)
    for command in ("check", "remove"):
        assert "did you mean rbln?" in run(command, "rbl").stderr


def test_a_stand_in_is_announced_everywhere(python: str, home: Path) -> None:
    done = create(python, "--flavour", "stand-in", name="furiosa")
    assert done.exit_code == 0, done.stderr
    assert "STAND-IN" in done.stderr
    assert "STAND-IN" in run("check", "furiosa").stdout
    assert rows()["furiosa"]["stand_in"]
    assert any("STAND-IN" in row.detail for row in check_environments([]))


def test_when_pip_fails_its_last_words_are_shown_without_secrets(
    python: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PIP", "fail")
    done = create(python)
    assert done.exit_code == 2
    assert "ERROR: no match at http://hidden@vendor/simple" in done.stderr
    assert "secret" not in done.stderr
    assert "WARNING" not in done.stderr
    assert "Looking in" not in done.stderr
    log = home / "torch.log"
    assert f"hint: less {log}" in done.stderr
    assert "secret" not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert not (home / "torch").exists()


def test_what_no_public_registry_has_is_said_with_the_option(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PIP", "fail")
    done = create(python, name="rbln")
    assert "--index-url URL" in done.stderr
    assert "Rebellions' own index" in done.stderr
    words, _, _ = (tmp_path / "pip").read_text().partition("\n")
    assert "rebel-compiler" in words


def test_an_index_with_a_password_is_on_no_command_line(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://first")
    assert create(python, "--index-url", "http://me:pw@second").exit_code == 0
    argv, indexes, scratch = (tmp_path / "pip").read_text().strip().split(" | ")
    assert "me:pw" not in argv
    assert indexes == "http://first http://me:pw@second"
    assert scratch.startswith(str(tmp_path / "envs" / "torch"))


def test_an_environment_whose_trial_fails_does_not_count(
    python: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert create(python).exit_code == 0
    assert run("check").exit_code == 0
    monkeypatch.setenv("FAKE_TRIAL", "no torch")
    done = run("check", "torch", "-o", "json")
    assert done.exit_code == 5
    assert "ImportError: no torch" in json.loads(done.stdout)["trials"][0]["reason"]
    done = create(python, "--force")
    assert done.exit_code == 2
    assert "ImportError: no torch" in done.stderr
    assert not (home / "torch").exists()


def test_checking_what_is_not_built_names_the_command() -> None:
    assert "env list" in run("check").stdout
    done = run("check", "vllm")
    assert done.exit_code == 5
    assert "shardyard env create vllm" in done.stdout


def test_a_build_that_takes_too_long_is_ended(
    python: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PIP", "hang")
    done = create(python, "--timeout", "0.02")
    assert done.exit_code == 5
    assert "was not done within 1.2 s" in done.stderr
    assert gone(int((tmp_path / "pip.pid").read_text()))
    assert not (home / "torch").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(
    python: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("FAKE_PIP", "hang")
    argv = [sys.executable, "-m", "orchestrator", "env", "create", "torch", "--python", python]
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as build:
        pid = int(poll(tmp_path / "pip.pid"))
        build.send_signal(number)
        _, said = build.communicate(timeout=20)
    assert build.returncode == 130
    assert "interrupted" in said
    assert gone(pid)
    assert not (home / "torch").exists()
    monkeypatch.delenv("FAKE_PIP")
    assert create(python).exit_code == 0


def test_what_a_killed_build_left_is_built_anew_without_being_told(python: str, home: Path) -> None:
    (home / "torch" / "bin").mkdir(parents=True)
    (home / "torch" / "pyvenv.cfg").touch()
    assert rows()["torch"]["state"] == "unfinished"
    done = create(python)
    assert done.exit_code == 0, done.stderr
    assert "deleting" in done.stderr
    assert rows()["torch"]["state"] == "ready"


def test_what_a_killed_build_left_running_is_ended(
    user: subprocess.Popen[bytes], python: str, home: Path
) -> None:
    (home / "torch" / environments.MARKER).unlink()
    done = create(python)
    assert done.exit_code == 0, done.stderr
    assert user.wait(10) == -signal.SIGKILL
    assert rows()["torch"]["state"] == "ready"


def test_a_python_of_the_wrong_version_is_refused(
    python: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VERSION", "3.9.2")
    done = create(python)
    assert done.exit_code == 2
    assert "needs Python >=3.11,<3.15" in done.stderr
    assert "is 3.9.2" in done.stderr
    assert "--python PATH" in done.stderr
    done = create("/nowhere/python3")
    assert done.exit_code == 2
    assert "/nowhere/python3" in done.stderr
    assert not (home / "torch").exists()


def test_a_full_disk_is_said_before_anything_is_built(python: str, home: Path) -> None:
    recipe = recipes()["torch"]
    large = replace(recipe.flavours[0], disk_gib=1e9)
    with pytest.raises(InstallError, match="GiB free") as caught:
        building.create(Order(recipe=recipe, flavour=large, python=python), lambda _: None)
    assert "SHARDYARD_ENVS" in caught.value.hint
    assert not (home / "torch").exists()


def test_a_folder_that_is_no_environment_is_never_deleted(python: str, home: Path) -> None:
    (home / "torch").mkdir(parents=True)
    (home / "torch" / "thesis.txt").write_text("dear")
    for done in (create(python), create(python, "--force"), run("remove", "torch", "--force")):
        assert done.exit_code == 2
        assert "is no virtual environment" in done.stderr
    assert (home / "torch" / "thesis.txt").read_text() == "dear"


def test_where_nothing_can_be_written_the_setting_is_named(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(environments.ENVS_ENV, str(tmp_path / "file" / "envs"))
    done = create(python)
    assert done.exit_code == 2
    assert "set SHARDYARD_ENVS" in done.stderr


def test_only_one_builds_at_a_time(python: str, home: Path) -> None:
    home.mkdir()
    with (home / "torch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for done in (create(python), create(python, "--force")):
            assert done.exit_code == 2
            assert "another process" in done.stderr
    assert create(python).exit_code == 0


def test_an_environment_of_the_operators_own_is_left_alone(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDYARD_ENV_TORCH", str(tmp_path))
    done = create(python)
    assert done.exit_code == 2
    assert "unset SHARDYARD_ENV_TORCH" in done.stderr


@pytest.fixture
def user(python: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs in the environment."""
    assert create(python).exit_code == 0
    program = home / "torch" / "bin" / "engine"
    program.symlink_to("/bin/cat")
    with subprocess.Popen([str(program)], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_what_is_in_use_is_removed_only_when_told(
    user: subprocess.Popen[bytes], home: Path
) -> None:
    done = run("remove", "torch")
    assert done.exit_code == 2
    assert f"in use by {user.pid}" in done.stderr
    assert rows()["torch"]["state"] == "ready"
    assert run("remove", "torch", "--force").exit_code == 0
    assert not list(home.glob("torch*[!k]"))  # the lock stays
    assert "there was none" in run("remove", "torch").stdout


def test_doctor_says_what_is_missing_where_it_could_be_used(
    python: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*families: str) -> dict[str, tuple[str, str]]:
        return {row.check: (row.status, row.hint) for row in check_environments(families)}

    assert said()["environment vllm"] == ("warn", "shardyard env create vllm")
    assert "engine vllm" in engines_said()
    assert "engine openvino" not in engines_said()
    assert "environment furiosa" not in said()
    assert said("furiosa")["environment furiosa"] == ("warn", "shardyard env create furiosa")
    assert create(python).exit_code == 0
    assert said()["environment torch"] == ("ok", "")
    old = home / "torch" / "lib" / "python3.11" / "site-packages" / "torch-2.6.0.dist-info"
    old.mkdir(parents=True)
    assert said()["environment torch"] == ("fail", "shardyard env create torch --force")


def test_doctor_names_what_nobody_maintains_and_what_is_unsafe(home: Path) -> None:
    assert list(check_software({"onnx": "1.23.2"}, {"HOME": "/tgi"})) == []
    (row,) = check_software({"onnx": "1.20.0"}, {})
    assert (row.status, row.hint) == ("fail", "pip install --upgrade onnx")
    inside = home / "vllm" / "lib" / "python3.11" / "site-packages"
    (inside / "deepspeed_mii-0.3.3.dist-info").mkdir(parents=True)
    found = list(check_software({}, {"SHARDYARD_REMOTE": '[{"url": "http://me:pw@tgi:80"}]'}))
    assert [row.check for row in found] == ["TGI", "DeepSpeed-MII"]
    assert all("remote" in row.hint for row in found)
    assert "pw" not in found[0].detail
    assert "in the environment vllm" in found[1].detail
