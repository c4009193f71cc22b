"""The public Helix benchmark: figures where its data is, the way of the command everywhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.helix import main
from benchmarks.helix_files import read_layout

FOLDER = Path(
    os.environ.get("SHARDYARD_HELIX", Path(__file__).parents[2].parent / "shared" / "helix")
)
needs_data = pytest.mark.skipif(
    not (FOLDER / "cases.json").is_file(),
    reason="no Helix data: put it beside the repository or name its folder in SHARDYARD_HELIX",
)

MBPS = "1000 * mbps"


def cluster(types: list[str], bandwidth: str = MBPS) -> str:
    nodes = range(len(types))
    ends = [("source", str(i)) for i in nodes] + [(str(i), "sink") for i in nodes]
    ends += [(str(i), str(j)) for i in nodes for j in nodes if i < j]
    parts = [f"[NodeNames]\ntotal_compute_nodes={len(types)}"]
    parts += [f"[ComputeNode-{i}]\ntype={kind}" for i, kind in enumerate(types)]
    parts += [f"[Link-{a}-{b}]\nbandwidth={bandwidth}\nlatency=1 * MilliSec" for a, b in ends]
    return "\n".join(parts)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three nodes of two types for a model of four layers: by hand, 60 tokens/s when the pair holds
    half.
    """
    table = {
        "layers": 4,
        "token_bytes": 2,
        "act_bytes": 1000,
        "types": {
            "BIG": {"max_layers": 3, "tput": [100, 60, 30], "kv": [90_000, 90_000, 60_000]},
            "SMALL": {"max_layers": 2, "tput": [50, 30], "kv": [40_000, 30_000]},
        },
    }
    case = {
        "name": "three",
        "model": "m",
        "cluster": "cluster.ini",
        "machine_profiles": "machines.ini",
        "throughput_table": "t",
        "layouts": {"pair": "pair.ini", "gone": "gone.ini"},
    }
    (tmp_path / "cases.json").write_text(json.dumps([case]))
    (tmp_path / "typical_throughput_tables.json").write_text(json.dumps({"t": table}))
    (tmp_path / "cluster.ini").write_text(cluster(["SMALL", "BIG", "SMALL"]))
    cards = "inbound_nic_speed = 10 * gbps\noutbound_nic_speed = 10 * gbps\n"
    (tmp_path / "machines.ini").write_text(f"[BIG]\n{cards}[SMALL]\n{cards}")
    (tmp_path / "pair.ini").write_text(
        "[Settings]\noffset=2\n[Solution]\n"
        "compute_node_2=[2, 3]\ncompute_node_3=[0, 1]\ncompute_node_4=[]\n"
    )
    for kind in ("big", "small"):
        place = tmp_path / "profiles" / "m" / kind
        place.mkdir(parents=True)
        for phase in ("decode", "prompt"):
            (place / f"{phase}_bs2time.csv").write_text("0,0\n2,1.5\n1000,20\n")
    return tmp_path


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_small_case_is_as_worked_out_by_hand(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--layouts", str(folder / "out")]) == 0
    (line,) = lines(capsys)
    assert line["published"] == {"pair": {"chain": 30.0, "partial": 30.0}, "gone": None}
    assert line["flow"] == pytest.approx(60.0)
    assert line["proven"]
    assert line["flow"] <= line["bound"]
    for policy in ("flow", "throughput"):
        spans = read_layout(folder / "out" / "three" / policy / "sol.ini", 3)
        held = sorted(layer for s in spans.values() for layer in range(s.start, s.end))
        assert set(held) == {0, 1, 2, 3}


def test_a_layout_that_is_written_reads_as_it_flows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(folder), "--layouts", str(folder / "out")])
    flow = lines(capsys)[0]["flow"]
    cases = json.loads((folder / "cases.json").read_text())
    cases[0]["layouts"] = {"ours": "out/three/flow/sol.ini"}
    (folder / "cases.json").write_text(json.dumps(cases))
    assert main([str(folder)]) == 0
    assert lines(capsys)[0]["published"]["ours"]["chain"] == pytest.approx(flow)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("cases.json", "[", "not JSON"),
        ("cases.json", "[]", "a list of cases"),
        ("cases.json", '[{"name": "x"}]', "no text for model"),
        ("typical_throughput_tables.json", "{}", "no table 't'"),
        ("cluster.ini", "[NodeNames]\ntotal_compute_nodes=0\n", "no compute nodes"),
        ("cluster.ini", cluster(["HUGE"]), "HUGE"),
        ("cluster.ini", cluster(["SMALL", "BIG"], "fast"), "fast"),
        ("cluster.ini", cluster(["SMALL"]), "do not fit"),
        ("machines.ini", "[BIG]\n", "lack"),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    (folder / name).write_text(text)
    assert main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") <= 2


@needs_data
def test_published_figures_are_reproduced_and_ours_are_better(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([str(FOLDER)]) == 0
    found = {line["name"]: line for line in lines(capsys)}
    single, quality = found["single24-llama70b"], found["quality10-llama30b"]
    assert single["published"]["helix"]["chain"] == pytest.approx(1289.56, abs=0.01)
    assert single["published"]["swarm"]["chain"] == pytest.approx(757.85, abs=0.01)
    assert single["published"]["petals"]["chain"] == pytest.approx(531.70, abs=0.01)
    assert single["published"]["petals"]["partial"] == pytest.approx(952.11, abs=0.01)
    assert quality["published"]["helix"]["chain"] == pytest.approx(286.59, abs=0.01)
    assert single["flow"] == pytest.approx(2045.64, abs=0.01)
    assert quality["flow"] == pytest.approx(286.59, abs=0.01)
    assert single["proven"]
    assert quality["proven"]
    assert single["chosen"]["stages"] < 16
    assert single["chosen"]["decode_tokens_per_s"] > 275
