"""Names of things, as types that cannot be mixed up. Knows nothing else."""

from __future__ import annotations

import re
from typing import NewType

_REPLICA = re.compile(r"/r[0-9]+$")

NodeId = NewType("NodeId", str)
"""Our own stable name of a node (label `shardyard.io/node`), e.g. `gpu-1`."""

DeviceId = NewType("DeviceId", str)
"""`<node>/<position>` for an accelerator, `<node>/cpu<k>` for NUMA domain k of its CPU, e.g. `gpu-1/0`, `gpu-1/cpu0`."""

ModelId = NewType("ModelId", str)
"""The name that clients use, e.g. `smollm2`."""

SlotId = NewType("SlotId", str)
"""`<model>/r<k>`: one planned replica, e.g. `smollm2/r0`."""


def slot_id(model: ModelId, index: int) -> SlotId:
    """The id of replica number `index` of a model.

    >>> slot_id(ModelId("smollm2"), 3)
    'smollm2/r3'
    """
    return SlotId(f"{model}/r{index}")


def model_of(name: str) -> ModelId:
    """The model that the id of a slot, or a model's own name, stands for.

    >>> model_of("org/rho-1/r0"), model_of("org/rho-1")
    ('org/rho-1', 'org/rho-1')
    """
    return ModelId(_REPLICA.sub("", name))
