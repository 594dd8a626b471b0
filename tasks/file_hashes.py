"""The sha256 of files that lie still: a file is read again only when the file system says that it may have changed."""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from catalogs.store import sha256_file

RACY_NS = 2_000_000_000
"""A file touched this shortly before it was hashed may change again without a visible change of its times."""


class NotPlainError(OSError):
    """Something that must not be opened: it leads elsewhere, or never ends."""


@dataclass(slots=True)
class FileHashes:
    """Remembers hashes by path, size, times and inode. The change time cannot be set back by copying tools."""

    path: Path | None
    known: dict[str, list[int | str]] = field(default_factory=dict)
    seen: dict[str, list[int | str]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None) -> FileHashes:
        """Opens the memory at `path`; a missing or unreadable one is empty, and None keeps nothing."""
        if path is None or not path.is_file():
            return cls(path)
        try:
            return cls(path, json.loads(path.read_bytes()))
        except (OSError, ValueError):
            return cls(path)

    def sha256(self, file: Path) -> str:
        """Returns the sha256 of a plain file. Raises OSError, or NotPlainError for what must not be opened."""
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise NotPlainError(f"{file} is a link, a pipe or a device; expected a plain file")
        stamp: list[int | str] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        name = os.fspath(file)
        remembered = self.known.get(name)
        if remembered is not None and remembered[:-1] == stamp:
            self.seen[name] = remembered
            return str(remembered[-1])
        now = time.time_ns()
        digest = sha256_file(file)
        if max(status.st_mtime_ns, status.st_ctime_ns) < now - RACY_NS:
            self.seen[name] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Writes what was asked for since loading, by one rename."""
        if self.path is None or self.seen == self.known:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        draft.write_text(json.dumps(self.seen))
        draft.replace(self.path)
