"""Fixtures of the flow tests: one Prefect test server for the whole session, and a small migration."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stand_ins.small_world import SmallWorld, make_small_world


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """Returns a small migration that nobody has run yet. Read only: copy it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the model loaders
        return make_small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(small_world: SmallWorld, tmp_path: Path) -> SmallWorld:
    """Returns a small migration of this test alone."""
    return small_world.copy_to(tmp_path)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Runs a temporary Prefect server, for flows that are called in this process."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            prefect_test_harness(server_startup_timeout=300),
            temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        ):
            yield
