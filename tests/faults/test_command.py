"""The command as a user starts it: a process of its own, with a Prefect server of its own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stand_ins.small_world import SmallWorld

pytestmark = pytest.mark.slow

SCORING = "convert   4 done"
"""The line after which the models are at work."""


@pytest.fixture
def environment(repository: Path) -> dict[str, str]:
    """Returns an environment in which no Prefect API is configured."""
    return {**os.environ, "PYTHONPATH": str(repository), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}


def start(world: SmallWorld, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.command_line", "migrate", str(world.settings), "--data", str(world.data)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for seen in process.stdout:
        if seen.startswith(line):
            return
    raise AssertionError(f"{line!r} never came: {process.communicate()}")


def servers(world: SmallWorld) -> list[int]:
    """Returns the processes that have the Prefect database of a data folder as their home."""
    home = f"PREFECT_HOME={world.data / 'prefect'}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"server_child" in (folder / "cmdline").read_bytes() and home in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until_no_server_of(world: SmallWorld) -> None:
    deadline = time.monotonic() + 120
    while servers(world):
        assert time.monotonic() < deadline, "a Prefect server outlives the command"
        time.sleep(0.1)


def prefect_states(world: SmallWorld) -> list[str]:
    with sqlite3.connect(world.data / "prefect" / "prefect.db") as database:
        return sorted(str(row[0]) for row in database.execute("SELECT state_type FROM flow_run"))


def test_killed_it_leaves_no_server_and_the_next_run_goes_on(world: SmallWorld, environment: dict[str, str]) -> None:
    with start(world, environment) as process:
        wait_for(process, SCORING)
        assert len(servers(world)) == 1
        process.kill()
    wait_until_no_server_of(world)
    with start(world, environment) as again:
        output, errors = again.communicate()
    assert (again.returncode, errors) == (0, "")
    lines = output.splitlines()
    assert "published 3  passed 1  rejected 0  skipped 3  quarantined 1  failed 0" in lines
    assert Path(lines[-1]).is_file()
    assert servers(world) == []
    assert prefect_states(world) == ["COMPLETED", "CRASHED"]
    with start(world, environment) as third:
        output, errors = third.communicate()
    assert (third.returncode, errors) == (0, "")
    assert output.startswith("nothing to do: all 8 entries are settled")
    assert len(prefect_states(world)) == 2, "nothing to do needs no Prefect"


def test_ctrl_c_ends_it_within_seconds_with_one_line(world: SmallWorld, environment: dict[str, str]) -> None:
    with start(world, environment) as process:
        wait_for(process, SCORING)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.strip() == "interrupted: the same command goes on where this run stopped"
    wait_until_no_server_of(world)


def test_a_second_run_on_the_same_data_is_refused_at_once(world: SmallWorld, environment: dict[str, str]) -> None:
    with start(world, environment) as first:
        wait_for(first, SCORING)
        with start(world, environment) as second:
            _, errors = second.communicate()
        assert second.returncode == 2
        assert f"process {first.pid} is writing to this ledger" in errors
        first.kill()
