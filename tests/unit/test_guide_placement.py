"""The guide to placement tells the truth: its files are read, its commands run, its rows and fields exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator import exit_codes
from orchestrator.cli import main
from placement.policy import POLICIES
from placement.row_words import unit

GUIDE = (Path(__file__).parents[2] / "docs" / "guide" / "placement.md").read_text()
FILES = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL))
COMMANDS = re.findall(r"^\$ shardyard (.*)$", GUIDE, re.MULTILINE)
PLAN = ["plan", "--inventory", "inventory.yaml", "app.yaml", "-o", "json"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def ask(command: list[str]) -> Result:
    done = CliRunner().invoke(main, command)
    assert done.exit_code == exit_codes.OK, done.stderr
    return done


def test_the_commands_of_the_guide_run(folder: Path) -> None:
    assert len(COMMANDS) >= 6
    for command in COMMANDS:
        line, _, target = command.partition(" > ")
        done = ask(shlex.split(line))
        assert done.stdout
        if target:
            (folder / target).write_text(done.stdout)


def test_a_plan_has_every_field_that_the_guide_explains() -> None:
    document = json.loads(ask(PLAN).stdout)
    explained = re.findall(r"^\| (`\w[^|]*) \| ", GUIDE.partition("## Prices")[2], re.MULTILINE)
    fields = [name for cell in explained for name in re.findall(r"`(\w+)", cell)]
    assert {"value", "gap", "prices", "slots"} <= set(fields)
    assert set(fields) <= set(document)


def test_the_rows_of_the_guide_are_those_that_are_explained_in_words() -> None:
    named = re.findall(r"^\| (`\w+:[^|]*) \| ", GUIDE, re.MULTILINE)
    rows = [row for cell in named for row in re.findall(r"`([^`]+)`", cell)]
    assert len(rows) >= 12
    for row in rows:
        concrete = row.replace("tpN", "tp4").replace("partsK", "parts1")
        assert unit(concrete).one != f"one more of {concrete}"
    kinds = {row.partition(":")[0] for row in rows}
    assert {row.partition(":")[0] for row in json.loads(ask(PLAN).stdout)["prices"]} <= kinds


def test_the_guide_names_every_policy() -> None:
    for name in POLICIES:
        assert name in FILES["app.yaml"]


def test_an_altered_price_is_refused_as_the_guide_says(folder: Path) -> None:
    document = json.loads(ask(PLAN).stdout)
    document["prices"] = {row: price * 2 for row, price in document["prices"].items()}
    (folder / "plan.json").write_text(json.dumps(document))
    done = CliRunner().invoke(
        main, ["verify", "plan.json", "--inventory", "inventory.yaml", "app.yaml"]
    )
    assert done.exit_code == exit_codes.INFEASIBLE
