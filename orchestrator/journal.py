"""Desired state and plan on disk, so that a restarted controller goes on where the last one stopped.

A save is a new file, synced and renamed over the old one; a damaged file is kept aside and said aloud.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import structlog

from placement.codec import decode, encode
from placement.plan import Plan

from .ports import Desired

JOURNAL = "journal.json"
"""Name of the file below the state folder."""

log = structlog.get_logger()


class FileJournal:
    """One file below the state folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Desired | None:
        """The last saved state; None at the first start or when the file is damaged."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            return _parse(text)
        except (ValueError, KeyError, TypeError) as error:
            aside = self._path.with_suffix(".damaged")
            self._path.replace(aside)
            log.error("journal.damaged", kept=str(aside), error=str(error))  # noqa: TRY400 - said in one line
            return None

    def save(self, desired: Desired) -> None:
        """Returns once the state is on disk."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        body = {
            "yaml": desired.yaml,
            "revision": desired.revision,
            "plan": None if desired.plan is None else json.loads(encode(desired.plan)),
        }
        text = json.dumps(body, sort_keys=True)
        sealed = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": body})
        fresh = self._path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        _sync_folder(self._path.parent)


def _parse(text: str) -> Desired:
    sealed = json.loads(text)
    body = sealed["body"]
    found = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    if found != sealed["sha256"]:
        raise ValueError("the checksum differs")
    plan = body["plan"]
    return Desired(
        yaml=str(body["yaml"]),
        revision=int(body["revision"]),
        plan=None if plan is None else decode(Plan, json.dumps(plan).encode()),
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
