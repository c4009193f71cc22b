"""What is known of each family of accelerators besides how to read it, read once from `vendors.toml`.

Knows the keys of the file; it must not know any family.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """The variable by which an engine's process is told its devices; empty = the family has none.

    Attributes:
        hides: value that hides every device of the family; `-` = nothing is known to.
        clear: variables that would contradict it.
        also: variables that make its values mean what our handles mean.
    """

    variable: str
    hides: str = "-"
    clear: tuple[str, ...] = ()
    also: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayGuess:
    """Ray's own detection of the family, which stays off: the agent's word counts.

    Attributes:
        noset: variable that keeps Ray from setting the visibility variable.
        variable: what Ray sets, where it is not the family's own.
        reads: module that Ray's detection imports.
    """

    resource: str
    noset: str
    variable: str = ""
    reads: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row of the file; see its head for the keys."""

    name: str
    vendor: str
    visible: Visibility
    pci: tuple[str, ...] = ()
    pci_classes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    group: str = ""
    tools: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    private: str = ""
    library: str = ""
    driver: str = ""
    version_file: str = ""
    ray: RayGuess | None = None
    install: str = ""

    def claims(self, vendor: str, kind: str) -> bool:
        """Whether a PCI function with these ids is an accelerator of the family."""
        return vendor in self.pci and kind.startswith(self.pci_classes)


@cache
def families() -> Mapping[str, Family]:
    """All families by name.

    >>> families()["rebellions"].visible.variable
    'RBLN_VISIBLE_DEVICES'
    """
    return MappingProxyType({name: _family(name, row) for name, row in _file()["families"].items()})


@cache
def other_vendors() -> Mapping[str, str]:
    """PCI vendor id -> name, of vendors of accelerators that no probe reads."""
    return MappingProxyType(dict(_file()["others"]))


def family_of(identity: str) -> Family | None:
    """The family of a device, by the first word of its identity.

    >>> family_of("furiosa:R1@0000:27:00.0").name
    'furiosa'
    """
    return families().get(identity.partition(":")[0])


def visibility(family: str, handles: Iterable[str]) -> tuple[Mapping[str, str], frozenset[str]]:
    """What an engine's environment gets and loses so that it sees exactly its devices.

    Args:
        family: of its devices; empty for an engine on processors.
        handles: launch handles of its devices; all others are hidden where something is known to.

    Returns:
        Variables to set, and variables to remove.

    >>> visibility("nvidia", ["GPU-1", "GPU-2"])[0]["CUDA_VISIBLE_DEVICES"]
    'GPU-1,GPU-2'
    >>> given, gone = visibility("rebellions", ["0", "3"])
    >>> given["RBLN_VISIBLE_DEVICES"], given["CUDA_VISIBLE_DEVICES"], "RBLN_DEVICES" in gone
    ('0,3', '', True)
    """
    given: dict[str, str] = {}
    gone: set[str] = set()
    for name in sorted(families()):
        rule = families()[name].visible
        gone.update(rule.clear)
        if name == family and rule.variable:
            given[rule.variable] = ",".join(handles)
            given.update(rule.also)
        elif rule.variable and rule.hides != "-":
            given.setdefault(rule.variable, rule.hides)
        elif rule.variable:
            gone.add(rule.variable)
    return given, frozenset(gone - set(given))


def _family(name: str, row: Mapping[str, Any]) -> Family:
    said: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}
    visible, ray = said.pop("visible"), said.pop("ray", None)
    clear = tuple(visible.pop("clear", ()))
    return Family(
        name=name,
        visible=Visibility(**visible, clear=clear),
        ray=RayGuess(**ray) if ray else None,
        **said,
    )


def _file() -> dict[str, Any]:
    return tomllib.loads((files("actors") / "vendors.toml").read_text("utf-8"))
