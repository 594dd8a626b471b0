"""A plan on its way: one file per compiled site in a folder of its own, joined into the plan file at the end."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorax.adapter import Site
from lorax.errors import BadFile
from lorax.plan import PlanHead, PlannedSite, described, is_plan_file, stored, write_plan
from lorax.weight_file import WeightFile, open_weight_file, write_weight_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SITE = "lorax_site"
"""The header entry of a piece that describes its site."""


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Holds the sites of one plan that are compiled already. The folder's name tells the plan's key."""

    head: PlanHead
    folder: Path

    @classmethod
    def beside(cls, out: Path, head: PlanHead) -> Pieces:
        """Gives the pieces of a plan that will be written to a file, or into a folder."""
        place = out.parent if is_plan_file(out) else out
        return cls(head, place / f".pieces-{head.key[:32]}")

    def has(self, index: int, site: Site) -> bool:
        """Tells whether the site is there, compiled by a call before this one; a piece that is broken is not."""
        try:
            return bool(_description(open_weight_file(self._path(index)))["target"] == str(site))
        except (BadFile, KeyError, ValueError):
            return False

    def put(self, index: int, site: PlannedSite) -> None:
        """Keeps a compiled site; it is there as a whole or not at all, whenever the program is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        metadata = {_SITE: json.dumps(described(site), sort_keys=True)}
        write_weight_file(self._path(index), stored(index, site), metadata=metadata)

    def join(self, out: Path, *, count: int) -> Path:
        """Writes the plan of `count` sites, one tensor in memory at a time, removes the pieces, returns the path."""
        files = [open_weight_file(self._path(index)) for index in range(count)]
        tensors = {name: _InPiece(file, name) for file in files for name in file.tensors}
        path = write_plan(out, self.head, tensors, map(_description, files))
        shutil.rmtree(self.folder)
        return path

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"


def _description(piece: WeightFile) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(piece.metadata[_SITE])
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _InPiece:
    """Stands in for a tensor until its bytes are written."""

    file: WeightFile
    name: str

    @property
    def dtype(self) -> torch.dtype:
        return self.file.dtype(self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.file.tensors[self.name].shape

    def numel(self) -> int:
        return math.prod(self.shape)

    def read(self) -> Tensor:
        return self.file.read(self.name)
