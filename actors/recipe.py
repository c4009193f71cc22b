"""How an engine's environment is built, as data: one file of `actors/recipes` per environment.

Knows the keys of these files (README.md beside them) and checks them; it must not know where environments lie, nor run anything.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

Act = Literal["install", "uninstall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One run of pip.

    Attributes:
        words: requirements to install, or distributions to uninstall.
        dependencies: whether what they require comes with them.
        about: why the step is there, for who reads a failure.
    """

    act: Act
    words: tuple[str, ...]
    dependencies: bool = True
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One way to build an environment; the first that fits the machine is the default.

    Attributes:
        family: family of accelerators (actors.vendors) without which nobody wants it; empty = any machine.
        disk_gib: the most that it takes; where an index has torch without CUDA it is 1 to 4.
        stand_in: what it lacks of the vendor's own software; empty = nothing.
        private: what no public registry has, and who hands it out; empty = nothing.
        python: versions of Python that it needs; empty = those of the recipe.
        check: statement that must run in it; empty = that of the recipe.
    """

    name: str
    steps: tuple[Step, ...]
    disk_gib: float
    family: str = ""
    stand_in: str = ""
    private: str = ""
    python: str = ""
    check: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """An environment.

    Attributes:
        about: what it is for, in half a sentence.
        python: versions of Python that can build it, such as `>=3.11,<3.15`.
        check: statement that must run in it.
        check_s: seconds that the statement may take.
        family: family of accelerators that it is made for; empty = several, or none.
        variables: what processes in it get in their environment.
    """

    name: str
    about: str
    python: str
    check: str
    flavours: tuple[Flavour, ...]
    check_s: float = 120.0
    family: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    def flavour(self, name: str) -> Flavour | None:
        """The flavour of that name."""
        return next((f for f in self.flavours if f.name == name), None)


@cache
def recipes() -> Mapping[str, Recipe]:
    """All recipes by name.

    >>> sorted(recipes())
    ['furiosa', 'onnx-builder', 'rbln', 'torch', 'vllm']
    >>> recipes()["vllm"].flavour("cpu").steps[0].words[0]
    'torch==2.13.0'
    """
    folder = files("actors") / "recipes"
    found = sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name[-5:] == ".toml")
    return MappingProxyType(
        {name: parse(name, (folder / f"{name}.toml").read_text("utf-8")) for name in found}
    )


def parse(name: str, text: str) -> Recipe:
    """The recipe that a file's text holds.

    Raises:
        TypeError: a key is missing or unknown.
        ValueError: the text is no TOML, or a step is none.
    """
    said: dict[str, Any] = tomllib.loads(text)
    ways: Mapping[str, Any] = said.pop("flavours")
    return Recipe(name=name, flavours=tuple(_flavour(n, row) for n, row in ways.items()), **said)


def digest(recipe: Recipe, flavour: Flavour) -> str:
    """What a built environment is compared with: another one when a step has changed since.

    >>> len(digest(recipes()["torch"], recipes()["torch"].flavours[0]))
    12
    """
    steps = [[step.act, step.words, step.dependencies] for step in flavour.steps]
    text = json.dumps([recipe.name, flavour.name, steps])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def default_flavour(recipe: Recipe, families: Sequence[str]) -> Flavour:
    """The first flavour that is for any machine or for a family that is here.

    >>> default_flavour(recipes()["vllm"], ["nvidia"]).name, default_flavour(recipes()["vllm"], []).name
    ('cuda', 'cpu')
    """
    fit = (f for f in recipe.flavours if not f.family or f.family in families)
    return next(fit, recipe.flavours[0])


def _flavour(name: str, row: Mapping[str, Any]) -> Flavour:
    said = dict(row)
    steps = tuple(_step(step) for step in said.pop("steps"))
    return Flavour(name=name, steps=steps, **said)


def _step(row: Mapping[str, Any]) -> Step:
    said = dict(row)
    acts: tuple[Act, ...] = ("install", "uninstall")
    for act in acts:
        if act in said:
            return Step(act=act, words=tuple(said.pop(act)), **said)
    raise ValueError(f"a step installs or uninstalls, and this one does neither: {row}")
