from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.leftovers import DRAFT_SECONDS, PIECES_SECONDS, sweep_plans


@pytest.fixture
def nobody() -> int:
    """Returns the number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def aged(path: Path, seconds: float) -> Path:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def pieces(folder: Path, name: str, *, age: float) -> Path:
    path = folder / f".pieces-{name}"
    path.mkdir()
    (path / "00000.safetensors").write_bytes(b"piece")
    return aged(path, age)


def draft(folder: Path, pid: int, *, age: float, part: str = "") -> Path:
    dots = "." if part else ""
    path = folder / f"{dots}.draft-{pid}-0123456789abcdef.safetensors{part}"
    path.write_bytes(b"half")
    return aged(path, age)


def test_pieces_that_nobody_added_to_for_a_week_go(tmp_path: Path) -> None:
    old = pieces(tmp_path, "a" * 32, age=PIECES_SECONDS + 60)
    young = pieces(tmp_path, "b" * 32, age=PIECES_SECONDS - 60)
    assert sweep_plans(tmp_path) == [old]
    assert not old.exists()
    assert (young / "00000.safetensors").is_file()


def test_half_written_plans_of_processes_that_are_gone_go_after_a_day(tmp_path: Path, nobody: int) -> None:
    old = [
        draft(tmp_path, nobody, age=DRAFT_SECONDS + 60),
        draft(tmp_path, nobody, age=DRAFT_SECONDS + 60, part=f".{nobody}.0a1b2c3d.part"),
    ]
    kept = [
        draft(tmp_path, nobody + 1, age=DRAFT_SECONDS - 60),
        draft(tmp_path, os.getpid(), age=DRAFT_SECONDS + 60),
    ]
    assert sorted(sweep_plans(tmp_path)) == sorted(old)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_plans_their_index_and_strange_things_stay_however_old(tmp_path: Path, nobody: int) -> None:
    names = ("ab.safetensors", "by-key", ".draft-of-mine.safetensors", f".draft-{nobody}-xyz.safetensors", ".pieces-x")
    for name in names:
        (tmp_path / name).write_bytes(b"x")
        aged(tmp_path / name, 1e9)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".pieces-link").symlink_to(tmp_path / "elsewhere")
    assert sweep_plans(tmp_path) == []


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path: Path) -> None:
    assert sweep_plans(tmp_path / "plans") == []
