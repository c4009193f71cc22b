"""Why the answer of a tool or a library cannot be used, in a sentence.

Decides what counts as no answer. It must not know which tool it was, nor what the answer should say.
"""

from __future__ import annotations

from .quantities import plain, text_of
from .tools import Completed

QUOTED = 160
"""How much of a tool's own complaint is repeated."""


def said(name: str, given: Completed | None) -> tuple[str, str]:
    r"""What an answer says, and ""; or "" and why it cannot be used.

    >>> said("x-smi", Completed(rc=0, out="ok", err="")), said("x-smi", Completed(rc=0, out="", err=""))
    (('ok', ''), ('', 'x-smi printed nothing'))
    >>> said("x-smi", Completed(rc=3, out="", err="no driver\nmore"))[1]
    'x-smi failed with status 3: no driver'
    """
    if given is None:
        return "", f"{name} is not installed"
    if given.ended == "timeout":
        return "", f"{name} did not answer in time"
    if given.ended == "output_cap":
        return "", f"{name} printed without end"
    if given.rc != 0:
        return "", f"{name} failed with status {given.rc}{_complaint(given)}"
    text = plain(given.out)
    return (text, "") if text.strip() else ("", f"{name} printed nothing")


def _complaint(given: Completed) -> str:
    lines = (text_of(line) for line in f"{given.err}\n{given.out}".splitlines()[:50])
    first = next((line for line in lines if line), None)
    return f": {first[:QUOTED]}" if first else ""
