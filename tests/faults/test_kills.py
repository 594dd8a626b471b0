"""A run that is killed anywhere leaves nothing that the next run cannot go on from: nothing lost, nothing twice."""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalogs.errors import Refused
from catalogs.ledger import open_reader
from catalogs.release import open_release
from tasks.crash_points import CRASH_POINTS
from tests.faults.conftest import Commands
from tests.stand_ins.small_world import STATES, SmallWorld

KILLED = -signal.SIGKILL
RANDOM_KILLS = 6


@dataclass(frozen=True)
class Undisturbed:
    """What one run without any trouble comes to."""

    world: SmallWorld
    published: list[str]


@pytest.fixture(scope="module")
def undisturbed(small_world: SmallWorld, commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Returns a migration that nobody has disturbed."""
    world = small_world.copy_to(tmp_path_factory.mktemp("undisturbed"))
    ending = commands.migrate(world)
    assert ending.status == 0, ending.output
    return Undisturbed(world, world.published())


def broken_promises(world: SmallWorld, undisturbed: Undisturbed | None = None) -> list[str]:
    """Returns what is wrong with a data folder; at the end of all trouble also what it lacks."""
    found = [f"{name} is published {many} times" for name, many in Counter(world.published()).items() if many > 1]
    for folder in world.hub.glob("[!.]*"):
        try:
            open_release(folder)
        except Refused as problem:
            found.append(f"{folder.name} is on the hub but not whole: {problem}")
    if undisturbed is None:
        return found
    found += [f"{name} was lost" for name in undisturbed.published if name not in world.published()]
    rows = open_reader(world.data).rows("SELECT entry_id, state, reason FROM states")
    ends = {row["entry_id"]: (row["state"], row["reason"]) for row in rows}
    found += [f"{name} ended as {ends.get(name)}, not {end}" for name, end in STATES.items() if ends.get(name) != end]
    pending = open_reader(world.data).rows("SELECT conversion_id FROM publications WHERE progress = 'pending'")
    found += [f"{row['conversion_id']} is still pending" for row in pending]
    settled = open_reader(world.data).rows(
        "SELECT subject, count(*) AS many FROM event WHERE kind = 'outcome' GROUP BY 1"
    )
    return found + [f"{row['subject']} was settled {row['many']} times" for row in settled if row["many"] != 1]


def test_killed_at_every_named_place_in_turn_it_ends_as_if_nothing_had_happened(
    world: SmallWorld, commands: Commands, undisturbed: Undisturbed
) -> None:
    for point in CRASH_POINTS:
        ending = commands.migrate(world, crash_point=point)
        assert ending.status == KILLED, f"{point} was not reached: {ending.output}"
        assert broken_promises(world) == [], point
    ending = commands.migrate(world)
    assert ending.status == 0, ending.output
    assert broken_promises(world, undisturbed) == []
    assert "nothing to do: all 8 entries are settled" in commands.migrate(world).output


@pytest.mark.parametrize("point", ["after-hub-published", "after-intent", "after-published"])
def test_killed_once_around_publication_it_publishes_each_conversion_once(
    world: SmallWorld, commands: Commands, undisturbed: Undisturbed, point: str
) -> None:
    assert commands.migrate(world, crash_point=point).status == KILLED
    assert commands.migrate(world).status == 0
    assert broken_promises(world, undisturbed) == []


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(
    world: SmallWorld, commands: Commands, undisturbed: Undisturbed
) -> None:
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    killed = 0
    for _ in range(RANDOM_KILLS):
        ending = commands.migrate(world, kill_after=moments.uniform(0.2, 5.0))
        assert ending.status in {0, KILLED}, f"seed {seed}: {ending.output}"
        killed += ending.status == KILLED
        assert broken_promises(world) == [], f"seed {seed}"
    assert commands.migrate(world).status == 0, f"seed {seed}"
    assert broken_promises(world, undisturbed) == [], f"seed {seed}"
    assert killed > 0, f"seed {seed}"


def test_the_checks_see_a_conversion_that_is_published_twice(undisturbed: Undisturbed, tmp_path: Path) -> None:
    world = SmallWorld(undisturbed.world.settings, tmp_path / "data")
    shutil.copytree(undisturbed.world.data, world.data)
    first = min(world.hub.glob("[!.]*"))
    shutil.copytree(first, world.hub / "again")
    assert broken_promises(world, undisturbed) == [f"{open_release(first).conversion_id} is published 2 times"]


def test_the_checks_see_a_publication_that_is_lost_or_cut(undisturbed: Undisturbed, tmp_path: Path) -> None:
    world = SmallWorld(undisturbed.world.settings, tmp_path / "data")
    shutil.copytree(undisturbed.world.data, world.data)
    first, second, *_ = sorted(world.hub.glob("[!.]*"))
    lost = open_release(first).conversion_id
    shutil.rmtree(first)
    (second / "README.md").unlink()
    found = broken_promises(world, undisturbed)
    assert f"{lost} was lost" in found
    assert any(f"{second.name} is on the hub but not whole" in line for line in found)
