"""Base models that a worker has opened: each once per process, opened again when its files change."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.checkpoint import Checkpoint, open_checkpoint


class BaseFolder(TypedDict):
    """Where a base lies, and what it is called."""

    name: str
    path: str
    labels: list[str]


def open_base(base: BaseFolder) -> Checkpoint:
    """Returns an open base; raises lorax.errors.Stop where the folder holds none."""
    folder = Path(base["path"])
    return _open(str(folder), base["name"], tuple(base["labels"]), _stamp(folder))


def candidates(bases: Sequence[BaseFolder]) -> list[BaseModel]:
    """Returns the bases that a file may belong to: those of the migration, then those known without weights."""
    return [*(open_base(base).base for base in bases), *known_bases()]


@lru_cache(maxsize=8)
def _open(folder: str, name: str, labels: tuple[str, ...], _stamp: tuple[tuple[str, int, int], ...]) -> Checkpoint:
    return open_checkpoint(Path(folder), name=name, labels=labels)


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    status = [(path, path.stat()) for path in sorted(folder.rglob("*.safetensors"))]
    return tuple((str(path), found.st_size, found.st_mtime_ns) for path, found in status)
