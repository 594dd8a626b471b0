"""Copies files into the store by their hash, and reads what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from catalogs.entry import CatalogEntry
from catalogs.errors import TryLater
from catalogs.store import Store
from lorax.adapter import Adapter
from lorax.base_model import BaseModel
from lorax.loaded_file import Allocate, fresh_memory
from lorax.read import AdapterFiles, read_adapter
from tasks.bases import BaseFolder, candidates
from tasks.border import BAD_FILE, Ended, attempt
from tasks.crash_points import AFTER_STORE, crash_point
from tasks.survey import CONFIG, WEIGHTS, Found, FoundFile
from tasks.ticks import tick


class Fetched(TypedDict):
    """One entry after reading: its stored files, and either the adapter's description or why it ended."""

    entry_key: str
    files: list[FoundFile]
    adapter: dict[str, Any] | None
    ended: Ended | None


def fetch_shard(items: Sequence[Found], *, bases: Sequence[BaseFolder], store: str | None) -> list[Fetched]:
    """Returns one record per entry. Without a store, files are read where they lie and nothing is written."""
    known = candidates(bases)
    return [_fetch(item, known, Store(Path(store)) if store else None) for item in items]


def _fetch(item: Found, known: Sequence[BaseModel], store: Store | None) -> Fetched:
    stored = attempt(lambda: [_stored(file, store) for file in item["files"]])
    crash_point(AFTER_STORE)
    if isinstance(stored, Ended):
        return Fetched(entry_key=item["entry_key"], files=[], adapter=None, ended=stored)
    described = attempt(lambda: _describe(read_stored(stored, item["entry"], known, into=fresh_memory)))
    tick("read")
    problem = described if isinstance(described, Ended) else _contradiction(item)
    adapter = None if problem or isinstance(described, Ended) else described
    return Fetched(entry_key=item["entry_key"], files=stored, adapter=adapter, ended=problem)


def _contradiction(item: Found) -> Ended | None:
    """Asked last, because a file that does not open says more by how it fails than by a hash that differs."""
    declared = item["entry"].get("declared_sha256")
    found = next(file["sha256"] for file in item["files"] if file["role"] == WEIGHTS)
    if not declared or declared.lower() == found:
        return None
    text = f"has sha256 {found}, but its sidecar declares {declared}; download it again"
    return Ended(BAD_FILE, "hash-mismatch", text)


def _stored(file: FoundFile, store: Store | None) -> FoundFile:
    if store is None:
        return file
    placed = store.put(Path(file["path"]))
    if placed.sha256 != file["sha256"]:
        raise TryLater("file-changed", "changed since the catalogue was listed; run again", where=file["path"])
    return FoundFile(role=file["role"], path=str(placed.path), sha256=placed.sha256, size=placed.size_bytes)


def read_stored(
    files: Sequence[FoundFile], entry: dict[str, Any], known: Sequence[BaseModel], *, into: Allocate | None = None
) -> Adapter:
    """Returns the adapter in an entry's files; raises lorax.errors.Refused for every reason not to.

    into: gives the memory that the file is read into, as in read_adapter.
    """
    words = CatalogEntry.from_json(entry)
    paths = {file["role"]: Path(file["path"]) for file in files}
    return read_adapter(
        AdapterFiles(weights=paths[WEIGHTS], config=paths.get(CONFIG), name=spoken_name(words)),
        candidates=known,
        labels=(words.base_label,) if words.base_label else (),
        into=into,
    )


def spoken_name(entry: CatalogEntry) -> str:
    """Returns the name that the user knows the weights by: the entry's, and the file's where the entry is a folder."""
    file = Path(entry.weights).name
    return entry.entry_id if entry.entry_id.endswith(file) else f"{entry.entry_id}/{file}"


def _describe(adapter: Adapter) -> dict[str, Any]:
    """Returns what the ledger keeps about an adapter."""
    return {
        "weights_sha256": adapter.weights_sha256,
        "adapter_id": adapter_id(adapter),
        "dialect": adapter.dialect,
        "algorithms": list(adapter.algorithms),
        "ranks": list(adapter.ranks()),
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "sites": len(adapter.updates),
        "base": adapter.base.name,
        "family": adapter.base.family,
        "version": adapter.base.version,
        "evidence": list(adapter.base.evidence),
        "unmappable": [list(pair) for pair in adapter.unmappable],
        "trigger_words": list(adapter.trigger_words),
    }


def adapter_id(adapter: Adapter) -> str:
    """Returns the sha256 over the tensors and the scales that header or config give them: what the adapter does."""
    body = json.dumps([adapter.weights_sha256, adapter.scales()], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()
