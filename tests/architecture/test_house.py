"""The house stays: import contracts, doors, sizes, the map in ARCHITECTURE.md, and a command line without Ray."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("placement", "actors", "orchestrator")
LONGEST_FILE = 500
LONGEST_FUNCTION = 60


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, cwd=ROOT, timeout=100, check=False
    )


def test_import_contracts_are_kept() -> None:
    done = run("-c", "from importlinter.cli import lint_imports_command as c; c()")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_grows_beyond_the_limit(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE, f"{lines} lines: split the file by what it decides"


def test_no_function_grows_beyond_the_limit() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION + 20
    ]
    assert long == []


def test_every_module_says_what_it_decides() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.read_text(encoding="utf-8").strip()
        and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert silent == []


def test_tests_hide_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("argument", ["--help", "--version", "plan --help", "explain --help"])
def test_the_command_line_starts_without_ray(argument: str) -> None:
    code = (
        "import sys, runpy; sys.argv = ['shardyard', *%r.split()]\n"
        "try:\n    runpy.run_module('orchestrator', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'openvino_genai', 'numpy', 'uvicorn', 'torch'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = run("-c", code % argument)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_placement_imports_without_ray() -> None:
    done = run("-c", "import placement, sys; print('ray' in sys.modules, 'asyncio' in sys.modules)")
    assert done.stdout.startswith("False"), done.stdout + done.stderr


def test_the_map_names_places_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:placement|actors|orchestrator)/[\w/]+\.(?:py|toml))(?::(\w+))?`", text
    )
    assert len(named) >= 10
    for place, name in named:
        path = ROOT / place
        assert path.is_file(), f"ARCHITECTURE.md names {place}, which does not exist"
        if name:
            found = re.search(
                rf"^\s*(?:async )?(?:def|class) {name}\b", path.read_text(), re.MULTILINE
            )
            assert found, f"ARCHITECTURE.md names {place}:{name}, which does not exist"


def test_no_lock_names_a_registry() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text(encoding="utf-8"), path.name


def test_every_dependency_of_the_core_is_pinned_with_a_hash() -> None:
    text = (ROOT / "requirements" / "core.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)


def test_heavy_frameworks_are_not_in_the_core() -> None:
    text = (ROOT / "requirements" / "core.txt").read_text(encoding="utf-8")
    assert not re.search(r"^(torch|vllm|nvidia-(?!ml-py=)|transformers)", text, re.MULTILINE)
