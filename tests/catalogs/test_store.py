from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from catalogs.errors import Refused, TryLater
from catalogs.store import STALE_SECONDS, Store

CONTENT = b"adapter" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "bold.safetensors"
    path.write_bytes(CONTENT)
    return path


def everything(store: Store) -> list[str]:
    return sorted(p.relative_to(store.root).as_posix() for p in store.root.rglob("*") if p.is_file())


def test_a_stored_file_has_its_hash_as_name_and_cannot_be_written(store: Store, weights: Path) -> None:
    stored = store.put(weights, expected_sha256=SHA256.upper())

    assert (stored.sha256, stored.size_bytes) == (SHA256, len(CONTENT))
    assert stored.path == store.get(SHA256) == store.root / SHA256[:2] / SHA256
    assert stored.path.read_bytes() == CONTENT
    assert not stat.S_IMODE(stored.path.stat().st_mode) & 0o222


def test_storing_twice_stores_once(store: Store, weights: Path) -> None:
    first = store.put(weights)
    modified = first.path.stat().st_mtime_ns

    assert store.put(weights) == first
    assert first.path.stat().st_mtime_ns == modified
    assert everything(store) == [f"{SHA256[:2]}/{SHA256}"]


def test_a_file_of_the_store_that_was_cut_is_made_whole_by_storing_again(store: Store, weights: Path) -> None:
    stored = store.put(weights)
    stored.path.chmod(0o644)
    stored.path.write_bytes(CONTENT[:10])

    assert store.put(weights).path.read_bytes() == CONTENT


def test_other_bytes_than_declared_are_refused_and_leave_nothing(store: Store, weights: Path) -> None:
    with pytest.raises(Refused, match="declares 0000") as caught:
        store.put(weights, expected_sha256="0" * 64)

    assert caught.value.reason == "hash-mismatch"
    assert everything(store) == []


def test_links_folders_pipes_and_missing_files_are_unreadable(store: Store, weights: Path, tmp_path: Path) -> None:
    link, pipe = tmp_path / "link.safetensors", tmp_path / "pipe.safetensors"
    link.symlink_to(weights)
    os.mkfifo(pipe)

    for path in (link, pipe, tmp_path, tmp_path / "missing", tmp_path / "a\0b"):
        with pytest.raises(Refused) as caught:
            store.put(path)
        assert caught.value.reason == "unreadable"
    assert everything(store) == []


def test_a_file_that_grows_while_it_is_copied_is_tried_later(store: Store, tmp_path: Path) -> None:
    growing = tmp_path / "growing.safetensors"
    growing.write_bytes(b"x" * (8 << 20))
    stop = threading.Event()

    def grow() -> None:
        with growing.open("ab") as file:
            while not stop.is_set():
                file.write(b"y" * 4096)
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(TryLater) as caught:
            store.put(growing)
    finally:
        stop.set()
        writer.join()

    assert caught.value.reason == "file-changed"
    assert everything(store) == []


def test_a_full_disk_is_tried_later_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    big = tmp_path / "big.safetensors"
    big.write_bytes(b"x" * (1 << 20))
    code = (
        "import signal, resource, sys\n"
        "from pathlib import Path\n"
        "from catalogs.errors import TryLater\n"
        "from catalogs.store import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try:\n    Store(Path(sys.argv[1])).put(Path(sys.argv[2]))\n"
        "except TryLater as error:\n    print(error.reason)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 0

    done = subprocess.run(
        [sys.executable, "-c", code, str(store.root), str(big)], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "disk-full"
    assert everything(store) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "AB" * 32, "a" * 63, "", "a" * 64 + "\n"])
def test_only_a_sha256_is_looked_up(store: Store, name: str) -> None:
    with pytest.raises(Refused, match="not a sha256"):
        store.get(name)


def test_a_hash_that_the_store_does_not_hold_is_unreadable(store: Store) -> None:
    with pytest.raises(Refused, match="no file with sha256"):
        store.get("a" * 64)


def test_what_a_crash_left_is_swept_after_a_day_and_not_before(store: Store, weights: Path) -> None:
    store.put(weights)
    left = store.root / "tmp" / "99-0.part"
    left.write_bytes(b"half")
    written = left.stat().st_mtime

    assert store.sweep(now=written + STALE_SECONDS - 1) == 0
    assert store.sweep(now=written + STALE_SECONDS + 1) == 1
    assert everything(store) == [f"{SHA256[:2]}/{SHA256}"]


def test_the_codes_for_a_full_disk_are_those_of_the_system() -> None:
    from catalogs.store import NO_ROOM

    assert {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} == NO_ROOM
