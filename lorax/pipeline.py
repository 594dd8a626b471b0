"""What a kind of pipeline is: which folders hold one, which parts it needs, and how it is opened to be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lorax.opening import Opening
from lorax.running_model import RunningModel


def nothing_against(_folder: Path) -> str:
    """Finds nothing that keeps a folder from being run."""
    return ""


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """One kind of base that can be run.

    parts: folders (their names end with "/") and files without which it is not opened; fits(folder): whether a folder
    is of this kind, told by its configurations alone; load(opening): raises Stop where it does not open;
    refused(folder): why one of this kind cannot be run all the same, "" where it can.
    """

    name: str
    summary: str
    parts: tuple[str, ...]
    fits: Callable[[Path], bool]
    load: Callable[[Opening], RunningModel]
    refused: Callable[[Path], str] = nothing_against

    @property
    def expected(self) -> str:
        """Names what a folder of this kind holds."""
        return f"{self.name} with {', '.join(self.parts)}"

    def against(self, folder: Path) -> str:
        """Says why a folder of this kind cannot be run; "" where nothing is known against it."""
        missing = [part for part in self.parts if not (folder / part).exists()]
        return f"it lacks {' and '.join(missing)}; expected is {self.expected}" if missing else self.refused(folder)
