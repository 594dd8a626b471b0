"""Fixtures of the fault tests: one Prefect server, a process that has imported everything, small worlds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.server import API_URL, OwnServer
from tests.stand_ins.small_world import SmallWorld, make_small_world

ZYGOTE = Path(__file__).with_name("zygote.py")


@dataclass(frozen=True)
class Ending:
    """How a run of the command ended: its exit status (negative: the signal that killed it) and what it printed."""

    status: int
    output: str


class Commands:
    """Runs the real command again and again, each time in a process of its own that is killed when asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def migrate(self, world: SmallWorld, *, crash_point: str = "", kill_after: float = 0.0) -> Ending:
        """Runs `lorax migrate`; dies at a named place, or is killed after some seconds where they are given."""
        order = {
            "arguments": ["migrate", str(world.settings), "--data", str(world.data)],
            "environment": {"LORAX_CRASH_POINT": crash_point},
            "kill_after": kill_after,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Ending(**answer)


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Returns the API URL of a Prefect server that outlives every run of these tests."""
    server = OwnServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server.url()
    server.stop()


@pytest.fixture(scope="session")
def commands(prefect_api: str, repository: Path) -> Iterator[Commands]:
    """Returns a way to run the command without paying for its imports each time."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(ZYGOTE)],
        cwd=repository,
        env={**os.environ, API_URL: prefect_api, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Commands(process)
        assert process.stdin is not None
        process.stdin.close()


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
