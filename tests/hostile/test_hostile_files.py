"""Every malformed file is refused for its own reason, at a bounded cost, and nothing else than a file is waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from lorax.errors import BadFile
from lorax.weight_file import open_weight_file
from tests.hostile.bombs import bombs
from tests.hostile.makers import SOUND, Hostile, every_small_file, of

SMALL = every_small_file()
BOMBS = bombs()
HOSTILE = [*SMALL, *BOMBS]
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
    assert raised.value.where == str(path)
    assert len(str(raised.value)) < 1000
    assert str(raised.value).isprintable()


def test_there_are_enough_of_them_and_each_is_wrong_in_its_own_way() -> None:
    assert len(HOSTILE) >= 60
    assert len({hostile.about for hostile in HOSTILE}) == len(HOSTILE)
    assert len({hostile.content for hostile in SMALL}) >= len(SMALL) - 6  # sound ones, under the names of pickles
    assert max(len(hostile.content) for hostile in BOMBS) > 8 * 10**6


def test_the_file_that_they_are_made_from_is_sound(tmp_path: Path) -> None:
    (tmp_path / "sound.safetensors").write_bytes(of(SOUND))

    assert list(open_weight_file(tmp_path / "sound.safetensors").tensors) == ["a"]


def seconds_to_refuse(path: Path) -> float:
    start = time.process_time()
    with pytest.raises(BadFile):
        open_weight_file(path)
    return time.process_time() - start


@pytest.mark.parametrize("hostile", SMALL, ids=lambda hostile: hostile.about)
def test_a_refusal_takes_little_time_and_memory(hostile: Hostile, tmp_path: Path) -> None:
    path = write(hostile, tmp_path)
    seconds = min(seconds_to_refuse(path) for _ in range(2))

    tracemalloc.start()
    try:
        seconds_to_refuse(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert seconds < SECONDS
    assert peak < BYTES


WATCHED = """
import pathlib, sys, time
from lorax.errors import BadFile
from lorax.weight_file import open_weight_file

def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024

before, times = peak(), []
for _ in range(5):
    start = time.process_time()
    try:
        open_weight_file(pathlib.Path(sys.argv[1]))
    except BadFile as refusal:
        times.append(time.process_time() - start)
        reason = refusal.reason
print(reason, peak() - before, min(times))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda hostile: hostile.about)
def test_a_bomb_costs_its_process_little_time_and_memory(bomb: Hostile, tmp_path: Path, repository: Path) -> None:
    path = write(bomb, tmp_path)

    ran = subprocess.run(
        [sys.executable, "-c", WATCHED, path], cwd=repository, capture_output=True, text=True, check=True
    )
    reason, rise, seconds = ran.stdout.split()

    assert reason == bomb.reason
    assert int(rise) < BYTES
    assert float(seconds) < SECONDS


def test_a_file_of_a_million_tensors_is_refused_before_its_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "million.safetensors"
    with path.open("wb") as file:
        file.write((66_000_000).to_bytes(8, "little") + b'{"')
        file.truncate(67_000_000)

    with pytest.raises(BadFile) as raised:
        open_weight_file(path)

    assert raised.value.reason == "header-too-large"
    assert seconds_to_refuse(path) < SECONDS


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    os.mkfifo("pipe.safetensors")
    Path("folder.safetensors").mkdir()
    Path("one.safetensors").symlink_to("other.safetensors")
    Path("other.safetensors").symlink_to("one.safetensors")
    Path("nowhere.safetensors").symlink_to("gone.safetensors")
    Path("file").write_bytes(of(SOUND))
    expected = {
        "pipe.safetensors": "not-safetensors",
        "folder.safetensors": "not-safetensors",
        "socket.safetensors": "not-safetensors",
        "/dev/null": "not-safetensors",
        "/dev/zero": "not-safetensors",
        "one.safetensors": "missing-weights",
        "nowhere.safetensors": "missing-weights",
        "gone.safetensors": "missing-weights",
        "file/gone.safetensors": "missing-weights",
    }

    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.safetensors")
        for name, reason in expected.items():
            with pytest.raises(BadFile) as raised:
                open_weight_file(Path(name))
            assert (raised.value.reason, raised.value.where) == (reason, name)
