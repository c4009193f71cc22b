"""What `npu-smi` prints: tables for people, read by their header rows and cell borders, never by column offsets.

Decides what a row says. It must not know devices, classes or how the tool is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from placement.interconnect import LinkKind

from ..quantities import (
    pci_address,
    plain,
    power_w,
    ratio,
    size_bytes,
    temperature_c,
    text_of,
    used_bytes,
    whole,
)

LINKS: Mapping[str, LinkKind] = {
    "SIO": LinkKind.SAME,
    "HCCS": LinkKind.DIRECT,
    "HCCS_SW": LinkKind.DIRECT,
    "PIX": LinkKind.SWITCH,
    "PXB": LinkKind.SWITCH,
    "PHB": LinkKind.HOST_BRIDGE,
    "SYS": LinkKind.SYSTEM,
}
"""Words of the topology table; `NA` is unknown. SIO joins the two dies of one package."""

MOST_LINES, MOST_COLUMNS = 2_000, 2_000
"""Of a table of all chips of a node; what is beyond is none of it."""

_MISSING = ("na", "n/a", "-", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One chip of the overview; None = it does not tell.

    Attributes:
        npu, chip: the tool's own numbers: a card, and a chip on it.
        physical: number of the device file, where the overview has that column.
        health: the tool's word, e.g. `OK`.
        power_w: of the whole card; only its first chip tells.
    """

    npu: int
    chip: int
    physical: int | None = None
    name: str | None = None
    health: str | None = None
    pci: str | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    utilisation: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """`npu-smi info`. `cut` are cards whose second row is missing or makes no sense."""

    version: str | None = None
    chips: tuple[Chip, ...] = ()
    cut: tuple[int, ...] = ()


@dataclass(slots=True)
class _Reader:
    """Two rows describe a chip; this holds the first of them while the second is read."""

    headers: dict[str, Sequence[str]] = field(default_factory=dict)
    card: Chip | None = None
    complete: bool = True
    chips: list[Chip] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)

    def take(self, cells: Sequence[str]) -> None:
        first = cells[0].split()
        if first[:1] in (["NPU"], ["Chip"]):
            self.headers[first[0]] = cells
        elif (number := whole(first[0] if first else "")) is None:
            return
        elif self._is_chip(cells, first[1:]):
            self._chip(number, first[1:], cells)
        else:
            self._card(number, first[1:], cells)

    def _is_chip(self, cells: Sequence[str], rest: Sequence[str]) -> bool:
        if pci_address(cells[1]) is not None:
            return True
        numbers = all(whole(word) is not None for word in rest)
        return not self.complete and numbers and cells[1].lower() in _MISSING

    def close(self) -> None:
        """Whatever was read of a card without its second row is not believed."""
        if self.card is not None and not self.complete:
            self.cut.append(self.card.npu)
        self.complete = True

    def _card(self, number: int, words: Sequence[str], cells: Sequence[str]) -> None:
        self.close()
        values = _columns(self.headers.get("NPU"), cells)
        self.complete = False
        self.card = Chip(
            npu=number,
            chip=0,
            name=text_of(" ".join(words)),
            health=text_of(cells[1]) or "UNKNOWN",
            power_w=power_w(values.get("power")),
            temperature_c=temperature_c(values.get("temp", "")),
        )

    def _chip(self, number: int, words: Sequence[str], cells: Sequence[str]) -> None:
        if self.card is None:
            return
        values = _columns(self.headers.get("Chip"), cells)
        used, total = _memory(values)
        # A further chip row without a card row of its own repeats nothing of the card's power.
        watts = None if self.complete else self.card.power_w
        self.complete = True
        self.chips.append(
            replace(
                self.card,
                chip=number,
                physical=whole(words[0]) if words else None,
                pci=pci_address(cells[1]),
                power_w=watts,
                utilisation=ratio(values.get("aicore")),
                memory_bytes=total,
                memory_used_bytes=used if total is not None else None,
            )
        )


def overview(text: str) -> Overview:
    """The chips that `npu-smi info` lists, in its order; none when it is something else."""
    cleaned = plain(text)
    found = re.search(r"\bVersion\s*:\s*([0-9][^\s|]*)", cleaned)
    reader = _Reader()
    for cells in _rows(cleaned):
        reader.take(cells)
    reader.close()
    return Overview(
        version=found[1] if found else None, chips=tuple(reader.chips), cut=tuple(reader.cut)
    )


def logical_ids(text: str) -> dict[tuple[int, int], int]:
    r"""Card and chip -> the number by which programs select it, from `npu-smi info -m`.

    >>> logical_ids("NPU ID   Chip ID   Chip Logic ID   Chip Name\n8  0  3  Ascend 910B3\n8  1  -  Mcu")
    {(8, 0): 3}
    """
    found: dict[tuple[int, int], int] = {}
    for line in _lines(plain(text)):
        numbers = [whole(word) for word in line.split()[:3]]
        match numbers:
            case [int(npu), int(chip), int(logical)]:
                found[npu, chip] = logical
            case _:
                continue
    return found if len(set(found.values())) == len(found) else {}


def topology(text: str) -> dict[tuple[str, str], LinkKind]:
    """How chips are joined, by the table's own labels, e.g. `NPU0` or `Phy-ID3`; each pair once."""
    lines = [line.split() for line in _lines(plain(text))]
    labels: list[str] = []
    for line in lines:
        if not labels and line and _is_label(line[0]):
            labels = [word for word in line if _is_label(word)]
    found: dict[tuple[str, str], LinkKind] = {}
    for line in lines:
        if len(line) < 2 or line[0] not in labels or _is_label(line[1]):
            continue
        for other, word in zip(labels, line[1:], strict=False):
            if word in LINKS and (other, line[0]) not in found and other != line[0]:
                found[line[0], other] = LINKS[word]
    return found


def _lines(text: str) -> list[str]:
    return [line[:MOST_COLUMNS] for line in text.split("\n", MOST_LINES)[:MOST_LINES]]


def _is_label(word: str) -> bool:
    return re.fullmatch(r"(?:NPU|Phy-ID)[0-9]{1,5}", word) is not None


def _rows(text: str) -> Iterator[Sequence[str]]:
    """The rows of three cells above the table of processes."""
    for line in _lines(text):
        if re.search(r"\bProcess id\b", line, re.IGNORECASE):
            return
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.lstrip().startswith("|") and len(cells) == 3:
            yield cells


def _columns(header: Sequence[str] | None, cells: Sequence[str]) -> dict[str, str]:
    """The third cell's values by the words above them; nothing when their numbers differ."""
    if header is None:
        return {}
    names = [word.partition("(")[0].lower() for word in header[2].split()]
    values = re.sub(r" ?/ ?", "/", " ".join(cells[2].split())).split()
    return dict(zip(names, values, strict=True)) if len(names) == len(values) else {}


def _memory(values: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Used and all; of HBM where there is any, else of the memory that the chip shares."""
    for name in ("hbm-usage", "memory-usage"):
        used, _, total = values.get(name, "").partition("/")
        if (size := size_bytes(total, "MiB")) is not None:
            return used_bytes(used, "MiB"), size
    return None, None
