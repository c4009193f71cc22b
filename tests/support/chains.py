"""Two classes of nodes for a model of 20 layers: `a` is four times as fast and holds more."""

from __future__ import annotations

from placement.decode import Curve, Profile, Wire
from placement.pipeline import Chain
from placement.staged import NodeClass

FAST = (1e9, 1e-3)
SLOW = (1e6, 20e-3)
"""Bytes/s and seconds of every link."""

_SPEED = {"a": 4.0, "b": 1.0}
_LAYERS = {"a": 8, "b": 4}


def classes(**counts: int) -> tuple[NodeClass, ...]:
    """So many nodes of each class; tokens/s fall faster than 1/k, because weights crowd out the KV
    cache.
    """
    return tuple(
        NodeClass(
            name=name,
            count=n,
            flow=tuple(
                300.0 * _SPEED[name] / k * (1.2 - k / (2 * _LAYERS[name]))
                for k in range(1, _LAYERS[name] + 1)
            ),
        )
        for name, n in counts.items()
    )


def chain(
    nodes: tuple[NodeClass, ...], *, layers: int = 20, link: tuple[float, float] = FAST
) -> Chain:
    """One model over these nodes, all of them joined by equal links."""
    size = len(nodes) + 1
    return Chain(
        layers=layers,
        classes=nodes,
        profiles=tuple(_profile(c.name, len(c.flow)) for c in nodes),
        wire=Wire(
            bytes_per_s=((link[0],) * size,) * size,
            hop_s=((link[1],) * size,) * size,
            activation_bytes=8192.0,
        ),
    )


def _profile(name: str, layers: int) -> Profile:
    slow = 1 / _SPEED[name]
    return Profile(
        kv_tokens=tuple(
            60_000.0 * _SPEED[name] * (1.5 * layers - k) / k for k in range(1, layers + 1)
        ),
        decode=Curve(tokens=(0.0, 2.0, 400.0), seconds=(0.0, 4e-3 * slow, 20e-3 * slow)),
        prompt=Curve(tokens=(0.0, 2000.0), seconds=(0.0, 60e-3 * slow)),
    )
