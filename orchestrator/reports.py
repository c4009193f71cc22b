"""What the controller believes of a node's report: `refusal(report)` and `without_claimed(report, others)`. Pure.

That a report comes from that node's own agent is checked by its token, at the door. Here: that it speaks of itself only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from actors.report import BrokenProbe, NodeReport, Renewal
from actors.trust import MOST_DEVICES, flaw_of_device


def refusal(report: NodeReport) -> str:
    """Why a report is not taken at all; empty when it is."""
    if len(report.devices) > MOST_DEVICES:
        return f"{report.node} reports {len(report.devices)} devices, more than {MOST_DEVICES}"
    flaws = (flaw_of_device(report.node, device) for device in report.devices)
    flaw = next((flaw for flaw in flaws if flaw), "")
    ids = {device.id for device in report.devices}
    if not flaw and len(ids) < len(report.devices):
        flaw = f"{report.node} reports a device twice"
    foreign = sorted(_mentioned(report) - ids)
    return flaw or (
        f"{report.node} tells of {foreign[0]}, which it does not have" if foreign else ""
    )


def foreign_readings(renewal: Renewal, report: NodeReport) -> bool:
    """Whether a renewal speaks of devices that the report it renews does not have."""
    return not {name for name, _ in renewal.readings} <= {device.id for device in report.devices}


def without_claimed(report: NodeReport, others: Iterable[NodeReport]) -> NodeReport:
    """The report without accelerators that another node has reported already: two nodes cannot both give one out.

    Emulated nodes may repeat identities, and processors are told apart by their node.
    """
    if report.emulated:
        return report
    claimed = {
        device.identity: other.node
        for other in others
        if not other.emulated
        for device in other.devices
        if _is_claim(device.identity)
    }
    doubles = [d for d in report.devices if d.identity in claimed]
    if not doubles:
        return report
    gone = {device.id for device in doubles}
    return replace(
        report,
        devices=tuple(d for d in report.devices if d.id not in gone),
        facts=tuple(f for f in report.facts if f.device not in gone),
        readings=tuple((name, r) for name, r in report.readings if name not in gone),
        broken=(*report.broken, *(_double(d.id, claimed[d.identity]) for d in doubles)),
    )


def _mentioned(report: NodeReport) -> set[str]:
    return {
        *(facts.device for facts in report.facts),
        *(name for name, _ in report.readings),
        *(member for bond in report.bonds for member in bond.members),
    }


def _is_claim(identity: str) -> bool:
    return bool(identity) and not identity.startswith("cpu:")


def _double(device: str, owner: str) -> BrokenProbe:
    return BrokenProbe(
        name="inventory",
        reason=f"{device} is the same device as one that node {owner} has reported",
        hint="run one agent per machine, or give each container its own devices",
    )


def problems_of(report: NodeReport) -> Iterator[tuple[str, str, str]]:
    """Devices that get no new work: where, why, and what to do."""
    evidence = {facts.device: facts.evidence for facts in report.facts}
    for device in report.devices:
        if device.health != "healthy":
            why = "; ".join(evidence.get(device.id, ())) or "its probe says so"
            yield device.id, f"is {device.health}: {why}", "shardyard devices -o json"
