"""How a node's agent proves that a report is its own: a word that only it and the controller can know."""

from __future__ import annotations

import hashlib
import hmac


def agent_token(secret: str, incarnation: str) -> str:
    """The token of the agent on one incarnation of a node; it says nothing of another's.

    >>> agent_token("s", "a") == agent_token("s", "b")
    False
    """
    return hmac.new(secret.encode(), f"agent {incarnation}".encode(), hashlib.sha256).hexdigest()


def is_agent(secret: str, incarnation: str, token: str) -> bool:
    """Whether a token is that of the agent on an incarnation; a controller without a secret believes everybody."""
    return not secret or hmac.compare_digest(agent_token(secret, incarnation), token)
