"""What is no sound adapter is refused for its own reason, at a bounded cost, and named as its user knows it."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from lorax.base_models import known_bases
from lorax.errors import Refused
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import write_weight_file
from tests.hostile.adapters import BASE, Spoilt, every_spoilt_adapter, sound
from tests.hostile.makers import Hostile, every_small_file

SPOILT = every_spoilt_adapter()
SECONDS, BYTES = 0.3, 64 * 2**20


def write(spoilt: Spoilt, folder: Path) -> AdapterFiles:
    (folder / "ab12").write_bytes(spoilt.content)
    config = folder / "adapter_config.json"
    if spoilt.config is None:
        return AdapterFiles(folder / "ab12", name="styles/bold")
    config.write_bytes(spoilt.config)
    return AdapterFiles(folder / "ab12", config, "styles/bold")


def refusal(files: AdapterFiles) -> Refused:
    with pytest.raises(Refused) as raised:
        read_adapter(files, candidates=[BASE])
    return raised.value


@pytest.mark.parametrize("spoilt", SPOILT, ids=lambda spoilt: spoilt.about)
def test_a_spoilt_adapter_is_refused_for_its_own_reason(spoilt: Spoilt, tmp_path: Path) -> None:
    found = refusal(write(spoilt, tmp_path))

    assert found.reason == spoilt.reason
    assert found.where == "styles/bold"
    assert len(str(found)) < 1500
    assert str(found).isprintable()


@pytest.mark.parametrize("hostile", every_small_file(), ids=lambda hostile: hostile.about)
def test_a_malformed_file_is_refused_by_the_name_its_user_knows(hostile: Hostile, tmp_path: Path) -> None:
    (tmp_path / "ab12").write_bytes(hostile.content)

    found = refusal(AdapterFiles(tmp_path / "ab12", name=f"styles/{hostile.name}"))

    assert (found.reason, found.where) == (hostile.reason, f"styles/{hostile.name}")


@pytest.mark.parametrize("spoilt", SPOILT, ids=lambda spoilt: spoilt.about)
def test_a_refusal_takes_little_time_and_memory(spoilt: Spoilt, tmp_path: Path) -> None:
    files = write(spoilt, tmp_path)
    refusal(files)  # the first one also spells out the base
    seconds = min(seconds_to_refuse(files) for _ in range(2))

    tracemalloc.start()
    try:
        refusal(files)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert seconds < SECONDS
    assert peak < BYTES


def seconds_to_refuse(files: AdapterFiles) -> float:
    start = time.process_time()
    refusal(files)
    return time.process_time() - start


def test_no_base_that_is_known_makes_one_of_them_sound(tmp_path: Path) -> None:
    accepted = []
    for spoilt in SPOILT:
        try:
            read_adapter(write(spoilt, tmp_path), candidates=[BASE, *known_bases()])
        except Refused:
            continue
        accepted.append(spoilt.about)

    assert accepted == []


def test_the_adapter_that_they_are_made_from_is_sound(tmp_path: Path) -> None:
    write_weight_file(tmp_path / "ab12", sound())

    adapter = read_adapter(AdapterFiles(tmp_path / "ab12"), candidates=[BASE])

    assert len(adapter.updates) == len(sound()) // 3


def test_there_are_enough_of_them_and_each_is_wrong_in_its_own_way() -> None:
    assert len(SPOILT) >= 60
    assert len({spoilt.about for spoilt in SPOILT}) == len(SPOILT)
    assert len({(spoilt.content, spoilt.config) for spoilt in SPOILT}) == len(SPOILT)
    assert {spoilt.reason for spoilt in SPOILT} >= {
        "non-finite", "all-zero", "bad-dtype", "bad-shape", "incomplete-pair", "rank-too-large", "duplicate-tensor",
        "missing-weights", "bad-config", "base-unknown", "unknown-tensor", "unknown-dialect", "unsupported-algorithm",
    }  # fmt: skip
