"""What NVIDIA's counters, flags and Xid errors say of a card's health, in sentences.

Decides which of them speak against new work. It must not know how they were asked for, nor how long a device stays ill.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..quantities import measure, whole

XIDS: Mapping[int, str] = {
    48: "double-bit ECC error",
    54: "auxiliary power is not connected",
    62: "an internal controller halted",
    64: "a bad memory row could not be remapped",
    74: "NVLink error",
    79: "fallen off the bus",
    95: "uncontained memory error",
    109: "context switch timed out",
    110: "security fault",
    119: "the card's own processor (GSP) does not answer",
    120: "error in the card's own processor (GSP)",
    136: "NVLink training failed",
    140: "unrecovered ECC error",
    143: "the card cannot be initialised",
    158: "fatal timeout",
}
"""Errors after which the card needs a reset, a restart or a hand, in our words. Source: NVIDIA, "Analyzing Xid Errors with
the Xid Catalog", those with the immediate action RESET_GPU, RESTART_BM, CHECK_MECHANICALS or WORKFLOW_NVLINK_ERR, and 48.
Left out on purpose: errors of an application (13, 31, 43, 45 ...), 63 (remapped; the pending flag says what is left to do)
and 94 (contained in one application; others go on)."""

OFF_THE_BUS = 79

XID_HOLD_S = 3600.0
"""A driver that tells no recovery action never takes an Xid back: for so long it counts against a card that answers."""

_RECOVERY: Mapping[int, str] = {
    1: "a reset of the card (nvidia-smi --gpu-reset)",
    2: "a reboot of the node",
    3: "that peer-to-peer work is drained",
    4: "that it is drained and reset",
    5: "a recovery of the IMEX domain",
    6: "a reset of its bus",
    7: "a reboot of the whole system",
}
_FABRIC_STARTING = (1, 2)


def evidence(card: Mapping[str, Any], instance: int | None = None) -> tuple[str, ...]:
    """Why no new work should go to a card, or to one of its MIG instances; empty when nothing speaks against it.

    >>> evidence({"remap_pending": True, "ecc_uncorrected": 0, "xids": [[31, None, 2.0]]})
    ('a bad memory row waits for a reset to be remapped',)
    """
    return tuple(dict.fromkeys((*_damage(card), *_recovery(card), *_xids(card, instance))))


def lost(card: Mapping[str, Any]) -> bool:
    """Whether the driver has no contact to the card any more.

    >>> lost({"lost": True}), lost({"xids": [[79, None, 1.0]]}), lost({"xids": [[48, None, 1.0]]})
    (True, True, False)
    """
    if card.get("lost") is True:
        return True
    return any(xid == OFF_THE_BUS for xid, _ in _counted(card))


def _damage(card: Mapping[str, Any]) -> Iterator[str]:
    if card.get("lost") is True:
        yield "the driver has lost the card: look for its Xid in dmesg, then reboot the node"
    uncorrected = whole(card.get("ecc_uncorrected"), most=2**63)
    if uncorrected:
        yield f"{uncorrected} uncorrectable ECC errors since the driver was loaded"
    if card.get("remap_failed") is True:
        yield "a bad memory row could not be remapped: the card should be replaced"
    if card.get("remap_pending") is True:
        yield "a bad memory row waits for a reset to be remapped"
    if whole(card.get("retire_pending")) == 1:
        yield "a bad memory page waits for a reset to be retired"
    if whole(card.get("fabric")) in _FABRIC_STARTING:
        yield "its NVLink fabric is not set up: systemctl start nvidia-fabricmanager"


def _recovery(card: Mapping[str, Any]) -> Iterator[str]:
    action = whole(card.get("recovery"))
    if action:
        yield f"the driver asks for {_RECOVERY.get(action, f'recovery action {action}')}"


def _xids(card: Mapping[str, Any], instance: int | None) -> Iterator[str]:
    for xid, part in _counted(card):
        if part is None or instance is None or part == instance:
            yield f"Xid {xid}: {XIDS[xid]}"


def _counted(card: Mapping[str, Any]) -> Iterator[tuple[int, int | None]]:
    """The serious errors that still count: none of them once the driver says that nothing is left to recover."""
    told = card.get("xids")
    if whole(card.get("recovery")) == 0 or not isinstance(told, list):
        return
    for row in told:
        if not isinstance(row, list) or len(row) != 3:
            continue
        xid, age = whole(row[0]), measure(row[2])
        if xid in XIDS and age is not None and 0.0 <= age < XID_HOLD_S:
            yield xid, whole(row[1])
