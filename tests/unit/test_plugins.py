"""Plugins: a broken one is reported and never hides the rest."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from actors.engines.emulated import EmulatedEngine
from actors.environments import ENVS_ENV
from actors.errors import EngineError
from actors.plugins import (
    ENGINES_GROUP,
    ENGINES_PACKAGE,
    PROBES_GROUP,
    PROBES_PACKAGE,
    Plugins,
    available_engines,
    load_plugins,
    make_engine,
)
from actors.server.engine import ServerEngine
from actors.worker.engine import WorkerEngine

_NUMBERS = itertools.count()


def make_package(folder: Path, **modules: str) -> str:
    """A package of plugin modules under a name of its own."""
    name = f"plugged_{next(_NUMBERS)}"
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    for module, source in modules.items():
        (folder / name / f"{module}.py").write_text(source)
    return name


def make_distribution(folder: Path, group: str, **points: str) -> None:
    """Metadata of an installed distribution with entry points."""
    info = folder / f"theirs_{next(_NUMBERS)}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


GOOD = "class Good:\n    name = 'good'\nclass _Hidden:\n    name = 'hidden'\nclass Nameless:\n    pass\n"


def test_broken_modules_do_not_hide_the_good_one(folder: Path) -> None:
    package = make_package(
        folder,
        a_raises="raise ValueError('no driver')",
        b_exits="import sys; sys.exit(4)",
        c_garbage="def (",
        d_empty="from collections import OrderedDict",
        good=GOOD,
    )
    plugins = load_plugins(package, "no.group")
    assert list(plugins.found) == ["good"]
    reasons = {broken.name.rpartition(".")[2]: broken.reason for broken in plugins.broken}
    assert "ValueError: no driver" in reasons["a_raises"]
    assert "SystemExit: 4" in reasons["b_exits"]
    assert "SyntaxError" in reasons["c_garbage"]
    assert "no class" in reasons["d_empty"]


def test_third_parties_come_after_ours_and_a_clash_is_told(folder: Path) -> None:
    package = make_package(folder, good=GOOD)
    other = make_package(
        folder, theirs="class Extra:\n    name = 'extra'\n" + GOOD + "number = 3\n"
    )
    make_distribution(
        folder, "test.group", extra=f"{other}.theirs:Extra", thief=f"{other}.theirs:Good",
        ghost="no_such_module:X", number=f"{other}.theirs:number",
    )  # fmt: skip
    plugins = load_plugins(package, "test.group")
    assert {n: c.__module__ for n, c in plugins.found.items()} == {
        "good": f"{package}.good",
        "extra": f"{other}.theirs",
    }
    reasons = {broken.name.split()[0]: broken.reason for broken in plugins.broken}
    assert f"taken by {package}.good.Good" in reasons["thief"]
    assert "ModuleNotFoundError" in reasons["ghost"]
    assert "not a class" in reasons["number"]


def test_our_engines_and_probes_load() -> None:
    engines = load_plugins(ENGINES_PACKAGE, ENGINES_GROUP)
    assert {"openvino", "emulated"} <= set(engines.found)
    assert engines.broken == ()
    assert load_plugins(PROBES_PACKAGE, PROBES_GROUP).broken == ()


def test_an_engine_without_its_library_cannot_start_here(monkeypatch: pytest.MonkeyPatch) -> None:
    names, before = available_engines()
    assert {"emulated", "openvino", "onnxruntime", "remote"} <= names
    monkeypatch.setitem(sys.modules, "openvino_genai", None)
    names, broken = available_engines()
    assert "openvino" not in names
    lacks = [(b.name, b.hint) for b in broken if b not in before]
    assert lacks == [("openvino", "pip install openvino_genai")]


def test_an_engine_without_its_environment_cannot_start_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ENVS_ENV, str(tmp_path))
    names, broken = available_engines()
    assert not names & {"vllm", "torch", "furiosa", "rbln"}
    assert {b.hint for b in broken if b.name == "vllm"} == {"shardyard env create vllm"}


@pytest.mark.parametrize(
    "needs", [{"requires": ("nobody.here",)}, {"requires": 5}, {"environment": 5}]
)
def test_an_engine_whose_needs_cannot_be_told_hides_no_other(
    needs: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = type("Odd", (), {"name": "odd", **needs})
    found = load_plugins(ENGINES_PACKAGE, ENGINES_GROUP).found
    monkeypatch.setattr(
        "actors.plugins.load_plugins", lambda *_: Plugins(found={**found, "odd": odd})
    )
    names, broken = available_engines()
    assert "emulated" in names
    assert "odd" not in names
    assert "odd" in [problem.name for problem in broken]


def test_engines_are_made_by_name() -> None:
    assert isinstance(make_engine("emulated"), EmulatedEngine)
    openvino = make_engine("openvino")
    assert isinstance(openvino, WorkerEngine)
    assert openvino.name == "openvino"
    assert isinstance(make_engine("torch"), WorkerEngine)
    assert isinstance(make_engine("vllm"), ServerEngine)
    with pytest.raises(EngineError, match="no engine 'tgi'") as unknown:
        make_engine("tgi")
    assert "emulated, furiosa" in unknown.value.hint
