"""Secrets in what a machine told, hidden before anybody else reads it.

Decides what looks like a password, a token or a key. It must not know who printed a text.
"""

from __future__ import annotations

import re

HIDDEN = "hidden"
"""Stands for a secret, so that it is still seen to be set."""

_SAYS = r"\\?[\"']?[ \t]*[=:][ \t]*\\?[\"']?"
"""Between a key and its value, also where JSON stands in a text."""
_VALUE = r"(?P<secret>[^\s\"',;&\\]+)"
_SECRETS = tuple(
    re.compile(pattern)
    for pattern in (
        r"://(?P<secret>[^/@\s\"'\\]+)@",
        r"\b[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)" + _SAYS + _VALUE,
        r"(?i:\b(?:password|passwd|api[_-]?key|secret|(?:access|auth)[_-]?token))" + _SAYS + _VALUE,
        r"[?&](?i:token|key|sig|signature)=" + _VALUE,
        r"\b(?i:bearer)[ \t]+(?P<secret>[A-Za-z0-9._~+/=-]{8,})",
        r"\b(?P<secret>(?:hf_|sk-|ghp_|xox[bp]-)[A-Za-z0-9_-]{16,})",
    )
)


def redacted(text: str) -> str:
    """The text with every secret in it hidden; the same word wherever the same secret stands.

    >>> redacted("http://me:pw@npu-1:8000/v1 HF_TOKEN=abc max_tokens: 12")
    'http://hidden@npu-1:8000/v1 HF_TOKEN=hidden max_tokens: 12'
    """
    for pattern in _SECRETS:
        text = pattern.sub(_without, text)
    return text


def _without(match: re.Match[str]) -> str:
    start, end = (place - match.start() for place in match.span("secret"))
    return f"{match[0][:start]}{HIDDEN}{match[0][end:]}"
