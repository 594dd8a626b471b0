from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorax.errors import Stop
from tasks.planning import PreparedPair, find_plan, prepare_pair, probe_settings
from tests.stand_ins.small_world import SmallWorld
from tests.tasks.conftest import PROBE, Steps, base_folders


def prepare(world: SmallWorld, plans: Path, *, method: str = "lora-x") -> PreparedPair:
    source, target = base_folders(world)
    return prepare_pair(source=source, target=target, method=method, settings={}, probe=PROBE, plans=str(plans))


def test_a_pair_has_the_plan_of_its_method_and_those_of_the_controls(world: SmallWorld, tmp_path: Path) -> None:
    pair = prepare(world, tmp_path)
    assert sorted(pair["plans"]) == ["copy", "lora-x", "random"]
    for plan in pair["plans"].values():
        assert Path(plan["path"]).stem == plan["plan_id"]
        assert plan["seconds"] > 0
    assert {"site", "weight_distance", "left", "right"} == json.loads(Path(pair["similarity"]).read_text())[0].keys()


def test_plans_that_are_there_are_found_and_not_compiled_again(world: SmallWorld, tmp_path: Path) -> None:
    first, second = prepare(world, tmp_path), prepare(world, tmp_path)
    assert {name: plan["plan_id"] for name, plan in first["plans"].items()} == {
        name: plan["plan_id"] for name, plan in second["plans"].items()
    }
    assert [plan["seconds"] for plan in second["plans"].values()] == [0, 0, 0]


def test_an_index_without_its_plan_finds_nothing(world: SmallWorld, tmp_path: Path) -> None:
    plan = prepare(world, tmp_path)["plans"]["copy"]
    Path(plan["path"]).unlink()
    assert find_plan(tmp_path, plan["key"]) is None


def test_a_data_folder_may_be_moved(world: SmallWorld, tmp_path: Path) -> None:
    plan = prepare(world, tmp_path / "here")["plans"]["copy"]
    (tmp_path / "here").rename(tmp_path / "there")
    found = find_plan(tmp_path / "there", plan["key"])
    assert found is not None
    assert Path(found["path"]).is_file()


def test_an_unknown_method_stops_the_run(world: SmallWorld, tmp_path: Path) -> None:
    with pytest.raises(Stop, match="no transfer method 'cpoy'"):
        prepare(world, tmp_path, method="cpoy")


def test_a_probe_is_what_the_settings_say(steps: Steps) -> None:
    probe = probe_settings(PROBE)
    assert (probe.prompts, probe.timesteps, probe.steps) == (("a digit", "a handwritten one"), (500,), 2)
