"""What a plug-in of `sources/` is: a place where adapters are found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from catalogs.entry import CatalogEntry


class Scan(Protocol):
    """Walks a catalogue and yields what it says about each adapter, in the same order each time."""

    def __call__(self, location: str | Path, *, catalogue: str = "") -> Iterator[CatalogEntry]:
        """Yields one entry per adapter at `location`; `catalogue` is the name that their keys start with.

        An entry with broken metadata is still an entry. Raises Stop when the place itself cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """A kind of catalogue: the name that settings call it by, one line about it, and how it is scanned."""

    name: str
    summary: str
    scan: Scan
