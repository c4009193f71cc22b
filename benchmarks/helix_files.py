"""Files of a Helix benchmark folder as values: clusters, tables, profiles and layouts.

Bandwidths are bytes/s whatever the unit is called: `1000 * mbps` is 1e9 bytes/s there. Node K of a
cluster is `compute_node_{K + offset}` of a layout.
"""

from __future__ import annotations

import configparser
import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from placement.flow import Place, Span

OFFSET = 2
"""Number of the first compute node in layout files."""

_UNITS = {"kbps": 1e3, "mbps": 1e6, "gbps": 1e9, "Byte": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_UNITS |= {"Sec": 1.0, "MilliSec": 1e-3}
_QUANTITY = re.compile(r"\s*(-?[0-9.eE+]+)\s*(?:\*\s*([A-Za-z]+)\s*)?")
_LINK = re.compile(r"Link-(source|\d+)-(sink|\d+)")


class BadFolder(Exception):
    """What is wrong with a benchmark folder, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Figures of one machine type: tokens/s and KV entries (tokens x layers) when it holds 1, 2,
    ... layers.
    """

    tokens_per_s: tuple[float, ...]
    kv_entries: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Layers and bytes a token, and a table for each machine type."""

    layers: int
    token_bytes: float
    activation_bytes: float
    tables: dict[str, Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Machine type of each node, and (bytes/s, seconds) of each link; None is the coordinator."""

    types: tuple[str, ...]
    links: dict[tuple[Place, Place], tuple[float, float]]
    nic_bytes_per_s: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the benchmark."""

    name: str
    model: Model
    cluster: Cluster
    curves: dict[tuple[str, str], tuple[tuple[float, float], ...]]
    layouts: dict[str, Path]


def cases(folder: Path) -> list[Callable[[], Case]]:
    """Return one reader for each case; each raises BadFolder when its files are not as they should
    be.
    """
    entries = _json(folder / "cases.json")
    if not isinstance(entries, list) or not entries:
        raise BadFolder(f"{folder / 'cases.json'}: a list of cases is expected")
    return [lambda entry=entry: _case(folder, entry) for entry in entries]


def _case(folder: Path, entry: Any) -> Case:
    keys = ("name", "model", "cluster", "machine_profiles", "throughput_table")
    missing = [k for k in keys if not isinstance(entry, dict) or not isinstance(entry.get(k), str)]
    if missing:
        raise BadFolder(f"{folder / 'cases.json'}: a case has no text for {', '.join(missing)}")
    path = folder / "typical_throughput_tables.json"
    tables = _json(path)
    key = entry["throughput_table"]
    if not isinstance(tables, dict) or key not in tables:
        raise BadFolder(f"{path}: no table {key!r}, which case {entry['name']!r} names")
    model = _model(path, tables[key])
    cluster = read_cluster(folder / entry["cluster"], folder / entry["machine_profiles"])
    unknown = sorted(set(cluster.types) - set(model.tables))
    if unknown:
        raise BadFolder(f"{path}: table {key!r} has no machine type {', '.join(unknown)}")
    curves = {
        (kind, phase): _curve(
            folder / "profiles" / entry["model"] / kind.lower() / f"{phase}_bs2time.csv"
        )
        for kind in sorted(set(cluster.types))
        for phase in ("decode", "prompt")
    }
    layouts = entry.get("layouts") or {}
    if not isinstance(layouts, dict):
        raise BadFolder(f"{folder / 'cases.json'}: layouts of {entry['name']!r} are not a map")
    return Case(
        name=entry["name"],
        model=model,
        cluster=cluster,
        curves=curves,
        layouts={method: folder / str(where) for method, where in layouts.items()},
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFolder(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BadFolder(f"{path}: not JSON: {error}") from error


def _model(path: Path, table: Any) -> Model:
    try:
        tables = {
            kind: Table(
                tokens_per_s=tuple(_figure(v) for v in row["tput"][: int(row["max_layers"])]),
                kv_entries=tuple(_figure(v) for v in row["kv"][: int(row["max_layers"])]),
            )
            for kind, row in table["types"].items()
        }
        short = [k for k, t in tables.items() if len(t.kv_entries) < len(t.tokens_per_s)]
        if short:
            raise BadFolder(f"{path}: fewer kv than tput figures for {', '.join(short)}")
        return Model(
            layers=int(_figure(table["layers"])),
            token_bytes=_figure(table["token_bytes"]),
            activation_bytes=_figure(table["act_bytes"]),
            tables=tables,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFolder(f"{path}: a throughput table lacks {error}") from error


def _figure(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"a positive figure where it has {value!r}")
    return number


def read_cluster(path: Path, profiles: Path) -> Cluster:
    """Read a cluster file and the network cards of its machines.

    Raises:
        BadFolder: a file is missing or says something else.
    """
    ini, machines = _ini(path), _ini(profiles)
    try:
        count = int(ini["NodeNames"]["total_compute_nodes"])
        types = tuple(ini[f"ComputeNode-{i}"]["type"].strip() for i in range(count))
        links = {
            _ends(found): (_quantity(ini[name]["bandwidth"]), _quantity(ini[name]["latency"]))
            for name in ini.sections()
            if (found := _LINK.fullmatch(name))
        }
        both = {(b, a): link for (a, b), link in links.items() if None not in (a, b)}
        cards = {
            kind: min(
                _quantity(machines[kind]["inbound_nic_speed"]),
                _quantity(machines[kind]["outbound_nic_speed"]),
            )
            for kind in set(types)
        }
    except (KeyError, ValueError) as error:
        raise BadFolder(f"{path}: a cluster file or its profiles lack {error}") from error
    if count < 1:
        raise BadFolder(f"{path}: no compute nodes")
    return Cluster(types=types, links=both | links, nic_bytes_per_s=cards)


def _ends(found: re.Match[str]) -> tuple[Place, Place]:
    a, b = found.groups()
    return (None if a == "source" else int(a), None if b == "sink" else int(b))


def _ini(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFolder(f"{path}: {error.strerror or error}") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise BadFolder(f"{path}: not an INI file: {str(error).splitlines()[0]}") from error
    return parser


def _quantity(text: str) -> float:
    found = _QUANTITY.fullmatch(text)
    if not found or (found[2] and found[2] not in _UNITS):
        raise ValueError(f"a quantity such as '1000 * mbps' where it has {text!r}")
    return float(found[1]) * _UNITS.get(found[2] or "Byte", 1.0)


def _curve(path: Path) -> tuple[tuple[float, float], ...]:
    """Return (tokens in the batch, seconds a layer), rising."""
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8").splitlines()) if row]
        points = sorted((float(row[0]), float(row[1]) * 1e-3) for row in rows)
    except OSError as error:
        raise BadFolder(f"{path}: {error.strerror or error}") from error
    except (ValueError, IndexError) as error:
        raise BadFolder(f"{path}: lines of tokens,milliseconds are expected: {error}") from error
    if not points:
        raise BadFolder(f"{path}: empty")
    return tuple(points)


def read_layout(path: Path, nodes: int) -> dict[int, Span]:
    """Return the layers of each node in use.

    Raises:
        BadFolder: layers that are not consecutive, or nodes that the cluster has not.
    """
    ini = _ini(path)
    try:
        offset = int(ini["Settings"]["offset"])
        held = {name: json.loads(text) for name, text in ini["Solution"].items()}
        spans = {int(name.rsplit("_", 1)[1]) - offset: _span(held[name]) for name in held}
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise BadFolder(f"{path}: a layout lacks {error}") from error
    beyond = [node for node in spans if not 0 <= node < nodes]
    if beyond:
        raise BadFolder(f"{path}: node {beyond[0]} of a cluster of {nodes}")
    return {node: span for node, span in spans.items() if span is not None}


def _span(layers: list[int]) -> Span | None:
    rising = sorted(layers)
    if not rising:
        return None
    if rising != list(range(rising[0], rising[-1] + 1)):
        raise ValueError(f"consecutive layers where it has {layers}")
    return Span(start=rising[0], end=rising[-1] + 1)


def write_layout(path: Path, spans: dict[int, Span], nodes: int) -> None:
    """Write a layout as the published ones are written; nodes out of use hold no layers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {n: list(range(s.start, s.end)) for n, s in spans.items()}
    lines = [f"compute_node_{n + OFFSET}={held.get(n, [])}" for n in range(nodes)]
    text = "\n".join(["[Settings]", f"offset={OFFSET}", "", "[Solution]", *lines, ""])
    path.write_text(text, encoding="utf-8")
