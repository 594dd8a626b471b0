from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from lorax.compile import Compilation
from lorax.errors import Stop
from lorax.plan import load_plan
from lorax.prepare import prepare_plan
from tasks.bases import BaseFolder, open_base
from tasks.leftovers import PIECES_SECONDS
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


class KilledError(BaseException):
    """Stands for the end of the process."""


def test_a_compilation_that_was_cut_short_is_gone_on_with(
    world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[int] = []
    site = Compilation.site

    def counted(work: Compilation, index: int, statistics: Any) -> Any:
        if len(compiled) == 7:
            raise KilledError
        compiled.append(index)
        return site(work, index, statistics)

    whole = prepare(world, tmp_path / "whole", method="copy")["plans"]["copy"]
    monkeypatch.setattr(Compilation, "site", counted)
    with pytest.raises(KilledError):
        prepare(world, tmp_path / "cut", method="copy")
    assert len(list((tmp_path / "cut").glob(".pieces-*/*.safetensors"))) == 7

    monkeypatch.setattr(Compilation, "site", lambda *given: (compiled.append(given[1]), site(*given))[1])
    plan = prepare(world, tmp_path / "cut", method="copy")["plans"]["copy"]

    assert plan["plan_id"] == whole["plan_id"]
    assert len(compiled[: plan["sites"]]) == len(set(compiled[: plan["sites"]])) == plan["sites"]
    assert not list((tmp_path / "cut").glob(".*"))


def test_a_plan_on_disk_is_the_one_that_memory_would_give(world: SmallWorld, tmp_path: Path) -> None:
    bases = base_folders(world)
    plan = prepare(world, tmp_path / "disk", method="lora-x")["plans"]["lora-x"]
    source, target = (open_base(base) for base in bases)
    probe = probe_settings(PROBE)
    whole = prepare_plan(source, target, method="lora-x", settings={}, probe=probe).save(tmp_path / "memory")
    assert whole.stem == plan["plan_id"]
    known = load_plan(whole)
    assert (plan["sites"], plan["settings"]) == (len(known.sites), known.settings)
    assert plan["planned_sites"] == sum(site.term is not None for site in known.sites)


def test_what_nobody_went_on_with_is_swept_when_plans_are_made(world: SmallWorld, tmp_path: Path) -> None:
    old = tmp_path / f".pieces-{'0' * 32}"
    old.mkdir()
    os.utime(old, (time.time() - PIECES_SECONDS - 60,) * 2)
    prepare(world, tmp_path)
    assert not old.exists()


def test_a_plan_is_found_under_the_names_that_this_migration_has_for_its_bases(
    world: SmallWorld, tmp_path: Path
) -> None:
    prepare(world, tmp_path)
    source, target = ({**base, "name": f"other-{base['name']}"} for base in base_folders(world))
    pair = prepare_pair(
        source=BaseFolder(**source), target=BaseFolder(**target), method="lora-x", settings={}, probe=PROBE,
        plans=str(tmp_path),
    )  # fmt: skip
    plan = pair["plans"]["lora-x"]
    assert (plan["source"], plan["target"], plan["seconds"]) == ("other-tiny-v1", "other-tiny-v2", 0)


def by_name(known: str, plans: Path) -> PreparedPair:
    bases = [BaseFolder(name=name, path="", labels=[], known=name) for name in ("sd1.5", known)]
    return prepare_pair(source=bases[0], target=bases[1], method="copy", settings={}, probe=PROBE, plans=str(plans))


def test_bases_that_are_known_by_name_have_plans_of_their_own_and_nothing_to_score_by(tmp_path: Path) -> None:
    pairs = {known: by_name(known, tmp_path) for known in ("bk-sdm-small", "sdxl")}
    for known, pair in pairs.items():
        assert list(pair["plans"]) == ["copy"]
        assert (list(pair["not_runnable"]), pair["similarity"]) == (["sd1.5", known], "")
        assert pair["plans"]["copy"]["target"] == known
    assert len({pair["plans"]["copy"]["key"] for pair in pairs.values()}) == 2


def test_a_pair_with_weights_lacks_nothing(world: SmallWorld, tmp_path: Path) -> None:
    assert prepare(world, tmp_path, method="copy")["not_runnable"] == {}


def test_a_base_that_can_be_read_and_not_run_has_plans_a_likeness_and_no_controls(
    world: SmallWorld, tmp_path: Path
) -> None:
    source, target = base_folders(world)
    part = BaseFolder(name="part", path=str(Path(target["path"]) / "unet"), labels=[])
    pair = prepare_pair(source=source, target=part, method="lora-x", settings={}, probe=PROBE, plans=str(tmp_path))
    assert list(pair["plans"]) == ["lora-x"]
    assert list(pair["not_runnable"]) == ["part"]
    assert json.loads(Path(pair["similarity"]).read_text())
