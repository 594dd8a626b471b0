"""A weight file that is in memory as a whole: read once, in large steps; its tensors are views of its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import torch

from lorax.safe_header import ELEMENT_BYTES
from lorax.weight_file import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

Allocate = Callable[[int], "Tensor"]
"""Gives memory for that many bytes: uint8, one dimension, aligned for every element type."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedFile(WeightFile):
    """Is a weight file with the bytes after its header in memory.

    body: those bytes, uint8. Tensors share it, so that it may be used for another file only when they are done with.
    """

    body: Tensor

    @classmethod
    def of(cls, file: WeightFile, allocate: Allocate) -> Self:
        """Reads a file whose header has been checked. Raises TryLater when it changed since."""
        body = allocate(file.body_bytes)
        file.read_body(body.numpy().data)
        return cls(**{each.name: getattr(file, each.name) for each in fields(WeightFile)}, body=body)

    def read(self, name: str) -> Tensor:
        """Gives one tensor, a view; memory of its own only where its bytes lie askew for their element type."""
        entry = self.tensors[name]
        begin = entry.begin - 8 - self.header_bytes
        content = self.body[begin : begin + entry.end - entry.begin]
        if begin % ELEMENT_BYTES[entry.dtype]:
            content = content.clone()
        return content.view(self.dtype(name)).reshape(entry.shape)

    def weights_sha256(self) -> str:
        """Gives the sha256 of the bytes after the header, from memory."""
        return hashlib.sha256(self.body.numpy().data).hexdigest()


def fresh_memory(size: int) -> Tensor:
    """Gives memory that nobody has used before."""
    return torch.empty(size, dtype=torch.uint8)
