from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lorax.score import ScoreBench
from tasks.benches import SMALL_BYTES, BenchPool, room_for
from tests.stand_ins.pairs import SETTINGS
from tests.stand_ins.tiny_bases import make_base


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    base = str(make_base(tmp_path_factory.mktemp("benches") / "tiny-v1", seed=1))
    return base, base


def test_two_borrowers_never_get_the_same_bench(folders: tuple[str, str]) -> None:
    pool = BenchPool(folders, SETTINGS, device="cpu", limit=2)

    with pool.lent() as first, pool.lent() as second:
        assert first is not second


def test_a_bench_given_back_is_lent_again(folders: tuple[str, str]) -> None:
    pool = BenchPool(folders, SETTINGS, device="cpu", limit=2)
    with pool.lent() as first:
        pass
    with pool.lent() as again:
        assert again is first


def test_who_finds_no_room_waits_for_one(folders: tuple[str, str]) -> None:
    pool = BenchPool(folders, SETTINGS, device="cpu", limit=1)
    got: list[ScoreBench] = []

    def borrow() -> None:
        with pool.lent() as bench:
            got.append(bench)

    waiting = threading.Thread(target=borrow)
    with pool.lent() as first:
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
