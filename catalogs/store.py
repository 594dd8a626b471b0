"""Files by the hash of their content: a file has its name only when every byte of it is there and right."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from catalogs.errors import Refused, TryLater

CHUNK_BYTES = 1 << 20
STALE_SECONDS = 24 * 3600
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store: read-only, named by its own sha256."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of files named by their sha256: `ab/abcd…`. Nothing is created before the first `put`."""

    root: Path

    def put(self, path: Path, *, expected_sha256: str | None = None) -> StoredFile:
        """Copies a file into the store under its sha256 and returns it; a file that is there already is left alone.

        The copy is synced to disk before it gets its name, so a crash leaves no half file under a hash. Symbolic links
        are not followed. Raises Refused: unreadable (missing, a link, not a plain file), hash-mismatch; TryLater:
        file-changed (it changed while it was copied), disk-full.
        """
        staging = self.root / "tmp"
        staging.mkdir(parents=True, exist_ok=True)
        part = staging / f"{os.getpid()}-{secrets.token_hex(8)}.part"
        try:
            with _open_plain(path) as source:
                sha256, size_bytes = _copy(source, part, name=str(path))
            if expected_sha256 is not None and sha256 != expected_sha256.lower():
                raise Refused(
                    "hash-mismatch",
                    f"has sha256 {sha256}, but its catalogue declares {expected_sha256.lower()}; download it again",
                    where=str(path),
                )
            return StoredFile(self._place(part, sha256, size_bytes), sha256, size_bytes)
        except OSError as problem:
            if problem.errno in NO_ROOM:
                raise TryLater(
                    "disk-full", f"no room for a copy in {self.root}; free some", where=str(path)
                ) from problem
            raise
        finally:
            part.unlink(missing_ok=True)

    def get(self, sha256: str) -> Path:
        """Returns where the file with this sha256 lies. Raises Refused(unreadable) if the store does not hold it."""
        path = self._path(sha256)
        if not path.is_file():
            raise Refused("unreadable", f"no file with sha256 {sha256} in it", where=str(self.root))
        return path

    def sweep(self, *, now: float | None = None) -> int:
        """Removes what crashed copies left behind more than a day ago, and returns how many files that were."""
        oldest = (time.time() if now is None else now) - STALE_SECONDS
        stale = [part for part in self.root.glob("tmp/*.part") if part.stat().st_mtime < oldest]
        for part in stale:
            part.unlink(missing_ok=True)
        return len(stale)

    def _path(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise Refused("unreadable", f"{sha256!r} is not a sha256 (64 small hex digits)", where=str(self.root))
        return self.root / sha256[:2] / sha256

    def _place(self, part: Path, sha256: str, size_bytes: int) -> Path:
        path = self._path(sha256)
        if path.is_file() and path.stat().st_size == size_bytes:
            return path
        path.parent.mkdir(exist_ok=True)
        part.chmod(0o444)
        part.replace(path)
        sync_folder(path.parent)
        return path


def sync_folder(folder: Path) -> None:
    """Makes the names inside a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Returns the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_plain(path: Path) -> BinaryIO:
    """Opens a plain file for reading, following no link and never waiting for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as problem:
        seen = "is a symbolic link; put the file itself there" if path.is_symlink() else f"cannot be opened ({problem})"
        raise Refused("unreadable", seen, where=str(path)) from problem
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused("unreadable", "is not a plain file", where=str(path))
    return os.fdopen(descriptor, "rb")


def _copy(source: BinaryIO, part: Path, *, name: str) -> tuple[str, int]:
    before = os.fstat(source.fileno())
    digest = hashlib.sha256()
    size_bytes = 0
    with part.open("xb") as target:
        # A file that is appended to faster than it is read would never end: one chunk past its size is enough to know.
        while size_bytes <= before.st_size and (chunk := source.read(CHUNK_BYTES)):
            digest.update(chunk)
            target.write(chunk)
            size_bytes += len(chunk)
        target.flush()
        os.fsync(target.fileno())
    after = os.fstat(source.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size_bytes != after.st_size:
        raise TryLater("file-changed", "changed while it was copied; run again when nothing writes to it", where=name)
    return digest.hexdigest(), size_bytes
