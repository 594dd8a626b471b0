"""What a catalogue holds and what policy says about it. Reads, hashes and decides; writes nothing but its hash memory.

Not a task itself: the command line asks the same questions without Prefect, to find out whether there is work at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from catalogs.entry import CatalogEntry
from catalogs.errors import Stop
from catalogs.policy import Policy, decide, originals
from catalogs.sources import SOURCES
from tasks.border import BAD_FILE, REFUSED, TRY_LATER, Ended
from tasks.file_hashes import FileHashes, NotPlainError

WEIGHTS = "weights"
CONFIG = "config"


class FoundFile(TypedDict):
    """A file of an entry, where it lies now."""

    role: str
    path: str
    sha256: str
    size: int


class Found(TypedDict):
    """One entry of the catalogue, its bytes, and what policy decided. `ended` where that is all there is to say."""

    entry_key: str
    entry: dict[str, Any]
    decision: dict[str, Any]
    files: list[FoundFile]
    content_sha256: str
    sidecars_sha256: str
    ended: Ended | None


def survey_catalogue(
    *, source: str, location: str, policy: Mapping[str, Any], hash_memory: str | None = None
) -> list[Found]:
    """Returns every entry of a catalogue, sorted by key. Raises Stop for an unknown source or an unreadable place."""
    if source not in SOURCES:
        raise Stop(f"there is no kind of catalogue {source!r}; known: {', '.join(SOURCES)}")
    entries = sorted(SOURCES[source].scan(location), key=lambda entry: entry.key)
    hashes = FileHashes.load(Path(hash_memory) if hash_memory else None)
    found = [_look_at(entry, hashes) for entry in entries]
    hashes.save()
    return _decide_all(entries, found, Policy(**policy))


def _look_at(entry: CatalogEntry, hashes: FileHashes) -> Found:
    """Returns an entry with the hashes of its files and sidecars, nothing decided yet."""
    problem: Ended | None = None
    files: list[FoundFile] = []
    try:
        files = [_file(WEIGHTS, entry.weights, hashes)]
        if entry.config is not None:
            files.append(_file(CONFIG, entry.config, hashes))
    except FileNotFoundError as missing:
        problem = Ended(BAD_FILE, "missing-weights", f"{missing.filename} does not exist; put the weights there")
    except NotPlainError as strange:
        problem = Ended(BAD_FILE, "unreadable", str(strange))
    except OSError as unreadable:
        problem = Ended(TRY_LATER, "unreadable", f"cannot be read ({unreadable}); run again when it can")
    return Found(
        entry_key=entry.key,
        entry=entry.to_json(),
        decision={},
        files=files,
        content_sha256=_digest([[file["role"], file["sha256"]] for file in files]),
        sidecars_sha256=_digest([_sidecar(Path(path), hashes) for path in entry.sidecars]),
        ended=problem,
    )


def _file(role: str, path: str, hashes: FileHashes) -> FoundFile:
    return FoundFile(role=role, path=path, sha256=hashes.sha256(Path(path)), size=Path(path).stat().st_size)


def _sidecar(path: Path, hashes: FileHashes) -> list[str]:
    try:
        return [path.name, hashes.sha256(path)]
    except OSError:
        return [path.name, "unreadable"]


def _decide_all(entries: Sequence[CatalogEntry], found: Sequence[Found], policy: Policy) -> list[Found]:
    """Adds the policy's decisions: equal bytes share their prohibitions, and only the first of them goes on."""
    readable = {
        entry.key: record["content_sha256"] for entry, record in zip(entries, found, strict=True) if record["files"]
    }
    first = originals(readable)
    by_content: dict[str, list[CatalogEntry]] = {}
    for entry in entries:
        by_content.setdefault(readable.get(entry.key, entry.key), []).append(entry)
    decided: list[Found] = []
    for entry, record in zip(entries, found, strict=True):
        twins = [other for other in by_content[readable.get(entry.key, entry.key)] if other is not entry]
        decision = decide(entry, policy, twins=twins)
        problem = record["ended"]
        if problem is None and not decision.convert:
            problem = Ended(REFUSED, *decision.reasons[0])
        original = first.get(entry.key, entry.key)
        if problem is None and original != entry.key:
            problem = Ended(
                REFUSED, "duplicate", f"holds the same bytes as {original.partition(':')[2]}, which goes on instead"
            )
        decided.append({**record, "decision": decision.to_json(), "ended": problem})
    return decided


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
