"""Compiled models: which of those that a node holds can run a configuration, and at which batch.

An engine that needs artifacts runs what was compiled and nothing else: the TP size and dtype are fixed, sequences beyond
the compiled batch or length do not fit, and a step always runs the whole batch. Where no artifact of a model lies for a
class, one may be built, unless the demand says never.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from .demand import Demand
from .devices import Dtype
from .inventory import Artifact
from .layout import Layout


def compiled(artifacts: Iterable[Artifact], demand: Demand, device_class: str) -> list[Artifact]:
    """The artifacts of a model for a class, small buckets first (0 = any comes last)."""
    ours = [a for a in artifacts if a.model == demand.id and a.device_class == device_class]
    return sorted(ours, key=_size)


def _size(artifact: Artifact) -> tuple[float, float, int, str]:
    """Order of artifacts: small buckets first."""
    batch, length = artifact.batch or inf, artifact.length or inf
    return batch, length, artifact.tp, artifact.dtype or ""


def fits(artifact: Artifact, demand: Demand, layout: Layout) -> bool:
    """Whether an artifact runs that layout with the asked concurrency and context."""
    return (
        matches(artifact, layout)
        and (not artifact.batch or artifact.batch >= demand.concurrency)
        and (not artifact.length or artifact.length >= demand.context)
    )


def matches(artifact: Artifact, layout: Layout) -> bool:
    """Whether an artifact is of that TP size and dtype; an artifact that names no dtype is of any."""
    return artifact.tp == layout.tp and artifact.dtype in (None, layout.dtype)


def best_artifact(
    artifacts: Iterable[Artifact], demand: Demand, device_class: str, layout: Layout
) -> Artifact | None:
    """The smallest bucket that holds the demand; None when nothing compiled does."""
    ours = compiled(artifacts, demand, device_class)
    return next((a for a in ours if fits(a, demand, layout)), None)


def bucket_of(
    artifacts: Iterable[Artifact], demand: Demand, device_class: str, layout: Layout
) -> int | None:
    """Sequences that each step runs, busy or not; None where the engine takes as many as there are."""
    found = best_artifact(artifacts, demand, device_class, layout)
    return found.batch or None if found else None


def compiled_dtypes(
    artifacts: Iterable[Artifact], demand: Demand, device_class: str
) -> tuple[Dtype, ...]:
    """Dtypes that artifacts of the model name, which `dtype: auto` has to consider."""
    named = {a.dtype for a in compiled(artifacts, demand, device_class)}
    return tuple(sorted(dtype for dtype in named if dtype is not None))
