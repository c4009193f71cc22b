"""What a request needs of an engine, as a list of rules; routers choose by it, and a replica refuses by it.

Decides which fields of a request not every engine can honour. It must not know replicas, nor what else speaks against one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .engine import Capabilities
from .wire import Open


@dataclass(frozen=True, slots=True)
class Need:
    """One field that some engines cannot honour.

    Attributes:
        param: the client's field.
        says: what an engine lacks that cannot, as the end of a sentence.
        asked: whether a request has it.
        met: whether an engine can, given that it is asked.
    """

    param: str
    says: str
    asked: Callable[[Open], bool]
    met: Callable[[Open, Capabilities], bool]


NEEDS: tuple[Need, ...] = (
    Need(
        "prompt",
        "takes no prompts as token ids",
        lambda request: isinstance(request.prompt, list),
        lambda _, can: can.ids_in,
    ),
    Need(
        "prompt",
        "has too small a window for this prompt",
        lambda request: isinstance(request.prompt, list),
        lambda request, can: not can.window or len(request.prompt or ()) < can.window,
    ),
    Need(
        "seed",
        "has no seed",
        lambda request: request.seed is not None and request.temperature > 0,
        lambda _, can: can.seed,
    ),
    Need(
        "frequency_penalty",
        "knows no frequency penalty",
        lambda request: request.frequency_penalty != 0,
        lambda _, can: can.penalties,
    ),
    Need(
        "presence_penalty",
        "knows no presence penalty",
        lambda request: request.presence_penalty != 0,
        lambda _, can: can.penalties,
    ),
    Need(
        "response_format",
        "cannot be held to a JSON schema",
        lambda request: bool(request.json_schema),
        lambda _, can: can.json_schema,
    ),
    Need(
        "model",
        "has no such adapter loaded",
        lambda request: bool(request.lora),
        lambda request, can: request.lora in can.lora,
    ),
)


def unmet(request: Open, can: Capabilities) -> Need | None:
    """The first need of a request that an engine does not meet."""
    return next((n for n in NEEDS if n.asked(request) and not n.met(request, can)), None)
