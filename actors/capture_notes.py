"""A host that remembers what it was asked, and answers the same question in the same way ever after.

So a machine that changes while it is looked at becomes one consistent picture. It must not know who asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .host import Access, Fetched, Host
from .tools import Completed


@dataclass(frozen=True, slots=True)
class Notes:
    """Questions and answers. Answers to tools and libraries are kept with the whole question."""

    reads: dict[str, str | None] = field(default_factory=dict)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    resolves: dict[str, str | None] = field(default_factory=dict)
    accesses: dict[str, Access] = field(default_factory=dict)
    variables: dict[str, str | None] = field(default_factory=dict)
    tools: dict[tuple[str, ...], Completed | None] = field(default_factory=dict)
    libraries: dict[tuple[str, str], Completed | None] = field(default_factory=dict)
    fetches: dict[str, Fetched | None] = field(default_factory=dict)

    def copy(self) -> Notes:
        """What was noted until now; a probe that hangs may go on asking."""
        return Notes(**{name: dict(getattr(self, name)) for name in self.__slots__})

    def paths(self) -> set[str]:
        """Every path that was asked about."""
        return {*self.reads, *self.lists, *self.resolves, *self.accesses}


@dataclass(frozen=True, slots=True)
class NotingHost:
    """Passes each new question on to another host. Its clock stands still, as that of a recording does."""

    source: Host
    notes: Notes = field(default_factory=Notes)

    def read(self, path: str) -> str | None:
        """See `Host`."""
        known = self.notes.reads
        return known[path] if path in known else known.setdefault(path, self.source.read(path))

    def list(self, path: str) -> tuple[str, ...]:
        """See `Host`."""
        known = self.notes.lists
        return known[path] if path in known else known.setdefault(path, self.source.list(path))

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed | None:
        """See `Host`."""
        known, asked = self.notes.tools, tuple(argv)
        if asked in known:
            return known[asked]
        return known.setdefault(asked, self.source.run(argv, timeout_s))

    def env(self, name: str) -> str | None:
        """See `Host`."""
        return self.notes.variables.setdefault(name, self.source.env(name))

    def resolve(self, path: str) -> str | None:
        """See `Host`."""
        known = self.notes.resolves
        return known[path] if path in known else known.setdefault(path, self.source.resolve(path))

    def access(self, path: str) -> Access:
        """See `Host`."""
        known = self.notes.accesses
        return known[path] if path in known else known.setdefault(path, self.source.access(path))

    def ask(self, library: str, question: str, timeout_s: float) -> Completed | None:
        """See `Host`."""
        known, asked = self.notes.libraries, (library, question)
        if asked in known:
            return known[asked]
        return known.setdefault(asked, self.source.ask(library, question, timeout_s))

    def fetch(
        self, url: str, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Fetched | None:
        """See `Host`. The headers are passed on and not kept."""
        known = self.notes.fetches
        if url in known:
            return known[url]
        return known.setdefault(url, self.source.fetch(url, timeout_s, headers))

    def clock_s(self) -> float:
        """See `Host`."""
        return 0.0
