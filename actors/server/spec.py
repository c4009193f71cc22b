"""What a vendor's own OpenAI server is, as data: the command that starts it, how its routes deviate, what its endings mean.

A class in `actors/engines/` with these members is served through `actors.server.engine`: a supervised process tree in an environment
of its own, reached over a unix socket or a free port of the loopback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..engine import Capabilities, EngineConfig
from ..openai.dialect import Dialect


@dataclass(frozen=True, slots=True)
class When:
    """Words of a command that are only there when a placeholder has a value.

    >>> When("tp", "--tensor-parallel-size", "{tp}").filled({"tp": "2"}), When("tp", "--tp").filled({"tp": ""})
    (('--tensor-parallel-size', '2'), ())
    """

    placeholder: str
    words: tuple[str, ...]

    def __init__(self, placeholder: str, *words: str) -> None:
        object.__setattr__(self, "placeholder", placeholder)
        object.__setattr__(self, "words", words)

    def filled(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """The words with the values in them; none when the placeholder is empty."""
        if not values.get(self.placeholder):
            return ()
        return tuple(word.format_map(values) for word in self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What an end of the process means, and what mends it. The first row that fits counts.

    Attributes:
        status: exit status, or minus the signal; None = any.
        says: regular expression that one of the last lines must match; empty = whatever it printed.
    """

    reason: str
    hint: str
    status: int | None = None
    says: str = ""


class Server(Protocol):
    """A vendor's server.

    Placeholders of `argv` and `variables` are `{python}` and `{bin}` (interpreter and `bin` folder of the environment), `{model}`
    (path), `{served}` (the name under which it serves, new for every start), `{socket}` (path of a unix socket), `{port}` (a
    free port of the loopback; exactly one of both occurs in `argv`), `{key}` (a secret that every request carries as its bearer
    token, for a server on a port), `{window}`, `{sequences}`, `{tp}` and what `values` adds.
    """

    name: ClassVar[str]
    environment: ClassVar[str]
    """Name of the environment that it lives in (actors.environments)."""
    argv: ClassVar[tuple[str | When, ...]]
    variables: ClassVar[Mapping[str, str]]
    """Environment variables beyond those of the plan, as templates; one that fills to nothing is not set, whoever else sets it."""
    dialect: ClassVar[Dialect]
    metrics: ClassVar[Mapping[str, str]]
    """`running`, `waiting`, `kv_used_ratio` -> name of the server's own metric."""
    endings: ClassVar[tuple[Ending, ...]]

    def values(self, config: EngineConfig) -> Mapping[str, str]:
        """More placeholders.

        Raises:
            LoadFailed: the configuration is none that this server can run.
        """
        ...

    def capabilities(self, config: EngineConfig) -> Capabilities:
        """What the server can do with that configuration."""
        ...
