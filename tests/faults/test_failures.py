"""What fails for a reason outside the adapter is told, ends the command with status 1, and is tried again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from catalogs.hubs.folder import slug
from catalogs.ledger import open_reader
from tests.faults.conftest import Commands
from tests.stand_ins.small_world import STATES, SmallWorld


def endings(world: SmallWorld) -> dict[str, tuple[str, str]]:
    rows = open_reader(world.data).rows("SELECT entry_id, state, reason FROM states")
    return {str(row["entry_id"]): (str(row["state"]), str(row["reason"])) for row in rows}


def test_a_place_on_the_hub_that_is_taken_fails_one_entry_until_it_is_free(
    world: SmallWorld, commands: Commands, tmp_path: Path
) -> None:
    first = world.copy_to(tmp_path / "first")
    assert commands.migrate(first).status == 0
    [alpha] = [name for name in first.published() if (first.hub / slug("alpha for tiny-v2", name)).is_dir()]
    taken = world.hub / slug("alpha for tiny-v2", alpha)
    taken.mkdir(parents=True)
    ending = commands.migrate(world)
    assert ending.status == 1
    assert "published 2  passed 1  rejected 0  skipped 3  quarantined 1  failed 1" in ending.output
    assert endings(world) == {**STATES, "alpha.safetensors": ("failed", "name-taken")}
    taken.rmdir()
    assert commands.migrate(world).status == 0
    assert endings(world) == STATES


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_shard_and_not_the_run(
    world: SmallWorld, repository: Path, prefect_api: str
) -> None:
    command = [sys.executable, "-m", "flows.command_line", "migrate", str(world.settings), "--data", str(world.data)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(repository),
        "PYTHONWARNINGS": "ignore",
        "PREFECT_API_URL": prefect_api,
    }
    dying = {"LORAX_ENGINE": "process=1", "LORAX_CRASH_POINT": "after-conversion-staged"}
    run = subprocess.run(command, env={**environment, **dying}, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    states = endings(world)
    assert states["alpha.safetensors"] == ("failed", "unexpected-error")
    assert states["cut.safetensors"] == STATES["cut.safetensors"]
    assert Path(run.stdout.splitlines()[-1]).is_file()
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert endings(world) == STATES
