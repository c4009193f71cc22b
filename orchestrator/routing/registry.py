"""Where a gateway's table of models and replicas comes from, as a port. Ray fills it in production."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .replicas import RegistryTable

Follower = Callable[[RegistryTable], None]


class Registry(Protocol):
    """The controller's registry as a gateway sees it; keeps the last table while the controller is away."""

    def table(self) -> RegistryTable:
        """The last table."""
        ...

    def follow(self, follower: Follower) -> None:
        """Calls back on the gateway's loop with every later table."""
        ...


class StaticRegistry:
    """A table that changes only when told to."""

    def __init__(self, table: RegistryTable) -> None:
        self._table = table
        self._followers: list[Follower] = []

    def table(self) -> RegistryTable:
        """The last table."""
        return self._table

    def follow(self, follower: Follower) -> None:
        """Calls back with every later table."""
        self._followers.append(follower)

    def update(self, table: RegistryTable) -> None:
        """Replaces the table."""
        self._table = table
        for follower in self._followers:
            follower(table)
