"""The command line against a live lab, and what Ray's own tools show of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from emulated_paths import LAB, SPEC
from support.lab import Shardyard, until
