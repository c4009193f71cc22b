"""Helix's public benchmark: our layouts of one model over many nodes, and the published ones.

One JSON object a line and case.

`published`: maximum flow of the published layouts, handing over at the end of a range (chain) and
also inside it (partial). `flow`: of our layout with the largest; `bound`: what no layout exceeds;
`proven`: the flow equals the bound, or no staged layout has more, as `proof` says. `chosen`: our
layout under policy throughput, and what it should decode. CPU seconds are those of the search,
without reading.

usage: python -m benchmarks.helix FOLDER [--layouts OUT]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.helix_files import (
    BadFolder,
    Case,
    Cluster,
    cases,
    read_layout,
    write_layout,
)
from placement.decode import Curve, Profile, Wire
from placement.flow import LayoutFlow, Place, Span, layout_flow
from placement.pipeline import Chain, Pipeline, pipelines, seats
from placement.staged import NodeClass

USAGE = 2
PROOFS = {
    "bound": "flow equals the bound on every layout",
    "staged": "optimal among staged layouts",
    "none": "not proven",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Nodes of one type that fast links join."""

    kind: str
    nodes: tuple[int, ...]


def groups(cluster: Cluster) -> tuple[Group, ...]:
    """Collapse nodes into classes: same type, same region; a region is what links of at least half
    of the fastest bandwidth join.
    """
    region = _regions(cluster)
    members: dict[tuple[str, int], list[int]] = {}
    for node, kind in enumerate(cluster.types):
        members.setdefault((kind, region[node]), []).append(node)
    return tuple(Group(kind=kind, nodes=tuple(nodes)) for (kind, _), nodes in members.items())


def _regions(cluster: Cluster) -> list[int]:
    inside = {e: v for e, v in cluster.links.items() if None not in e}
    fast = 0.5 * max((bandwidth for bandwidth, _ in inside.values()), default=0.0)
    near = 5 * min((latency for _, latency in inside.values()), default=0.0)
    region = list(range(len(cluster.types)))
    for (a, b), (bandwidth, latency) in inside.items():
        if bandwidth >= fast and latency <= near and region[a or 0] != region[b or 0]:
            old, new = region[b or 0], region[a or 0]
            region = [new if r == old else r for r in region]
    return region


def chain_of(case: Case, classes: tuple[Group, ...]) -> Chain:
    """Return the case as the planner sees it."""
    nodes = node_flow(case)
    tables = [case.model.tables[g.kind] for g in classes]
    places = [*(g.nodes for g in classes), (None,)]
    links = [[_between(case.cluster, a, b) for b in places] for a in places]
    return Chain(
        layers=case.model.layers,
        classes=tuple(
            NodeClass(
                name=g.kind,
                count=len(g.nodes),
                flow=tuple(nodes(g.nodes[0], k + 1) for k in range(len(t.tokens_per_s))),
            )
            for g, t in zip(classes, tables, strict=True)
        ),
        profiles=tuple(
            Profile(
                kv_tokens=tuple(entries / k for k, entries in enumerate(t.kv_entries, 1)),
                decode=_curve(case, g.kind, "decode"),
                prompt=_curve(case, g.kind, "prompt"),
            )
            for g, t in zip(classes, tables, strict=True)
        ),
        wire=Wire(
            bytes_per_s=tuple(tuple(b for b, _ in row) for row in links),
            hop_s=tuple(tuple(s for _, s in row) for row in links),
            activation_bytes=case.model.activation_bytes,
            token_bytes=case.model.token_bytes,
        ),
    )


def _curve(case: Case, kind: str, phase: str) -> Curve:
    points = case.curves[kind, phase]
    return Curve(tokens=tuple(x for x, _ in points), seconds=tuple(y for _, y in points))


def _between(
    cluster: Cluster, left: tuple[Place, ...], right: tuple[Place, ...]
) -> tuple[float, float]:
    """Return the mean bandwidth and latency of the links between two groups."""
    found = [cluster.links[a, b] for a in left for b in right if a != b and (a, b) in cluster.links]
    if not found:
        return (0.0, 0.0) if left != right else (1e12, 0.0)
    return (sum(b for b, _ in found) / len(found), sum(s for _, s in found) / len(found))


