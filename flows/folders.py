"""Where things lie in a data folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    """A data folder, by what its parts are for. Nothing is created by asking."""

    data: Path

    @property
    def ledger(self) -> Path:
        """The database of the ledger."""
        return self.data / "ledger.duckdb"

    @property
    def store(self) -> Path:
        """Source files by their sha256."""
        return self.data / "store"

    @property
    def plans(self) -> Path:
        """Compiled plans by their sha256, with an index by key."""
        return self.data / "plans"

    @property
    def conversions(self) -> Path:
        """Staged conversions by their id."""
        return self.data / "conversions"

    @property
    def images(self) -> Path:
        """Before/after grids by conversion id."""
        return self.data / "images"

    @property
    def reports(self) -> Path:
        """Reports by run id, and latest.html."""
        return self.data / "reports"

    @property
    def latest_report(self) -> Path:
        """The report of the last run that finished."""
        return self.reports / "latest.html"

    @property
    def hash_memory(self) -> Path:
        """Hashes of files that have not been touched since."""
        return self.data / "file-hashes.json"
