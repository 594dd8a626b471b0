"""Fixtures of the task tests: a small migration, and what its first steps give when they are called by hand."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.bases import BaseFolder
from tasks.conversion import Converted, convert_shard
from tasks.planning import PreparedPair, prepare_pair
from tasks.reading import Fetched, fetch_shard
from tasks.survey import Found, survey_catalogue
from tests.stand_ins.small_world import GOOD, SOURCE, TARGET, SmallWorld, make_small_world

PROBE = {
    "prompts": ["a digit", "a handwritten one"],
    "samples": 2,
    "timesteps": [500],
    "steps": 2,
    "guidance": 2.0,
    "seed": 0,
}


@dataclass(frozen=True)
class Steps:
    """A small migration after its conversions, nothing scored yet."""

    data: Path
    bases: list[BaseFolder]
    found: dict[str, Found]
    fetched: dict[str, Fetched]
    pair: PreparedPair
    converted: dict[str, Converted]

    @property
    def conversions(self) -> Path:
        """The folder with the staged conversions."""
        return self.data / "conversions"


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


def base_folders(world: SmallWorld) -> list[BaseFolder]:
    """Returns the two bases as tasks want them."""
    bases = world.settings.parent / "bases"
    labels = {SOURCE: ["Tiny v1"], TARGET: ["Tiny v2"]}
    return [BaseFolder(name=name, path=str(bases / name), labels=labels[name]) for name in (SOURCE, TARGET)]


def survey(world: SmallWorld) -> dict[str, Found]:
    """Returns the entries of a small migration by entry id, under the default policy."""
    found = survey_catalogue(source="folder", location=str(world.catalogue), policy={})
    return {one["entry"]["entry_id"]: one for one in found}


@pytest.fixture(scope="session")
def steps(small_world: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """Returns the small migration after reading, planning and converting. Read only."""
    data = tmp_path_factory.mktemp("data")
    bases, found = base_folders(small_world), survey(small_world)
    chosen = [found[f"{name}.safetensors"] for name in GOOD]
    fetched = fetch_shard(chosen, bases=bases, store=str(data / "store"))
    pair = prepare_pair(
        source=bases[0], target=bases[1], method="copy", settings={}, probe=PROBE, plans=str(data / "plans")
    )
    converted = convert_shard(
        [
            {"entry_key": one["entry_key"], "entry": seen["entry"], "files": one["files"]}
            for one, seen in zip(fetched, chosen, strict=True)
        ],
        plan=pair["plans"]["copy"],
        bases=bases,
        conversions=str(data / "conversions"),
    )
    return Steps(
        data=data,
        bases=bases,
        found={one["entry_key"]: one for one in chosen},
        fetched={one["entry_key"]: one for one in fetched},
        pair=pair,
        converted={one["entry_key"]: one for one in converted},
    )
