"""What the name of a row means, in words: of a price that it has, and of a shortage that it causes.

The one place that reads row names. A name of an unknown form is said as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

_SLACK = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What a row counts.

    Attributes:
        amount: a natural step of it, e.g. 100 W.
        one: that step in words, as an addition: `one more NVIDIA_L4_24G`.
        short: what is missing, with `{}` for the number.
        whole: only whole numbers of it exist.
    """

    amount: float
    one: str
    short: str
    whole: bool = True


def unit(row: str) -> Unit:
    """What a row counts.

    >>> unit("devices:NVIDIA_L4_24G").one
    'one more NVIDIA_L4_24G'
    >>> unit("power:cluster").one
    '100 W more for the cluster'
    """
    kind, _, rest = row.partition(":")
    known = {
        "devices": _devices,
        "power": _power,
        "tenant": _tenant,
        "spread": _spread,
        "price": _price,
        "throughput": _throughput,
    }
    return known[kind](rest) if kind in known and rest else _other(row)


def shortage(row: str, amount: float) -> str:
    """A missing amount of a row.

    >>> shortage("devices:NVIDIA_H100_80G", 2.5)
    '3 NVIDIA_H100_80G'
    """
    counted = unit(row)
    number = str(ceil(amount - _SLACK)) if counted.whole else f"{amount:.4g}"
    return counted.short.format(number)


def _devices(rest: str) -> Unit:
    pool, _, part = rest.partition(":")
    name = _pool(pool)
    if part.startswith("tp"):
        said = f"of {part[2:]} {name} that share an island"
        return Unit(amount=1.0, one=f"one more group {said}", short=f"{{}} groups {said}")
    if part.startswith("parts"):
        said = f"of a {name} large enough for one of {int(part[5:]) + 1} equal parts"
        return Unit(amount=1.0, one=f"one more part {said}", short=f"{{}} parts {said}")
    return Unit(amount=1.0, one=f"one more {name}", short=f"{{}} {name}")


def _pool(pool: str) -> str:
    name, _, number = pool.partition("#")
    return f"{name} (its pool no. {number})" if number else name


def _power(rest: str) -> Unit:
    scope, _, pool = rest.partition(":")
    if scope == "nodes" and pool:
        name, _, part = pool.partition(":")
        if part:
            said = f"among nodes with {_pool(name)}, within the power budget of a node"
            return Unit(amount=1.0, one=f"one more stage {said}", short=f"{{}} stages {said}")
        of = f"the nodes with {_pool(name)}"
    else:
        of = {"cluster": "the cluster", "racks": "the racks"}.get(rest, rest)
    return Unit(amount=100.0, one=f"100 W more for {of}", short=f"{{}} W for {of}")


def _tenant(rest: str) -> Unit:
    tenant, _, device_class = rest.partition(":")
    said = f"{device_class} in the quota of tenant {tenant}"
    return Unit(amount=1.0, one=f"one more {said}", short=f"{{}} {said}")


def _spread(rest: str) -> Unit:
    model, _, pool = rest.partition(":")
    where = f" with {_pool(pool)}" if pool else ""
    return Unit(
        amount=1.0,
        one=f"one more node or rack{where} for {model} to spread over",
        short=f"{{}} separate place(s){where} for {model}, which spreads",
    )


def _price(rest: str) -> Unit:
    return Unit(
        amount=1.0,
        one=f"1 more per hour for {rest}",
        short=f"{{}} per hour for {rest}",
        whole=False,
    )


def _throughput(rest: str) -> Unit:
    said = f"tokens/s of {rest}"
    return Unit(amount=1.0, one=f"asking for one of the {said} less", short=f"{{}} {said}")


def _other(row: str) -> Unit:
    return Unit(amount=1.0, one=f"one more of {row}", short=f"{{}} of {row}", whole=False)
