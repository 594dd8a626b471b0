"""A run that is killed around a refresh: what was learnt is used by the next run, and learnt once."""

from __future__ import annotations

import json
import signal
import warnings
from collections import Counter
from pathlib import Path

import pytest

from catalogs.ledger import open_reader
from tasks.crash_points import REFRESH_POINTS
from tests.faults.conftest import Commands
from tests.stand_ins.small_world import SmallWorld
from tests.stand_ins.strange_letters import allow_refresh, make_strangers

KILLED = -signal.SIGKILL


@pytest.fixture
def strangers(tmp_path: Path) -> SmallWorld:
    """Returns a migration that publishes nothing without a refresh."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the model loaders
        world = make_strangers(tmp_path)
    allow_refresh(world, steps=60)
    return world


def refreshed(world: SmallWorld) -> dict[str, tuple[int, int]]:
    """Returns inode and time of what every staged refresh has on record, by conversion id."""
    staged = (world.data / "conversions").glob("[!.]*/conversion.json")
    status = {path.parent.name: path.stat() for path in staged if json.loads(path.read_bytes())["method"] == "refresh"}
    return {name: (found.st_ino, found.st_mtime_ns) for name, found in status.items()}


def told(world: SmallWorld, kind: str) -> Counter[str]:
    rows = open_reader(world.data).rows("SELECT subject FROM event WHERE kind = ?", [kind])
    return Counter(str(row["subject"]) for row in rows)


def test_killed_around_a_refresh_it_goes_on_with_what_was_learnt(strangers: SmallWorld, commands: Commands) -> None:
    learnt: dict[str, tuple[int, int]] = {}
    for point in REFRESH_POINTS:
        ending = commands.migrate(strangers, crash_point=point)
        assert ending.status == KILLED, f"{point} was not reached: {ending.output}"
        assert refreshed(strangers).items() >= learnt.items(), f"{point}: learnt again"
        learnt = refreshed(strangers)
        assert learnt, point
        assert strangers.published() == []
    ending = commands.migrate(strangers)
    assert ending.status == 0, ending.output
    found = refreshed(strangers)
    assert found.items() >= learnt.items(), "learnt again"
    assert strangers.published() == sorted(found)
    assert "2 of them refreshed: 2 published" in ending.output
    for kind in ("converted", "scored", "judged", "outcome"):
        assert set(told(strangers, kind).values()) == {1}, kind
    assert len(told(strangers, "converted")) == 4
    assert "nothing to do: all 2 entries are settled" in commands.migrate(strangers).output
