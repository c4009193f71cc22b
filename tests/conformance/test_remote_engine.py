"""The conformance suite over the remote engine: a server that somebody else started, in token ids and in words."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import support.openai_server
from support.engines import engine_config

from actors.conformance.plugin import engine
from actors.conformance.subject import Subject
from actors.conformance.test_engine import *  # noqa: F403 - the suite itself
from actors.engines.remote import RemoteEngine

__all__ = ["engine"]
del test_a_schema_is_kept_to  # noqa: F821 - the stand-in writes no JSON; tests/engines asks a real server

PROMPTS = tuple((11 + n, 12, 13) for n in range(8))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A stand-in for a vendor's server on a free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = Path(support.openai_server.__file__)
    options = ["--port", str(port), "--served", "theirs", "--window", "512", "--sequences", "4"]
    command = [sys.executable, "-S", str(script), *options, "--pace", "0.002"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        assert server.stdout is not None
        try:
            assert b"listening" in server.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


@pytest.fixture(params=["vllm", "openai"], scope="module")
def subject(request: pytest.FixtureRequest, url: str) -> Subject:
    """Each way of asking in turn."""
    entry = {
        "url": url, "name": "stand-in", "dialect": request.param, "names": {"ours": "theirs"}, "allow_private": True,
    }  # fmt: skip
    variables = {"SHARDYARD_REMOTE": json.dumps([entry])}
    return Subject(
        name=f"remote-{request.param}",
        make=lambda: RemoteEngine(variables=variables),
        config=engine_config(
            model="ours", endpoint=f"{url}/v1", window=512, max_sequences=4, eos_ids=(2,)
        ),
        prompts=PROMPTS,
        texts=("one", "two"),
        load_s=20,
    )
