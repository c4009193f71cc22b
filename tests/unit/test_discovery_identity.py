"""Cards stay apart and stay the same when what should name them is missing, repeated, or in another order."""

from __future__ import annotations

import json
import re

import pytest
from conformance.test_probes import built_in
from support.hosts import FakeHost, in_memory

from actors.offers import offered
from actors.probe import Accelerator, Found
from actors.prober import Prober
from actors.report import NodeReport
from placement.ids import NodeId

NODE = NodeId("n-1")
SEVERAL = [
    ("nvidia", "synthetic-hgx-h100-nvswitch"),
    ("amd", "synthetic-mi300x-pair"),
    ("rebellions", "captured-8x-ca22-loaded"),
    ("rebellions", "synthetic-atom-max-2x4"),
    ("furiosa", "synthetic-4-cards"),
    ("gaudi", "synthetic-gaudi2-8"),
    ("gaudi", "synthetic-gaudi3-library"),
    ("ascend", "synthetic-910b2-8"),
    ("tenstorrent", "synthetic-p300"),
    ("intel-gpu", "synthetic-arc-pair-i915"),
    ("upmem", "synthetic-two-dimms"),
]
NAMELESS = ("", "N/A", "0", "00000000-0000-0000-0000-000000000000", "ffffffff", "Unknown")
FILES = {"serial_number", "device_sn", "device_uuid", "tt_serial", "tt_asic_id"}
KEYS = r'"(uuid|sid|serial|serial_number|board_id)": ?("[^"]*"|[0-9]+)'

several = pytest.mark.parametrize(("vendor", "name"), SEVERAL)


def renamed(host: FakeHost, word: str) -> FakeHost:
    """Every serial number and UUID is the same word."""
    said = lambda text: re.sub(KEYS, lambda f: f'"{f[1]}": "{word}"', text)  # noqa: E731
    tools = {k: said(v) for k, v in host.tools.items()}
    files: dict[str, str | None] = {
        path: f"{word}\n" if path.rpartition("/")[2] in FILES else without_unique_id(text)
        for path, text in host.files.items()
    }
    return host.but(
        files,
        tools={k: columns(v, word) for k, v in tools.items()},
        libraries={k: said(v) if isinstance(v, str) else v for k, v in host.libraries.items()},
    )


def without_unique_id(text: str) -> str:
    return re.sub(r"^unique_id [0-9]+$", "unique_id 0", text, flags=re.MULTILINE)


def columns(text: str, word: str) -> str:
    """The same for a table with a head line."""
    rows = [line.split(",") for line in text.splitlines()]
    named = [k for k, head in enumerate(rows[0]) if head.strip() in ("uuid", "serial")]
    for row in rows[1:]:
        for k in named:
            row[k] = f" {word}"
    return "\n".join(",".join(row) for row in rows) if named else text


def looked(host: FakeHost) -> NodeReport:
    return Prober(host, NODE, [probe() for probe in built_in()]).refresh()


def cards(report: NodeReport, vendor: str) -> list[str]:
    return sorted(d.identity for d in report.devices if d.identity.startswith(f"{vendor}:"))


@several
@pytest.mark.parametrize("word", NAMELESS)
def test_cards_without_a_name_are_told_apart_by_their_place(vendor, name, word):
    host = in_memory(vendor, name)
    there = cards(looked(host), vendor)
    nameless = cards(looked(renamed(host, word)), vendor)
    assert len(there) >= 2
    assert len(nameless) == len(there)
    assert len(set(nameless)) == len(there)


@several
def test_one_serial_number_on_all_cards_leaves_them_apart(vendor, name):
    host = in_memory(vendor, name)
    report = looked(renamed(host, "R2604010018"))
    found = cards(report, vendor)
    assert len(set(found)) == len(found)
    if len(found) < len(cards(looked(host), vendor)):
        # Programs are given a card by its UUID: one that is repeated gives them another card.
        assert vendor == "nvidia"
        assert any("two cards call themselves" in b.reason for b in report.broken)


def turned(value: object) -> object:
    if isinstance(value, list):
        return [turned(one) for one in reversed(value)]
    return {k: turned(v) for k, v in value.items()} if isinstance(value, dict) else value


def reordered(text: str) -> str:
    try:
        return json.dumps(turned(json.loads(text)))
    except ValueError:
        return text


@several
def test_the_order_in_which_cards_are_listed_is_nobodys_identity(vendor, name):
    host = in_memory(vendor, name)
    other = host.but(
        {},
        tools={k: reordered(v) for k, v in host.tools.items()},
        libraries={k: reordered(v) for k, v in host.libraries.items() if isinstance(v, str)},
    )
    assert cards(looked(other), vendor) == cards(looked(host), vendor)


def test_a_machine_that_is_renumbered_keeps_its_cards_under_their_positions():
    before = in_memory("furiosa", "synthetic-renumbered-before")
    after = in_memory("furiosa", "synthetic-renumbered")
    host = before
    prober = Prober(_Now(lambda: host), NODE, [probe() for probe in built_in()])
    first = {d.identity: d.id for d in prober.refresh().devices}
    host = after
    second = {d.identity: d.id for d in prober.refresh().devices}
    assert first == second


class _Now:
    """A machine that changes while it is watched."""

    def __init__(self, of) -> None:
        self._of = of

    def __getattr__(self, name):
        return getattr(self._of(), name)


def card(**changes) -> Accelerator:
    facts = {"family": "x", "product": "X1", "device_class": "FURIOSA_RNGD", **changes}
    return Accelerator(**facts)


@pytest.mark.parametrize(
    ("two", "word"),
    [
        ((card(handle="0"), card(handle="1")), "tells no serial number"),
        ((card(pci="0000:01:00.0"), card(pci="0000:01:00.0")), "listed twice"),
        (
            (card(pci="0000:01:00.0", handle="0"), card(pci="0000:02:00.0", handle="0")),
            "selected as 0",
        ),
    ],
)
def test_cards_that_nothing_tells_apart_are_not_offered_twice(two, word):
    found = offered(Found(accelerators=two))
    assert len(found.accelerators) <= 1
    assert all(word in b.reason and b.hint for b in found.broken)
    assert found.broken