def node_flow(case: Case) -> Callable[[int, int], float]:
    """Return tokens/s of a node with so many layers, within its network card."""
    cluster, model = case.cluster, case.model

    def tokens(node: int, layers: int) -> float:
        kind = cluster.types[node]
        table = model.tables[kind].tokens_per_s
        if layers > len(table):
            raise BadFolder(f"node {node} ({kind}) holds {layers} layers of at most {len(table)}")
        return min(table[layers - 1], cluster.nic_bytes_per_s[kind] / model.activation_bytes)

    return tokens


def flow_of(case: Case, spans: dict[int, Span], *, partial: bool = False) -> LayoutFlow:
    """Return the maximum flow of a layout on the case's nodes and links."""

    def link(a: Place, b: Place) -> float:
        size = case.model.token_bytes if None in (a, b) else case.model.activation_bytes
        return case.cluster.links.get((a, b), (0.0, 0.0))[0] / size

    return layout_flow(spans, case.model.layers, node=node_flow(case), link=link, partial=partial)


def published(case: Case) -> dict[str, dict[str, float] | None]:
    """Return both flows of each published layout; None where its file is missing or breaks the
    rules, with a word on standard error.
    """
    flows: dict[str, dict[str, float] | None] = {}
    for method, path in case.layouts.items():
        try:
            spans = read_layout(path, len(case.cluster.types))
            flows[method] = {
                rule: round(flow_of(case, spans, partial=rule == "partial").value, 4)
                for rule in ("chain", "partial")
            }
        except BadFolder as error:
            print(f"{case.name}: layout {method} left out: {error}", file=sys.stderr)
            flows[method] = None
    return flows


def run(case: Case, out: Path | None) -> dict[str, Any]:
    """Solve one case and return its line.

    Raises:
        BadFolder: the model does not fit on the cluster.
    """
    started = time.process_time()
    classes = groups(case.cluster)
    found = pipelines(chain_of(case, classes))
    if found is None:
        raise BadFolder(f"{case.name}: {case.model.layers} layers do not fit on the cluster")
    chosen, chosen_flow = _seated(case, classes, found.chosen)
    laid = [_seated(case, classes, p) for p in (found.widest, *found.front, found.chosen)]
    widest, flow = max(laid, key=lambda layout: layout[1].value)
    cpu_s = time.process_time() - started
    if out is not None:
        for policy, spans in (("flow", widest), ("throughput", chosen)):
            write_layout(out / case.name / policy / "sol.ini", spans, len(case.cluster.types))
    proof = found.proof if flow.value >= found.widest.flow * (1 - 1e-6) else "none"
    return {
        "name": case.name,
        "published": published(case),
        "flow": round(flow.value, 4),
        "bound": round(max(found.bound, flow.value), 4),
        "proven": proof != "none",
        "proof": PROOFS[proof],
        "cpu_s": round(cpu_s, 3),
        "chosen": {
            "stages": chosen_flow.stages(),
            "flow": round(chosen_flow.value, 4),
            "decode_tokens_per_s": round(found.chosen.outlook.decode_tokens_per_s, 2),
        },
    }


def _seated(
    case: Case, classes: tuple[Group, ...], pipeline: Pipeline
) -> tuple[dict[int, Span], LayoutFlow]:
    spans = seats(pipeline.stages, [g.nodes for g in classes])
    return spans, flow_of(case, spans)


def main(arguments: list[str] | None = None) -> int:
    """Run every case; 2 and one line on standard error when the folder is not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layouts", type=Path, help="write our layouts into this folder")
    options = parser.parse_args(arguments)
    try:
        for read in cases(options.folder):
            print(json.dumps(run(read(), options.layouts)), flush=True)
    except (BadFolder, OSError) as error:
        print(f"benchmarks.helix: {error}", file=sys.stderr)
        return USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
