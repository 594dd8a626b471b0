from __future__ import annotations

from pathlib import Path

import pytest

from lorax.checkpoint import open_checkpoint
from lorax.errors import Stop
from lorax.prepare import calibration_probe, key_for, prepare_plan, prepare_plan_file
from lorax.probe import ProbeSettings
from tests.stand_ins.pairs import SETTINGS
from tests.stand_ins.tiny_bases import make_base, nudged


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("prepare")
    source = make_base(folder / "tiny-v1", seed=1)
    return source, nudged(source, folder / "tiny-v2", seed=2)


@pytest.mark.parametrize("method", ["copy", "calibrated"])
def test_a_prepared_plan_has_the_key_that_was_foretold(method: str, folders: tuple[Path, Path]) -> None:
    source, target = (open_checkpoint(folder, name=folder.name) for folder in folders)

    plan = prepare_plan(source, target, method=method, settings={}, probe=SETTINGS)

    assert plan.key == key_for(source, target, method=method, settings={}, probe=SETTINGS)
    assert all(site.term is not None for site in plan.sites)


@pytest.mark.parametrize("method", ["lora-x", "calibrated"])
def test_a_plan_prepared_on_disk_is_the_one_prepared_in_memory(
    method: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    source, target = (open_checkpoint(folder, name=folder.name) for folder in folders)
    told: list[tuple[str, int, int]] = []

    path = prepare_plan_file(
        tmp_path / "disk", source, target, method=method, settings={}, probe=SETTINGS,
        progress=lambda *each: told.append(each),
    )  # fmt: skip

    saved = prepare_plan(source, target, method=method, settings={}, probe=SETTINGS).save(tmp_path / "memory")
    assert path.read_bytes() == saved.read_bytes()
    assert told[-1] == ("compile", len(target.base.sites), len(target.base.sites))
    assert ("calibrate" in {stage for stage, *_ in told}) == (method == "calibrated")


def test_progress_is_told_by_stage_up_to_the_end(folders: tuple[Path, Path]) -> None:
    source, target = (open_checkpoint(folder, name=folder.name) for folder in folders)
    told: list[tuple[str, int, int]] = []

    prepare_plan(
        source,
        target,
        method="calibrated",
        settings={},
        probe=SETTINGS,
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )

    assert {stage for stage, _done, _total in told} == {"calibrate", "compile"}
    for stage in ("calibrate", "compile"):
        _name, done, total = [each for each in told if each[0] == stage][-1]
        assert done == total > 0


def test_the_probe_that_calibrates_is_never_the_one_that_scores() -> None:
    assert calibration_probe(SETTINGS).seed != SETTINGS.seed
    assert calibration_probe(SETTINGS).prompts == SETTINGS.prompts


def test_a_base_that_cannot_be_run_stops_with_what_was_expected(folders: tuple[Path, Path], tmp_path: Path) -> None:
    broken = nudged(folders[0], tmp_path / "tiny-v3", seed=3)
    (broken / "scheduler" / "scheduler_config.json").unlink()
    source, target = (open_checkpoint(folder, name=folder.name) for folder in (folders[0], broken))

    with pytest.raises(Stop, match="scheduler/"):
        prepare_plan(source, target, method="calibrated", settings={}, probe=ProbeSettings(prompts=("a",)))
