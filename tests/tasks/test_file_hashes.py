from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from tasks.file_hashes import FileHashes, NotPlainError

LONG_AGO_NS = 1_000_000_000 * 10**9


def settled(path: Path, content: bytes) -> Path:
    """Writes a file and waits until its change of time lies in the past."""
    path.write_bytes(content)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return path


def memory_of(file: Path, path: Path, *, digest: str) -> None:
    status = file.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    path.write_text(json.dumps({str(file): [*stamp, digest]}))


def test_it_hashes_what_it_has_not_seen(tmp_path: Path) -> None:
    file = settled(tmp_path / "a", b"weights")
    assert FileHashes.load(None).sha256(file) == hashlib.sha256(b"weights").hexdigest()


def test_a_file_that_lies_still_is_not_read_again(tmp_path: Path) -> None:
    file = settled(tmp_path / "a", b"weights")
    memory_of(file, tmp_path / "memory.json", digest="remembered")
    assert FileHashes.load(tmp_path / "memory.json").sha256(file) == "remembered"


def test_a_changed_file_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    """Copying tools set the modification time back; the change time they cannot set."""
    file = settled(tmp_path / "a", b"weights")
    memory_of(file, tmp_path / "memory.json", digest="remembered")
    time.sleep(0.01)
    settled(file, b"WEIGHTS")
    assert FileHashes.load(tmp_path / "memory.json").sha256(file) == hashlib.sha256(b"WEIGHTS").hexdigest()


def test_a_file_that_was_just_written_is_hashed_but_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"weights")
    hashes = FileHashes.load(tmp_path / "memory.json")
    hashes.sha256(file)
    hashes.save()
    assert not (tmp_path / "memory.json").exists()


def test_what_was_asked_for_is_remembered_and_the_rest_forgotten(tmp_path: Path) -> None:
    file, memory = settled(tmp_path / "a", b"weights"), tmp_path / "memory.json"
    memory_of(file, memory, digest="remembered")
    memory.write_text(json.dumps({**json.loads(memory.read_text()), "/gone": [1, 2, 3, 4, "x"]}))
    hashes = FileHashes.load(memory)
    hashes.sha256(file)
    hashes.save()
    assert list(json.loads(memory.read_text())) == [str(file)]


def test_a_broken_memory_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "memory.json").write_text("{")
    file = settled(tmp_path / "a", b"weights")
    assert FileHashes.load(tmp_path / "memory.json").sha256(file) == hashlib.sha256(b"weights").hexdigest()


def test_links_and_pipes_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(settled(tmp_path / "a", b"weights"))
    for name in ("pipe", "link"):
        with pytest.raises(NotPlainError, match="expected a plain file"):
            FileHashes.load(None).sha256(tmp_path / name)
