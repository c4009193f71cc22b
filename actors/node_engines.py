"""Which engines can start on this node, as its agent reports them.

Decides whom the operator's wish and an engine's own facts leave. It must not know devices, nor what an engine needs
(actors.plugins looks).
"""

from __future__ import annotations

from dataclasses import dataclass

from placement.catalog import engines as known_engines
from placement.engine_facts import EngineFacts

from .host import Host
from .names import ENGINES_ENV
from .plugins import ENGINES_GROUP, ENGINES_PACKAGE, available_engines, load_plugins
from .report import BrokenProbe
from .trust import flaw_of_engine


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEngines:
    """The engines of a node at one moment.

    Attributes:
        names: those that can start.
        facts: of those that the catalog does not have.
        broken: those that should be able to and are not, with what mends them. Whose environment was never built is none.
    """

    names: frozenset[str] = frozenset()
    facts: tuple[EngineFacts, ...] = ()
    broken: tuple[BrokenProbe, ...] = ()


NO_ENGINES = NodeEngines()


def engines_of_this_node(host: Host) -> NodeEngines:
    """What can start now; environments are built and removed while an agent runs. Reads names in folders only."""
    names, missing = available_engines()
    wanted = {name for name in (host.env(ENGINES_ENV) or "").split(",") if name}
    unknown = sorted(wanted - set(load_plugins(ENGINES_PACKAGE, ENGINES_GROUP).found))
    kept = names & wanted if wanted else names
    facts, untold = _told(kept)
    return NodeEngines(
        names=kept,
        facts=facts,
        broken=(
            *untold,
            *(
                BrokenProbe(name=f"engine {e.name}", reason=e.reason, hint=e.hint)
                for e in missing
                if e.name in wanted or (not wanted and not e.optional)
            ),
            *(
                BrokenProbe(
                    name=f"engine {name}",
                    reason=f"{ENGINES_ENV} names an engine that is not there",
                    hint=f"correct {ENGINES_ENV} where the node was started",
                )
                for name in unknown
            ),
        ),
    )


def _told(names: frozenset[str]) -> tuple[tuple[EngineFacts, ...], tuple[BrokenProbe, ...]]:
    """What engines that the catalog does not have tell of themselves; those that tell nothing are never planned with."""
    plugins = load_plugins(ENGINES_PACKAGE, ENGINES_GROUP).found
    told: list[EngineFacts] = []
    broken: list[BrokenProbe] = []
    for name in sorted(names - set(known_engines())):
        given = getattr(plugins[name], "facts", None)
        flaw = flaw_of_engine(name, given)
        if given is None or flaw:
            hint = f"give its class `facts: ClassVar[EngineFacts]` with name {name!r}"
            broken.append(
                BrokenProbe(name=f"engine {name}", reason=flaw or "it has none", hint=hint)
            )
        else:
            told.append(given)
    return tuple(told), tuple(broken)
