from __future__ import annotations

from pathlib import Path

import pytest

from flows.folders import Folders
from flows.settings import load_migration
from flows.to_do import divide, find_work, settings_identity, survey, work_key
from tests.stand_ins.small_world import SmallWorld, add_adapter
from tests.stand_ins.tiny_bases import make_base


def identity(world: SmallWorld, old: str = "", new: str = "") -> str:
    text = world.settings.read_text()
    assert old in text
    world.settings.write_text(text.replace(old, new))
    return settings_identity(load_migration(world.settings))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('method = "copy"', 'method = "lora-x"'),
        ("samples = 2", "samples = 3"),
        ("divergence_gain = -9.0", "divergence_gain = 0.5"),
        ('labels = ["Tiny v1"]', 'labels = ["Tiny One"]'),
        ("[gate]", '[policy]\nlicence_unknown = "skip"\n[gate]'),
        ("[gate]", '[hub]\npath = "elsewhere"\n[gate]'),
        ('name = "tiny"', 'name = "small"'),
        ("[gate]", "[refresh]\nallowed = true\n[gate]"),
    ],
)
def test_a_setting_that_can_change_an_outcome_changes_the_identity(world: SmallWorld, old: str, new: str) -> None:
    assert identity(world) != identity(world, old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("steps = 2", "steps=2 # two"),
        ("[gate]", "[policy]\n[gate]"),
        ("[gate]", "[refresh]\nsteps = 3\n[gate]"),
    ],
)
def test_what_changes_no_outcome_does_not(world: SmallWorld, old: str, new: str) -> None:
    assert identity(world) == identity(world, old, new)


def test_how_long_refreshes_may_take_counts_for_each_and_not_for_all_together(world: SmallWorld) -> None:
    """Those that found no time are not settled in the first place."""
    allowed = identity(world, "[gate]", "[refresh]\nallowed = true\n[gate]")
    assert identity(world, "allowed = true", "allowed = true\nseconds_in_all = 600") == allowed
    assert identity(world, "allowed = true", "allowed = true\nseconds_per_adapter = 60") != allowed


def test_bases_count_by_their_content_and_not_by_their_place(world: SmallWorld) -> None:
    before = identity(world)
    bases = world.settings.parent / "bases"
    (bases / "tiny-v2").rename(bases / "moved")
    assert identity(world, "bases/tiny-v2", "bases/moved") == before
    make_base(bases / "moved", seed=99)
    assert identity(world) != before


def test_an_entry_is_done_when_its_work_key_has_an_outcome(world: SmallWorld) -> None:
    migration, folders = load_migration(world.settings), Folders(world.data)
    found = survey(migration, folders, remember=False)
    keys = [work_key(one, "settings") for one in found]
    todo = divide(found, "settings", settled={keys[0]: {"state": "published"}})
    assert [item.key for item in todo.items] == [one["entry_key"] for one in found[1:]]
    assert todo.settled == {found[0]["entry_key"]: {"state": "published"}}
    assert [key for _, key in todo.work_keys] == keys


def test_other_bytes_under_the_same_name_are_other_work(world: SmallWorld) -> None:
    migration, folders = load_migration(world.settings), Folders(world.data)
    before = dict(find_work(migration, folders, None, remember=False).work_keys)
    add_adapter(world.settings.parent, "gamma", seed=123)
    after = dict(find_work(migration, folders, None, remember=False).work_keys)
    assert {key for key in before if before[key] != after[key]} == {"catalogue:gamma.safetensors"}


def test_looking_for_work_writes_nothing_unless_it_may_remember(world: SmallWorld) -> None:
    find_work(load_migration(world.settings), Folders(world.data), None, remember=False)
    assert not world.data.exists()


def test_folders_are_named_and_not_made(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "data")
    assert folders.latest_report == tmp_path / "data" / "reports" / "latest.html"
    assert not (tmp_path / "data").exists()
