"""What a plug-in of `hubs/` is: a place where conversions are published, each exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from catalogs.release import Release


@dataclass(frozen=True, slots=True)
class Publication:
    """A release as it lies on a hub: complete, and found again by its conversion id.

    `location` is what a person opens (a path or URL), `slug` the name on the hub, `manifest_sha256` the hash of its
    provenance.json, `files` the sha256 of each of its files.
    """

    hub: str
    slug: str
    location: str
    conversion_id: str
    manifest_sha256: str
    files: tuple[tuple[str, str], ...]


class OpenHub(Protocol):
    """One hub, ready for work."""

    @property
    def name(self) -> str:
        """The name of this kind of hub."""
        ...

    def find(self, conversion_id: str) -> Publication | None:
        """Returns the publication of a conversion by looking for its marker on the hub; None where there is none."""
        ...

    def publish(self, release: Release) -> Publication:
        """Publishes a release in one atomic step, or returns the publication that is there already.

        Raises Refused: name-taken, hash-mismatch; TryLater: disk-full.
        """
        ...

    def publications(self) -> Iterator[Publication]:
        """Yields everything that carries a marker, in the order of its slugs: what a lost ledger is rebuilt from."""
        ...


@dataclass(frozen=True, slots=True)
class Hub:
    """A kind of hub: the name that settings call it by, one line about it, and how it is opened."""

    name: str
    summary: str
    open: Callable[[str | Path], OpenHub]
