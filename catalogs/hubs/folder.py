"""A folder as a hub: one sub-folder per published conversion.

    <hub>/<slug>/            a publication: always complete, because it appears by one rename
    <hub>/.incoming/         releases on their way; whatever a crash leaves here is swept by the next attempt

The slug ends with the first eight digits of the conversion id, so looking for a conversion reads one list of names.
The marker inside, provenance.json, decides: publishing looks for it first, and so never publishes twice.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from catalogs.errors import Refused, Stop, TryLater
from catalogs.hub import Hub, Publication
from catalogs.release import CONVERSION_ID, MANIFEST, Release, open_release, read_conversion_id
from catalogs.store import CHUNK_BYTES, NO_ROOM, sync_folder

INCOMING = ".incoming"
REMOVED = "removed"
SHORT_ID_DIGITS = 8
SLUG_CHARACTERS = 96
ATTEMPTS = 5
SOMEONE_WAS_FASTER = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR})


@dataclass(frozen=True, slots=True)
class FolderHub:
    """A hub in a folder. Nothing is created before the first `publish`."""

    root: Path
    name: str = "folder"

    def find(self, conversion_id: str) -> Publication | None:
        """Returns the publication whose marker holds this conversion id, checked file by file; None without one.

        Raises Refused(hash-mismatch) when a file of the publication was altered.
        """
        suffix = f"-{_short_id(conversion_id)}"
        for folder in self._folders():
            if folder.name.endswith(suffix) and read_conversion_id(folder) == conversion_id:
                return self._publication(open_release(folder), folder)
        return None

    def publish(self, release: Release) -> Publication:
        """Publishes a release by one rename, or returns the publication of this conversion that is there already.

        Raises Refused: name-taken (something without our marker lies there), hash-mismatch; TryLater: disk-full, or
        file-changed when others kept getting in the way.
        """
        for _ in range(ATTEMPTS):
            found = self.find(release.conversion_id)
            if found is not None:
                self._sweep(release.conversion_id)
                return found
            try:
                return self._publish_new(release)
            except OSError as problem:
                if problem.errno in NO_ROOM:
                    raise TryLater(
                        "disk-full", "no room for the publication; free some", where=str(self.root)
                    ) from problem
                if problem.errno not in SOMEONE_WAS_FASTER:
                    raise
        raise TryLater("file-changed", f"{ATTEMPTS} attempts were disturbed by another process", where=str(self.root))

    def publications(self) -> Iterator[Publication]:
        """Yields every publication, checked, in the order of the slugs. Raises Refused at one that was altered."""
        for folder in self._folders():
            if read_conversion_id(folder) is not None:
                yield self._publication(open_release(folder), folder)

    def _publish_new(self, release: Release) -> Publication:
        place = self.root / slug(release.title, release.conversion_id)
        if place.exists() or place.is_symlink():
            self._settle_taken(place, release.conversion_id)
        incoming = self.root / INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        self._sweep(release.conversion_id)
        staging = incoming / f"{release.conversion_id}.{os.getpid()}.{secrets.token_hex(8)}"
        try:
            self._stage(release, staging)
            staging.rename(place)
            sync_folder(self.root)
        finally:
            _remove(staging, incoming)
        return self._publication(release, place)

    def _stage(self, release: Release, staging: Path) -> None:
        """Copies the files, the manifest last, checking every byte on the way and syncing all of it."""
        staging.mkdir()
        for file_name, sha256 in sorted(release.files, key=lambda file: file[0] == MANIFEST):
            (staging / file_name).parent.mkdir(exist_ok=True)
            copied = _copy(release.folder / file_name, staging / file_name)
            if copied != sha256:
                raise Refused(
                    "hash-mismatch",
                    f"{file_name} has sha256 {copied}, the release was opened with {sha256}; build it again",
                    where=str(release.folder),
                )
        for folder in {(staging / file_name).parent for file_name, _ in release.files}:
            sync_folder(folder)

    def _settle_taken(self, place: Path, conversion_id: str) -> None:
        """Refuses a place that something else holds; returns quietly if another process just published this very id."""
        if read_conversion_id(place) != conversion_id:
            raise Refused(
                "name-taken",
                f"something without the marker of conversion {conversion_id} lies there; move it away and run again",
                where=str(place),
            )
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))

    def _sweep(self, conversion_id: str) -> None:
        """Removes what earlier attempts at this conversion left in `.incoming`, but nothing that is still at work."""
        incoming = self.root / INCOMING
        for staging in incoming.glob(f"{conversion_id}.*"):
            if not _is_at_work(staging):
                _remove(staging, incoming)
        for doomed in incoming.glob(f"{REMOVED}.*"):
            shutil.rmtree(doomed, ignore_errors=True)

    def _folders(self) -> list[Path]:
        if not self.root.exists():
            return []
        with os.scandir(self.root) as listing:
            names = sorted(e.name for e in listing if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
        return [self.root / each for each in names]

    def _publication(self, release: Release, place: Path) -> Publication:
        return Publication(
            self.name, place.name, str(place), release.conversion_id, release.manifest_sha256, release.files
        )


def slug(title: str, conversion_id: str) -> str:
    """Returns the folder name of a publication: `[a-z0-9-]{1,96}`, a dash, and eight digits of the conversion id.

    Whatever the title holds, the name is a single harmless path component, and differs for different short ids.
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:SLUG_CHARACTERS].strip("-")
    return f"{words or 'adapter'}-{_short_id(conversion_id)}"


def open_folder_hub(location: str | Path) -> FolderHub:
    """Opens a folder as a hub; it need not exist yet. Raises Stop if something else than a folder lies there."""
    root = Path(location)
    if root.exists() and not root.is_dir():
        raise Stop(f"{root} is not a folder: the folder hub needs one, or a path where it can make one")
    return FolderHub(root)


HUB = Hub(name="folder", summary="A folder: one sub-folder per conversion", open=open_folder_hub)


def _short_id(conversion_id: str) -> str:
    if not CONVERSION_ID.fullmatch(conversion_id):
        raise Stop(f"{conversion_id!r} is not a conversion id (16 to 64 small hex digits)")
    return conversion_id[:SHORT_ID_DIGITS]


def _copy(source: Path, target: Path) -> str:
    """Copies a file, syncs it, and returns the sha256 of what was written."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _is_at_work(staging: Path) -> bool:
    """Whether the process that a staging folder is named after lives on this machine.

    On a folder shared by several machines this may say no of one at work elsewhere. That is safe: it finds its staging
    folder renamed, publishes nothing of it, and starts again.
    """
    pid = staging.name.split(".")[1]
    if not pid.isdecimal() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(staging: Path, incoming: Path) -> None:
    """Removes a staging folder; renames it first, so that whoever still fills it can never publish a half of it."""
    doomed = incoming / f"{REMOVED}.{secrets.token_hex(8)}"
    try:
        staging.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)
