"""Which entries of a catalogue need work, and which are settled because nothing about them has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lorax
from flows.folders import Folders
from flows.journal import Journal
from flows.settings import Migration, fingerprint
from lorax.plan import content_of
from lorax.prepare import key_for
from tasks.bases import BaseFolder, open_base
from tasks.border import Ended
from tasks.planning import probe_settings
from tasks.publishing import find_published
from tasks.survey import Found, FoundFile, survey_catalogue


@dataclass(slots=True)
class Item:
    """One entry on its way through a run."""

    found: Found
    work_key: str
    files: list[FoundFile] = field(default_factory=list)
    adapter: dict[str, Any] | None = None
    conversion_id: str | None = None
    scored: dict[str, Any] | None = None
    judged: dict[str, Any] | None = None
    ended: Ended | None = None
    """Why it has no conversion."""
    refreshed: str = ""
    """What a refresh did to its conversion, in words; empty where there was none."""

    @property
    def key(self) -> str:
        """The entry key."""
        return self.found["entry_key"]

    @property
    def description(self) -> dict[str, Any]:
        """What was read from its files; empty before that."""
        return self.adapter or {}

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self.found["entry"]["name"])


@dataclass(frozen=True, slots=True)
class ToDo:
    """Every entry of the catalogue: those that need work, and the outcomes of those that do not, by entry key.

    `work_keys` holds (entry key, work key) of all of them.
    """

    items: list[Item]
    settled: dict[str, dict[str, Any]]
    work_keys: list[tuple[str, str]]

    @property
    def has_work(self) -> bool:
        """Whether anything is left to do."""
        return bool(self.items)

    @property
    def open_items(self) -> list[Item]:
        """The items that policy and their bytes let through."""
        return [item for item in self.items if item.found["ended"] is None]


def base_folders(migration: Migration) -> list[BaseFolder]:
    """Returns the bases of a migration as tasks want them."""
    return [
        BaseFolder(name=name, path=str(base.path or ""), labels=list(base.labels), known=base.known)
        for name, base in migration.bases.items()
    ]


def survey(migration: Migration, folders: Folders, *, remember: bool) -> list[Found]:
    """Returns the entries of the migration's catalogue; `remember` keeps the hashes of files for the next time."""
    return survey_catalogue(**survey_arguments(migration, folders, remember=remember))


def survey_arguments(migration: Migration, folders: Folders, *, remember: bool) -> dict[str, Any]:
    """Returns the arguments of `tasks.survey.survey_catalogue` for a migration."""
    return {
        "source": migration.catalogue.source,
        "location": str(migration.catalogue.path),
        "policy": migration.policy.model_dump(),
        "hash_memory": str(folders.hash_memory) if remember else None,
    }


def settings_identity(migration: Migration) -> str:
    """Returns the sha256 over all but the catalogue that decides outcomes: bases by content, plans, thresholds, code.

    The places of its bases do not count. Raises lorax.errors.Stop where a base does not
    open or a method does not exist.
    """
    bases = {base["name"]: open_base(base) for base in base_folders(migration)}
    probe = probe_settings(migration.score.model_dump())
    plans = [
        key_for(bases[pair.source], bases[pair.target], method=pair.method, settings=pair.settings, probe=probe)
        for pair in migration.pairs
    ]
    values = migration.effective()
    # Without a refresh nothing about it decides anything, and the time for all decides only which of them are later.
    learning = {name: value for name, value in values["refresh"].items() if name != "seconds_in_all"}
    return fingerprint(
        {
            **({"refresh": learning} if migration.refresh.allowed else {}),
            "plans": plans,
            "dialects": [pair.dialect for pair in migration.pairs],
            "bases": {name: [content_of(base.base), list(base.base.labels)] for name, base in bases.items()},
            **{table: values[table] for table in ("name", "score", "encoders", "gate", "policy", "hub")},
            "version": lorax.__version__,
        }
    )


def work_key(found: Found, identity: str) -> str:
    """Returns the sha256 over an entry, its bytes, its sidecars, what policy said, and the settings."""
    why = found["ended"]
    return fingerprint(
        [
            found["entry_key"],
            found["content_sha256"],
            found["sidecars_sha256"],
            found["decision"],
            None if why is None else [why.family, why.reason],
            identity,
        ]
    )


def divide(found: Sequence[Found], identity: str, *, settled: Mapping[str, dict[str, Any]]) -> ToDo:
    """Divides entries into those that need work and those with an outcome under the same work key."""
    items = [Item(one, work_key(one, identity)) for one in found]
    return ToDo(
        items=[item for item in items if item.work_key not in settled],
        settled={item.key: settled[item.work_key] for item in items if item.work_key in settled},
        work_keys=[(item.key, item.work_key) for item in items],
    )


def find_work(migration: Migration, folders: Folders, journal: Journal | None, *, remember: bool) -> ToDo:
    """Returns what a run would have to do, asked without Prefect; no journal means that nothing was ever done."""
    found = survey(migration, folders, remember=remember)
    return divide(found, settings_identity(migration), settled=journal.settled() if journal else {})


def unconfirmed(journal: Journal, migration: Migration, folders: Folders) -> dict[str, dict[str, Any]]:
    """Returns what the hub has of the publications that were intended there and never confirmed, by conversion id."""
    hub = hub_of(migration, folders)
    pending = [name for name, intent in journal.pending().items() if intent.get("location") == hub["location"]]
    return find_published(sorted(pending), **hub) if pending else {}


def hub_of(migration: Migration, folders: Folders) -> dict[str, str]:
    """Returns the kind and the place of a migration's hub."""
    return {"hub": migration.hub.kind, "location": str(migration.hub_folder(folders.data))}
