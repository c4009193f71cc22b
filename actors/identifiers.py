"""Serial numbers, UUIDs and names of machines in what a machine told, and what stands for them in a recording.

Decides what identifies somebody's hardware. A replacement has the shape of what it replaces, so that whoever parses it
notices nothing. It must not know which tool printed a text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .quantities import pci_address

_UUID = re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b")
_MAC = re.compile(r"(?<![0-9a-fA-F:])[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}(?![0-9a-fA-F:])")
_DIGEST = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{32})\b")
"""Machines and containers are numbered like this."""
_KEYS = r"(?:serial(?:[ _-]?(?:number|num|no))?|uuid|guid|unique[ _-]?id)"
_KEYED = re.compile(
    rf"{_KEYS}[\"']?\s*(?:\([^)]*\)\s*)?[:=>|]+\s*[\"']?([A-Za-z0-9][A-Za-z0-9._-]*)", re.IGNORECASE
)
_ROWS = re.compile(r"^(?:unique_id|serial|uuid)[ \t]+([A-Za-z0-9][A-Za-z0-9._-]*)$", re.MULTILINE)
"""The kernel's tables of properties have a blank between key and value."""
_FILES = re.compile(
    r"/(?:unique_id|serial|serial_number|uuid|[a-z]+_serial|[a-z]+_uuid|machine-id)$"
)
NAME_FILES = ("/proc/sys/kernel/hostname", "/etc/hostname")

LEAST = 5
"""Shorter words would be found in everything; none of them identifies a device."""


@dataclass(frozen=True, slots=True)
class Disguise:
    """Identifier -> what stands for it, whatever the case of its letters."""

    words: Mapping[str, str]

    def __call__(self, text: str) -> str:
        """The text with every identifier replaced where it stands as a word of its own."""
        if not self.words:
            return text
        found = "|".join(map(re.escape, sorted(self.words, key=lambda w: (-len(w), w))))
        pattern = rf"(?:(?<=\b0x)|(?<![A-Za-z0-9]))(?:{found})(?![A-Za-z0-9])"
        return re.sub(pattern, lambda m: self._of(m[0]), text, flags=re.IGNORECASE)

    def _of(self, word: str) -> str:
        new = self.words.get(word.lower(), word)
        return new if word == word.lower() else _cased(new, word)


def disguise(identifiers: Iterable[str], salt: bytes) -> Disguise:
    """The same identifiers with the same salt get the same replacements; so do their decimal and hexadecimal forms.

    >>> told = disguise(["RNG0123456"], b"salt")("serial rng0123456 of RNG0123456")
    >>> len(told), "0123456" in told, told.split()[1].upper() == told.split()[3]
    (31, False, True)
    """
    words = {word.lower(): _hashed(word.lower(), salt) for word in identifiers}
    numbers = {
        str(int(old, 16)): str(int(new, 16))
        for old, new in words.items()
        if re.fullmatch(r"[0-9a-f]{12,16}", old) and re.search("[a-f]", old)
    }
    return Disguise({**words, **numbers})


def _cased(word: str, like: str) -> str:
    """Letters in mixed case; a replacement of mixed letters is as long as what it replaces."""
    return "".join(n.upper() if o.isupper() else n for o, n in zip(like, word, strict=True))


def identifiers_in(path: str, text: str) -> set[str]:
    """What identifies hardware or a machine in a file (`path`) or in an answer (`path` is empty)."""
    found = {m[0] for pattern in (_UUID, _MAC, _DIGEST) for m in pattern.finditer(text)}
    found |= {m[1] for pattern in (_KEYED, _ROWS) for m in pattern.finditer(text)}
    if _FILES.search(path):
        found.add(text.strip())
    names = {text.strip(), text.strip().partition(".")[0]} if path in NAME_FILES else set[str]()
    names = {name for name in names if len(name) >= LEAST and name != "localhost"}
    return names | {part for word in found for part in parts(word)}


def parts(word: str) -> set[str]:
    """What is to be replaced of an identifier; of `GPU-<uuid>` only the UUID.

    >>> parts("GPU-0f0e0d0c-1111-2222-3333-444455556666"), parts("N/A"), parts("0000000")
    ({'0f0e0d0c-1111-2222-3333-444455556666'}, set(), set())
    """
    word = word.removeprefix("0x")
    inner = _UUID.search(word)
    if inner is not None and inner[0] != word:
        return parts(inner[0])
    told = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]*", word) and re.search("[0-9]", word)
    many = len(word) >= LEAST and len(set(word) - set("-:._")) >= 3
    return {word} if told and many and pci_address(word) is None else set()


def _hashed(word: str, salt: bytes) -> str:
    """A digit becomes a digit, a hexadecimal letter of a hexadecimal word such a letter, another letter a letter.

    Zeros in front stay zeros, and nothing else becomes one: a number keeps its length.
    """
    stream = hashlib.shake_256(salt + word.encode()).digest(2 * len(word))
    hexadecimal = re.fullmatch(r"[0-9a-f:.-]+", word) is not None
    prefix = len(word) - len(word.lstrip("0"))
    made = list(word)
    for k, old in enumerate(word):
        if k >= prefix and old.isascii() and old.isalnum():
            made[k] = _one(old, stream[k], first=k == prefix, hexadecimal=hexadecimal)
    return "".join(made)


def _one(old: str, number: int, *, first: bool, hexadecimal: bool) -> str:
    if old.isdigit():
        return "123456789"[number % 9] if first else "0123456789"[number % 10]
    letters = "abcdef" if hexadecimal else "ghijklmnopqrstuvwxyz"
    return letters[number % len(letters)]
