"""A folder ready to be published: weights, card, preview, and a provenance.json with the sha256 of each of them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from catalogs.errors import Refused
from catalogs.store import sha256_file

MANIFEST = "provenance.json"
MANIFEST_BYTES = 16 << 20
CONVERSION_ID = re.compile(r"[0-9a-f]{16,64}")
FILE_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a file of a release may be called: one harmless name, or one inside one sub-folder."""


@dataclass(frozen=True, slots=True)
class Release:
    """The files of one conversion, checked against their manifest.

    `files` holds (name, sha256) sorted by name, provenance.json included; `manifest_sha256` is the sha256 of
    provenance.json, which names all others: one hash for the whole release.
    """

    folder: Path
    title: str
    conversion_id: str
    manifest_sha256: str
    files: tuple[tuple[str, str], ...]


def open_release(folder: Path) -> Release:
    """Reads and checks a release folder, before it is published or after.

    Raises Refused(hash-mismatch) when a file differs from the manifest, is missing or is not named by it, and
    Refused(unreadable) when there is no manifest, or something in the folder is neither a plain file nor a folder.
    """
    declared, title, conversion_id, manifest_sha256 = _read_manifest(folder)
    found = {name: sha256 for name, sha256 in file_hashes(folder).items() if name != MANIFEST}
    if found != declared:
        wrong = sorted(name for name in {*found, *declared} if found.get(name) != declared.get(name))
        raise Refused("hash-mismatch", f"{', '.join(wrong)} differ from {MANIFEST}; build it again", where=str(folder))
    files = tuple(sorted({**found, MANIFEST: manifest_sha256}.items()))
    return Release(folder, title, conversion_id, manifest_sha256, files)


def file_hashes(folder: Path) -> dict[str, str]:
    """Returns the sha256 of each file in a folder and its sub-folders, by its path inside the folder.

    Raises Refused(unreadable) at anything that is neither a plain file nor a folder.
    """
    paths = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): _sha256_of_plain_file(path) for path in paths}


def read_conversion_id(folder: Path) -> str | None:
    """Returns the conversion id in a folder's provenance.json; None where there is no such file or it is not ours."""
    try:
        return _read_manifest(folder)[2]
    except Refused:
        return None


def _read_manifest(folder: Path) -> tuple[dict[str, str], str, str, str]:
    """Returns declared sha256 by file name, title, conversion id, and the sha256 of the manifest itself."""
    path = folder / MANIFEST
    try:
        if path.is_symlink() or path.stat().st_size > MANIFEST_BYTES:
            raise Refused("unreadable", f"is a link or larger than {MANIFEST_BYTES} bytes", where=str(path))
        content = path.read_bytes()
        statement = json.loads(content)
        declared = {str(subject["name"]): str(subject["digest"]["sha256"]) for subject in statement["subject"]}
        conversion_id, title = str(statement["conversion_id"]), str(statement["title"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise Refused("unreadable", f"is no manifest of a release ({problem})", where=str(path)) from problem
    if not CONVERSION_ID.fullmatch(conversion_id):
        raise Refused("unreadable", f"conversion_id {conversion_id[:80]!r} is not 16 to 64 hex digits", where=str(path))
    strange = [name for name in declared if not FILE_NAME.fullmatch(name)]
    if strange:
        raise Refused("unreadable", f"names a file {strange[0][:80]!r} outside A-Z a-z 0-9 . _ - /", where=str(path))
    return declared, title, conversion_id, hashlib.sha256(content).hexdigest()


def _sha256_of_plain_file(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        raise Refused("unreadable", "is not a plain file; a release holds plain files only", where=str(path))
    return sha256_file(path)
