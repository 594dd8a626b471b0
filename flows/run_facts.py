"""What is noted about a run as such."""

from __future__ import annotations

import platform
import secrets
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import lorax
from catalogs.ledger import Fact
from flows.settings import Migration

VERSIONED = ("torch", "diffusers", "transformers", "safetensors", "duckdb", "prefect")


def new_run_id() -> str:
    """Returns a name that sorts by time and that no other run has."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def run_started(run_id: str, migration: Migration) -> Fact:
    """Returns the fact that a run has begun, with all that decides what it does."""
    body = {
        "migration": migration.name,
        "settings": migration.effective(),
        "code_version": lorax.__version__,
        "versions": versions(),
    }
    return "run_started", run_id, body


def versions() -> dict[str, str]:
    """Returns the versions of what computes the results."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # e.g. prefect-client in place of prefect
            continue
    return found
