"""Every malformed file is refused for its own reason, at a bounded cost, through both doors."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from lorax.errors import BadFile
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import open_weight_file
from tests.hostile.makers import Hostile, every_hostile_file

HOSTILE = every_hostile_file()
SECONDS, BYTES = 0.3, 64 * 2**20


def write(hostile: Hostile, folder: Path) -> Path:
    path = folder / hostile.name
    path.write_bytes(hostile.content)
    return path


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.about)
def test_a_malformed_file_is_refused_for_its_own_reason(hostile: Hostile, tmp_path: Path) -> None:
    path = write(hostile, tmp_path)

    with pytest.raises(BadFile) as raised:
        open_weight_file(path)

    assert raised.value.reason == hostile.reason
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.about)
def test_the_refusal_names_the_file_as_its_user_does(hostile: Hostile, tmp_path: Path) -> None:
    blob = tmp_path / "ab12"
    blob.write_bytes(hostile.content)

    with pytest.raises(BadFile) as raised:
        read_adapter(AdapterFiles(blob, name=f"styles/{hostile.name}"), candidates=[])

    assert raised.value.reason == hostile.reason
    assert raised.value.where == f"styles/{hostile.name}"


def test_there_are_enough_of_them_and_each_is_wrong_in_its_own_way() -> None:
    assert len(HOSTILE) >= 25
    assert len({hostile.about for hostile in HOSTILE}) == len(HOSTILE)


def test_no_refusal_costs_much_time_or_memory(tmp_path: Path) -> None:
    for hostile in HOSTILE:
        path = write(hostile, tmp_path)
        seconds = min(seconds_to_refuse(path) for _ in range(2))
        tracemalloc.start()
        try:
            seconds_to_refuse(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert seconds < SECONDS, hostile.about
        assert peak < BYTES, hostile.about


def seconds_to_refuse(path: Path) -> float:
    start = time.process_time()
    with pytest.raises(BadFile):
        open_weight_file(path)
    return time.process_time() - start


def test_a_file_of_a_million_tensors_is_refused_before_its_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "million.safetensors"
    with path.open("wb") as file:
        file.write((66_000_000).to_bytes(8, "little") + b'{"')
        file.truncate(67_000_000)

    with pytest.raises(BadFile) as raised:
        open_weight_file(path)

    assert raised.value.reason == "header-too-large"
    assert seconds_to_refuse(path) < SECONDS


def test_no_line_of_the_library_can_open_a_pickle() -> None:
    forbidden = ("import pickle", "torch.load(", "eval(", "exec(", "import marshal", "import shelve", "joblib")
    library = Path(__file__).parents[2] / "lorax"

    for path in library.rglob("*.py"):
        text = path.read_text()
        found = [word for word in forbidden if word in text.replace(".eval()", "")]
        assert not found, path
