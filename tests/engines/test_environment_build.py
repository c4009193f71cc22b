"""An engine's environment is really built, with venv and pip and without a network, from a wheel made here."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from actors import environments
from actors.recipe import Recipe, parse
from orchestrator import environments as building
from orchestrator.environments import Order

pytestmark = pytest.mark.engines


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SHARDYARD_ENV_TORCH", raising=False)
    monkeypatch.setenv(environments.ENVS_ENV, str(tmp_path / "envs"))
    return tmp_path / "envs"


def test_one_is_really_built_from_a_wheel(home: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "shardyard_toy-1.0-py3-none-any.whl"
    facts = "shardyard_toy-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("shardyard_toy.py", "ANSWER = 42\n")
        file.writestr(
            f"{facts}/METADATA", "Metadata-Version: 2.1\nName: shardyard-toy\nVersion: 1.0\n"
        )
        file.writestr(
            f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{facts}/RECORD", "")
    recipe = _toy(wheel)
    said: list[str] = []
    built = building.create(Order(recipe=recipe, flavour=recipe.flavours[0]), said.append)
    place = home / "torch"
    assert environments.built(place) == built
    assert environments.installed(place)["shardyard-toy"] == "1.0"
    assert "pip" not in environments.installed(place)
    assert built.size_bytes > 10_000
    assert any("step 2 of 2" in line for line in said)


def _toy(wheel: Path) -> Recipe:
    text = """
    about = "a trial"
    python = ">=3.10"
    check = "import shardyard_toy; assert shardyard_toy.ANSWER == 42"
    [flavours.plain]
    disk_gib = 0.001
    [[flavours.plain.steps]]
    install = ["WHEEL"]
    dependencies = false
    [[flavours.plain.steps]]
    uninstall = ["setuptools", "pip"]
    """
    recipe = parse("torch", text.replace("WHEEL", str(wheel)))
    assert recipe.flavours[0].steps[1].act == "uninstall"
    return recipe
