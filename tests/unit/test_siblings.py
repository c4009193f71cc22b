"""A user's folder, or another distribution, with one of our generic names is refused with one clear error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import InstallError
from orchestrator.siblings import check_siblings, shadowed

REPOSITORY = Path(__file__).parents[2]


def imported_from(
    folder: Path, what: str = "import orchestrator"
) -> subprocess.CompletedProcess[str]:
    """Imports with `folder` before the repository, as a Ray job's working directory is."""
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(REPOSITORY)!r}]; {what}"
    return subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, cwd=folder
    )


def test_our_own_packages_pass() -> None:
    check_siblings()
    assert shadowed(REPOSITORY) == []


def test_packages_of_another_installation_are_named_with_both_places(tmp_path: Path) -> None:
    with pytest.raises((InstallError, ImportError)) as caught:
        check_siblings(tmp_path)
    assert str(tmp_path / "placement") in str(caught.value)
    assert str(REPOSITORY / "placement") in str(caught.value)


@pytest.mark.parametrize("name", ["actors", "placement"])
def test_a_users_folder_of_our_name_is_refused(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name
    theirs.mkdir()
    (theirs / "__init__.py").write_text("")
    done = imported_from(tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()
    said = "\n".join(last[-2:])
    assert f"`{name}`" in said
    assert str(theirs) in said
    assert str(REPOSITORY / name) in said


def test_a_plain_folder_without_code_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    done = imported_from(tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_check_costs_nothing_heavy(tmp_path: Path) -> None:
    done = imported_from(tmp_path, "import orchestrator; print(sorted(sys.modules))")
    loaded = set(done.stdout.replace("'", "").strip("[]\n").split(", "))
    assert not loaded & {"ray", "numpy", "pydantic", "httpx", "yaml", "rich", "asyncio"}
