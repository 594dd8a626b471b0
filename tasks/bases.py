"""Base models that a worker has opened: each once per process, opened again when its files change.

A base may also be known by name alone, without weights: enough for methods that look at shapes, and for nothing that
has to run it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.errors import Stop, Unsupported
from lorax.pipelines import why_not

if TYPE_CHECKING:
    from torch import Tensor

NAME_ALONE = "it is known by name alone"
NEAR = 4
"""How many names are offered in place of one that nobody knows."""


class BaseFolder(TypedDict):
    """Where a base lies, and what it is called.

    `known`: the name under which lorax knows a base by heart, of which there is no folder; `path` is empty then.
    """

    name: str
    path: str
    labels: list[str]
    known: NotRequired[str]


@dataclass(frozen=True, slots=True, eq=False)
class NamedBase(Checkpoint):
    """Is a base of which the inventory is all there is."""

    def weight(self, site: Site) -> Tensor:
        """Raises Unsupported(needs-base): there are no weights."""
        message = f"{self.base.name} is known by name alone; give its folder as `path` under [bases.{self.base.name}]"
        raise Unsupported("needs-base", message, where=str(site))


def open_base(base: BaseFolder) -> Checkpoint:
    """Returns an open base; raises lorax.errors.Stop where the folder holds none, or the name is not known."""
    if base.get("known"):
        return _named(base["known"], base["name"], tuple(base["labels"]))
    folder = Path(base["path"])
    return _open(str(folder), base["name"], tuple(base["labels"]), _stamp(folder))


def has_weights(base: Checkpoint) -> bool:
    """Tells whether a base can be run, and not only named."""
    return not isinstance(base, NamedBase)


def why_not_runnable(base: Checkpoint) -> str:
    """Says why a base cannot be run, so that nothing can be calibrated or scored on it; "" where it can."""
    return base.not_runnable or why_not(base.folder)


def candidates(bases: Sequence[BaseFolder]) -> list[BaseModel]:
    """Returns the bases that a file may belong to: those of the migration, then all others known without weights."""
    named = {id(known_base(base["known"])) for base in bases if base.get("known")}
    return [*(open_base(base).base for base in bases), *(base for base in known_bases() if id(base) not in named)]


def known_base(wanted: str) -> BaseModel:
    """Returns the base that lorax knows by heart under this name or label.

    Raises lorax.errors.Stop, listing near names, where there is none or where the label is shared by several.
    """
    known = {base.name: base for base in known_bases()}
    if wanted in known:
        return known[wanted]
    labelled = [base for base in known.values() if wanted in base.labels]
    if len(labelled) == 1:
        return labelled[0]
    if labelled:
        raise Stop(f"several known bases are called {wanted!r}: {', '.join(base.name for base in labelled)}; name one")
    near = near_names(wanted, list(known)) or list(known)[:NEAR]
    raise Stop(f"no base model is known by the name {wanted!r}; near it: {', '.join(near)}; docs/files.md lists all")


def near_names(wanted: str, known: Sequence[str]) -> list[str]:
    """Returns the known names that look like one that nobody knows, the nearest first."""
    by_case = {name.casefold(): name for name in known}
    return [by_case[name] for name in difflib.get_close_matches(wanted.casefold(), by_case, n=NEAR, cutoff=0.4)]


@lru_cache(maxsize=32)
def _named(known: str, name: str, labels: tuple[str, ...]) -> NamedBase:
    base = known_base(known)
    words = tuple(dict.fromkeys((*labels, base.name, *base.labels)))
    return NamedBase(dataclasses.replace(base, name=name, labels=words), Path(), {}, NAME_ALONE)


@lru_cache(maxsize=8)
def _open(folder: str, name: str, labels: tuple[str, ...], _stamp: tuple[tuple[str, int, int], ...]) -> Checkpoint:
    return open_checkpoint(Path(folder), name=name, labels=labels)


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = [folder] if folder.is_file() else sorted((*folder.rglob("*.safetensors"), *folder.rglob("*.gguf")))
    status = [(path, path.stat()) for path in files]
    return tuple((str(path), found.st_size, found.st_mtime_ns) for path, found in status)
