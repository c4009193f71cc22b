"""How an endpoint is reached and spoken of: its connections, its list of models, and the words for what goes wrong there.

Decides what mends which failure. The key goes into a header and nowhere else. It must not know requests or replicas.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from ..errors import EngineError, LoadFailed
from ..openai.dialect import Dialect
from ..openai.stream import OpenAIClient
from ..readers.remote_entries import Entry
from ..remote_gate import Gate
from .dialects import DIALECTS, Offered, offered
from .entry import VARIABLE

ASK_DEADLINE_S = 15.0
KEEP_OPEN_S = 15.0

_KEY_REFUSED = "check {key} where the node's agent is started"
_HINTS: Mapping[Any, str] = {
    401: _KEY_REFUSED,
    403: _KEY_REFUSED,
    404: f"see whether it still serves the model, and its address in {VARIABLE}",
    429: "ask its operator for a higher limit",
    **dict.fromkeys((301, 302, 303, 307, 308), f"write the address where it leads into {VARIABLE}"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One endpoint.

    Attributes:
        gate: makes the sockets of all connections to it.
    """

    entry: Entry
    key: str
    gate: Gate

    @property
    def metered(self) -> bool:
        """Whether its tokens cost: a price is declared, or it is somebody else's."""
        return self.entry.price_per_million_tokens > 0 or not self.gate.private

    def client(
        self,
        dialect: Dialect,
        *,
        model: str = "",
        window: int = 0,
        vocab: int = 0,
        eos_ids: tuple[int, ...] = (),
        amend: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> OpenAIClient:
        """A client with connections of its own; to be closed."""
        return OpenAIClient(
            name=self.entry.title,
            base_url=self.entry.root,
            model=model,
            dialect=dialect,
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEP_OPEN_S, socket_factory=self.gate.socket
            ),
            headers={"Authorization": f"Bearer {self.key}"} if self.key else None,
            window=window,
            vocab=vocab,
            eos_ids=eos_ids,
            amend=amend,
        )

    async def model(self, name: str) -> Offered:
        """A model as the endpoint lists it.

        Raises:
            LoadFailed: it cannot be asked, or does not offer the model.
        """
        client = self.client(DIALECTS["openai"])
        try:
            text = await client.get(f"{self.entry.root}/models", ASK_DEADLINE_S)
        except EngineError as error:
            told = self.told(error)
            raise LoadFailed(told.message, hint=told.hint) from None
        finally:
            await client.close()
        models = offered(_document(text))
        if name in models:
            return models[name]
        if not models:
            raise LoadFailed(
                f"{self.entry.title} answers {self.entry.root}/models with something else",
                hint=f"write its OpenAI address into {VARIABLE}",
            )
        raise LoadFailed(
            f"{self.entry.title} does not offer {name}",
            hint=f"map it in `names` of its entry; it offers {', '.join(list(models)[:8])}",
        )

    def told(self, error: EngineError) -> EngineError:
        """An error with the endpoint's name and what mends it, and without the key, which some servers repeat."""
        message = error.message.replace(self.key, "[key]") if self.key else error.message
        if not message.startswith(self.entry.title):
            message = f"{self.entry.title}: {message}"
        status, hint = error.fields.get("status"), error.hint
        if self.gate.refused and status is None:
            message = f"{self.entry.title}: {self.gate.refused}"
            hint = f'add "allow_private": true to its entry in {VARIABLE} if it is meant'
            if self.entry.allow_private:
                hint = f"no model is served at such an address: correct it in {VARIABLE}"
        elif status in _HINTS:
            hint = _HINTS[status].format(key=self.entry.api_key_env or "api_key_env")
        return EngineError(message, hint=hint, **error.fields)


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
