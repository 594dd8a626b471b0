"""Makes a log honest: each event's hash covers the event before it, and a small file remembers how far the log reached.

A database protects its pages, not its completeness: a lost write-ahead log leaves a sound database with fewer rows.
The chain notices an altered event, the head file a missing tail.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catalogs.errors import Stop
from catalogs.store import sync_folder

START: Final = "0" * 64
"""The previous hash of the first event."""


@dataclass(frozen=True, slots=True)
class Event:
    """One fact of the ledger. `recorded_at` is an ISO time in UTC, `body` canonical JSON text."""

    sequence: int
    recorded_at: str
    run_id: str
    kind: str
    subject: str
    body: str
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """How far a ledger reaches: the number of its last event and that event's hash."""

    sequence: int = 0
    hash: str = START


def canonical_json(value: object) -> str:
    """Returns the one JSON text of a value: sorted keys, no spaces.

    A number that is not finite becomes null, and what no UTF-8 can say (half a surrogate pair) a question mark.
    """
    text = json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace").decode("utf-8")


def chain_event(
    head: Head, *, recorded_at: str, run_id: str, kind: str, subject: str, body: Mapping[str, object]
) -> Event:
    """Returns the event that follows `head`, hash included."""
    text = canonical_json(body)
    sequence = head.sequence + 1
    return Event(
        sequence,
        recorded_at,
        run_id,
        kind,
        subject,
        text,
        head.hash,
        _hash(sequence, recorded_at, run_id, kind, subject, text, head.hash),
    )


def follow_chain(events: Iterable[Event], *, head: Head, where: str) -> Head:
    """Walks the whole chain and returns its end, which may lie past `head` (a crash before the head was written).

    Raises Stop with the number of the first event that was altered, is missing, or is out of order, and with the gap
    when the chain ends before `head`.
    """
    end = Head()
    at_head = head.sequence == 0
    for event in events:
        if event.sequence != end.sequence + 1:
            raise Stop(f"{where}: event {end.sequence + 1} is missing (the next one is {event.sequence}). {_REMEDY}")
        if event.previous_hash != end.hash or event.hash != _hash_of(event):
            raise Stop(f"{where}: event {event.sequence} ({event.kind}) is not what was recorded. {_REMEDY}")
        end = Head(event.sequence, event.hash)
        at_head = at_head or end == head
    if not at_head:
        raise Stop(gap_text(head, end, where=where))
    return end


def gap_text(head: Head, end: Head, *, where: str) -> str:
    """Returns the message for a ledger that does not reach the head written beside it."""
    if end.sequence >= head.sequence:
        return f"{where}: event {head.sequence} is another one than ledger.head names. {_REMEDY}"
    return (
        f"{where}: events {end.sequence + 1} to {head.sequence} are missing: it holds {end.sequence}, "
        f"ledger.head says {head.sequence}. {_REMEDY}"
    )


def read_head(path: Path) -> Head | None:
    """Reads a head file; None where there is none. Raises Stop when it holds something else."""
    try:
        values = json.loads(path.read_text())
        return Head(int(values["sequence"]), str(values["hash"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as problem:
        raise Stop(f"{path}: is not a ledger head ({problem}). {_REMEDY}") from problem


def write_head(path: Path, head: Head) -> None:
    """Replaces a head file; it is on disk, whole, when this returns."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        file.write(canonical_json({"sequence": head.sequence, "hash": head.hash}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


_REMEDY: Final = (
    "Put the folder's ledger files back from a backup; ledger.parquet beside it holds what the last snapshot saw. "
    "To start an empty ledger instead, move all files named ledger.* away."
)


def _hash_of(event: Event) -> str:
    return _hash(
        event.sequence,
        event.recorded_at,
        event.run_id,
        event.kind,
        event.subject,
        event.body,
        event.previous_hash,
    )


def _hash(*parts: str | int) -> str:
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
