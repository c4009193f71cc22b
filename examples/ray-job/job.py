"""Serves a model on the Ray cluster that this job runs on, asks it one question, and leaves."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from orchestrator.client import chat
from orchestrator.lifecycle import UpRequest, down, up
from orchestrator.settings import load_settings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=Path, default=Path(__file__).parent / "app.yaml")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--keep", action="store_true", help="leave the model serving")
    arguments = parser.parse_args()
    state = Path(tempfile.mkdtemp(prefix="shardyard-job-"))
    settings = load_settings(state=state, port=arguments.port, gateways=1)
    request = UpRequest(spec=arguments.spec, join=os.environ["RAY_ADDRESS"])
    endpoint = up(request, settings, print)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = "".join(chat(endpoint.url, "smollm2", question, max_tokens=24, temperature=0))
    print(f"ANSWER: {answer}")
    if not arguments.keep:
        down(settings, print)
        shutil.rmtree(state)


if __name__ == "__main__":
    main()
