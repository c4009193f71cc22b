"""The guide tells the truth: its YAML is read, its commands run, its settings exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator import exit_codes
from orchestrator.cli import main
from orchestrator.inventory_file import parse_inventory
from orchestrator.settings import Settings, variable
from orchestrator.spec import parse_spec
from orchestrator.spec_grammar import Constraints, Gateway, Model, Spec, Tuning

ROOT = Path(__file__).parents[2]
SPECS = (ROOT / "docs" / "guide" / "specs.md").read_text()
CLI = (ROOT / "docs" / "guide" / "cli.md").read_text()

YAML = re.findall(r"```yaml\n(.*?)```", SPECS, re.DOTALL)
COMMANDS = re.findall(r"^\$ shardyard (.*)$", CLI, re.MULTILINE)


def test_the_specs_of_the_guide_are_read_and_name_every_key() -> None:
    small, full, inventory = YAML
    assert parse_spec(small, "guide").app.demands[0].id == "smollm2"
    assert parse_spec(full, "guide").gateway.count == 2
    assert len(parse_inventory(inventory, "guide").nodes) == 3
    for model in (Spec, Model, Tuning, Constraints, Gateway):
        for key in model.model_fields:
            assert f"{key}:" in full


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_guide_run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(main, shlex.split(command))
    assert done.exit_code == 0, done.stderr
    assert done.stdout


def test_every_command_setting_and_exit_code_is_described() -> None:
    for name in main.commands:
        assert f"`{name}" in CLI
    for name in Settings.model_fields:
        assert f"`{variable(name)}`" in CLI
    numbers = {
        value for name, value in vars(exit_codes).items() if name.isupper() and name[0] != "_"
    }
    for number in numbers:
        assert f"| {number} |" in CLI
