"""Numbers as vendors' tools print them, in SI units; what makes no sense is None, never 0.

Decides what counts as a number of a kind and its bounds. It must not know which tool printed it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_NUMBER = re.compile(
    r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([^\s0-9]\S*)?\s*"
)
_PLACEHOLDER = re.compile(r"(?:[a-z]{1,8}-)?(?:0x)?(?:[0\s:._-]+|[f\s:._-]+)")
_SILENCE = frozenset(
    {"", "n/a", "na", "none", "unknown", "null", "[n/a]", "[not supported]", "not available"}
)
_BDF = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")

_PREFIX = {
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
}
_BINARY = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}

MOST_BYTES = 2**47
"""128 TiB: more than any device has, less than a size that was read in the wrong unit."""
MOST_W = 20_000.0
LEAST_C, MOST_C = -60.0, 200.0
DIGITS = 9
"""Significant digits of a fraction: more are an artefact of its conversion, as in 18.099999999999998 W."""
_MOST_NUMBER = 200
"""Characters of the longest text that is read as a number, colours included; a longer one costs time and is none."""
_MOST_WORD = 4096
_PAGE = 4096
_PASSES, _NESTED = 4, 10_000
"""How often a text may be read in search of a document in it, and what one that is nested too deep counts as, in characters."""


def plain(text: str) -> str:
    """The text without terminal colours, carriage returns and byte-order mark."""
    return _ANSI.sub("", text).replace("\r", "").lstrip("\ufeff")


def attribute(text: str | None) -> str:
    """What a sysfs file says. The kernel writes a page at most; whatever is longer is no such file, and is cut."""
    return (text or "")[:_PAGE]


def document(text: str | None) -> Any:
    r"""The first JSON object or list in what a tool printed, whatever warnings stand before or after; else None.

    >>> document('WARNING: driver is old\n{"a": 1}\nbye')
    {'a': 1}
    """
    cleaned = plain(text or "")
    decoder = json.JSONDecoder()
    left = _PASSES * len(cleaned) + _NESTED
    for start in re.finditer(r"^[^\S\n]*[\[{]", cleaned, re.MULTILINE):
        try:
            return decoder.raw_decode(cleaned, start.end() - 1)[0]
        except json.JSONDecodeError as error:
            left -= max(1, error.pos - start.end())
        except RecursionError:
            left -= _NESTED
        except ValueError:  # a number of thousands of digits
            left -= len(cleaned)
        if left <= 0:
            return None
    return None


def measure(given: object, unit: str = "") -> float | None:
    """A number with an SI prefix before `unit`, to nine digits; a bare number is in `unit` already.

    >>> measure("17521800uW", "W"), measure("350.5 W", "W"), measure(40, "W"), measure("N/A", "W")
    (17.5218, 350.5, 40.0, None)
    >>> measure(18.1 * 1e6 * 1e-6, "W"), measure("9" * 20_000 + " W", "W"), size_bytes("1e308P")
    (18.1, None, None)
    """
    if isinstance(given, bool):
        return None
    if isinstance(given, (int, float)):
        return _finite(given)
    found = _number(given)
    if found is None:
        return None
    value, suffix = float(found[1]), found[2] or ""
    if suffix and not suffix.endswith(unit):
        return None
    factor = _PREFIX.get(suffix.removesuffix(unit) if unit else suffix)
    return None if factor is None else _finite(value * factor)


def power_w(given: object) -> float | None:
    """Watts of a device, 0 to 20 kW."""
    value = measure(given, "W")
    return value if value is not None and 0.0 <= value <= MOST_W else None


def temperature_c(given: object) -> float | None:
    """Degrees Celsius.

    >>> temperature_c("45C"), temperature_c("40.98°C"), temperature_c("65535"), temperature_c("")
    (45.0, 40.98, None, None)
    """
    text = given.replace("°", "") if isinstance(given, str) else given
    value = measure(text, "C")
    return value if value is not None and LEAST_C <= value <= MOST_C else None


def size_bytes(given: object, unit: str = "B") -> int | None:
    """A size, 1 byte to 128 TiB. Prefixes are binary, as all these tools mean them; a bare number is in `unit`.

    >>> size_bytes("16877879296"), size_bytes("3.5GiB"), size_bytes("65536", "MiB"), size_bytes(-1), size_bytes(2**64)
    (16877879296, 3758096384, 68719476736, None, None)
    """
    value = _size(given, unit)
    return value or None


def used_bytes(given: object, unit: str = "B") -> int | None:
    """A size that may be 0."""
    return _size(given, unit)


def ratio(given: object, *, whole: float = 100.0) -> float | None:
    """A part of a whole, 0 to 1; `whole` is what full load reads as.

    >>> ratio("37 %"), ratio(100), ratio("0.5", whole=1.0), ratio(-3), ratio("300")
    (0.37, 1.0, 0.5, None, None)
    """
    text = given.replace("%", "") if isinstance(given, str) else given
    value = measure(text)
    return _finite(value / whole) if value is not None and 0.0 <= value <= whole else None


def whole(given: object, *, most: int = 2**31 - 1) -> int | None:
    """A whole number of 0 to `most`, in decimal digits or `0x` form."""
    if isinstance(given, bool):
        return None
    if isinstance(given, str) and len(given) > _MOST_NUMBER:
        return None
    text = plain(given).strip().lower() if isinstance(given, str) else given
    if isinstance(text, str) and re.fullmatch(r"0x[0-9a-f]{1,16}|[0-9]{1,20}", text):
        text = int(text, 16 if text.startswith("0x") else 10)
    return text if isinstance(text, int) and 0 <= text <= most else None


def identifier(given: object) -> str | None:
    """A serial number or UUID; None for what a vendor writes where there is none.

    >>> identifier("0000000022513364"), identifier(7), identifier("GPU-00000000-0000"), identifier("0xFFFF"), identifier(True)
    ('0000000022513364', '7', None, None, None)
    """
    number = isinstance(given, int) and not isinstance(given, bool)
    text = text_of(str(given) if number else given)
    return None if text is None or _PLACEHOLDER.fullmatch(text.lower()) else text


def text_of(given: object, *, most: int = 200) -> str | None:
    r"""A printable word or name; None for what is empty, not a text, or a vendor's way to say nothing.

    >>> text_of(" RNG26040100181Q\n"), text_of("N/A"), text_of(7)
    ('RNG26040100181Q', None, None)
    """
    if not isinstance(given, str):
        return None
    cleaned = "".join(c for c in plain(given[:_MOST_WORD]) if c.isprintable()).strip()[:most]
    return None if cleaned.lower() in _SILENCE else cleaned


def pci_address(given: object) -> str | None:
    """A PCI address as the kernel writes it, whatever case and width of the domain.

    >>> pci_address("00000000:3B:00.0"), pci_address("6B:02.0"), pci_address("lo")
    ('0000:3b:00.0', '0000:6b:02.0', None)
    """
    found = _BDF.fullmatch(given.strip()) if isinstance(given, str) else None
    if found is None:
        return None
    domain = int(found[1] or "0", 16)
    return f"{domain:04x}:{found[2]}:{found[3]}.{found[4]}".lower()


def _size(given: object, unit: str) -> int | None:
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        return None
    found = _number(given if isinstance(given, str) else repr(given))
    if found is None:
        return None
    named = re.fullmatch(r"([kmgtp]?)i?(?:b|bytes?)?", (found[2] or unit).lower())
    if named is None:
        return None
    # Whole numbers stay exact: 2^53 is smaller than some of the nonsense that has to be told apart.
    value = int(found[1]) if re.fullmatch(r"[+-]?[0-9]+", found[1]) else float(found[1])
    size = value * _BINARY[named[1]]
    return int(size) if 0 <= size <= MOST_BYTES else None


def _number(given: object) -> re.Match[str] | None:
    """The number and the unit of a text; a text that is too long is none."""
    if not isinstance(given, str) or len(given) > _MOST_NUMBER:
        return None
    return _NUMBER.fullmatch(plain(given))


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    return number if number.is_integer() else float(f"{number:.{DIGITS}g}")
