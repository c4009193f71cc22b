"""The entry of an endpoint in a node's environment, and its key.

Decides which entry is meant by a planned address. It must not ask the endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

from placement.remote import is_remote

from ..errors import LoadFailed
from ..readers.remote_entries import Entry, entries
from ..redaction import redacted

VARIABLE = "SHARDYARD_REMOTE"
_PREFIX = "openai+"


def named_entry(endpoint: str, variables: Mapping[str, str]) -> tuple[Entry, str]:
    """The entry of an address, and what stands behind its root: the name of a model, or nothing.

    Raises:
        LoadFailed: the node's environment has none.
    """
    address = endpoint.removeprefix(_PREFIX) if is_remote(endpoint) else endpoint
    address = address.rstrip("/")
    named, broken = entries(VARIABLE, variables.get(VARIABLE) or "[]")
    fitting = [one for one in named if address == one.root or address.startswith(f"{one.root}/")]
    if fitting:
        entry = max(fitting, key=lambda one: len(one.root))
        return entry, address.removeprefix(entry.root).strip("/")
    reason = f"; {broken[0].reason}" if broken else ""
    raise LoadFailed(
        f"{VARIABLE} names no endpoint {redacted(address) or '(none)'}{reason}",
        hint=f"add it to {VARIABLE} where the node's agent is started",
    )


def key_of(entry: Entry, variables: Mapping[str, str]) -> str:
    """Its key; empty for an endpoint without one.

    Raises:
        LoadFailed: the variable that should hold it does not.
    """
    if entry.api_key_env is None:
        return ""
    key = variables.get(entry.api_key_env, "")
    if not (key and key.isascii() and key.isprintable()):
        raise LoadFailed(
            f"{entry.title}: {entry.api_key_env} holds no key",
            hint=f"set {entry.api_key_env} where the node's agent is started",
        )
    return key
