from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import pytest

from lorax.errors import Stop
from lorax.score import ScoreBench
from lorax.score_settings import ScoreSettings
from tasks.benches import SMALL_BYTES, BenchPool, EncoderChoice, ScoreTask, room_for
from tests.stand_ins.pairs import SETTINGS
from tests.stand_ins.tiny_bases import make_base

TASK = ScoreTask(SETTINGS, ScoreSettings())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    base = str(make_base(tmp_path_factory.mktemp("benches") / "tiny-v1", seed=1))
    return base, base


def test_two_borrowers_never_get_the_same_bench(folders: tuple[str, str]) -> None:
    pool = BenchPool(folders, device="cpu", limit=2)

    with pool.lent(TASK) as first, pool.lent(TASK) as second:
        assert first is not second


def test_a_bench_given_back_is_lent_again(folders: tuple[str, str]) -> None:
    pool = BenchPool(folders, device="cpu", limit=2)
    with pool.lent(TASK) as first:
        pass
    with pool.lent(TASK) as again:
        assert again is first


def test_a_bench_is_set_for_each_task_anew_and_its_models_stay(folders: tuple[str, str]) -> None:
    pool = BenchPool(folders, device="cpu", limit=1)
    other = ScoreTask(dataclasses.replace(SETTINGS, seed=9), ScoreSettings(rounds=0))
    with pool.lent(TASK) as bench:
        models = (bench.source, bench.target)
        assert (bench.settings, bench.score_settings) == (TASK.probe, TASK.settings)
    with pool.lent(other) as bench:
        assert (bench.source, bench.target) == models
        assert (bench.settings, bench.score_settings) == (other.probe, other.settings)


def test_an_encoder_of_no_known_kind_stops_and_the_bench_is_free_again(folders: tuple[str, str]) -> None:
    pool = BenchPool(folders, device="cpu", limit=1)
    blind = dataclasses.replace(TASK, encoders=(EncoderChoice("eye", "telescope", "nowhere"),))
    with pytest.raises(Stop, match=r"\[encoders\.eye\]: there is no kind 'telescope'"), pool.lent(blind):
        pass
    with pool.lent(TASK) as bench:
        assert bench.encoders == {}


def test_a_task_is_read_from_the_plain_values_of_a_migration() -> None:
    eye = {"kind": "clip", "path": "/eyes"}
    values = {"samples": 3, "prompts": ["a"], "rounds": 0, "pictures": 2, "encoders": {"eye": eye}}
    task = ScoreTask.of(values)
    assert (task.probe.samples, task.probe.prompts) == (3, ("a",))
    assert (task.settings.rounds, task.settings.pictures) == (0, 2)
    assert task.encoders == (EncoderChoice("eye", "clip", "/eyes"),)


def test_who_finds_no_room_waits_for_one(folders: tuple[str, str]) -> None:
    pool = BenchPool(folders, device="cpu", limit=1)
    got: list[ScoreBench] = []

    def borrow() -> None:
        with pool.lent(TASK) as bench:
            got.append(bench)

    waiting = threading.Thread(target=borrow)
    with pool.lent(TASK) as first:
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert not got
    waiting.join(10)
    assert got == [first]


def test_small_bases_get_one_bench_per_core_and_large_or_distant_ones_a_single_one(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    large = tmp_path / "unet" / "model.safetensors"
    large.parent.mkdir()
    with large.open("wb") as file:
        file.truncate(SMALL_BYTES + 1)  # a hole: takes no room on disk

    assert room_for(folders, device="cpu") == os.cpu_count()
    assert room_for(folders, device="cuda") == 1
    assert room_for((folders[0], str(tmp_path)), device="cpu") == 1
