"""Shardyard's outer package: composes `actors` and `placement` into a cluster and faces the user."""

from __future__ import annotations

from .siblings import check_siblings

check_siblings()
