"""A weight file that is in memory as a whole: read once, in large steps; its tensors are views of its bytes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, Self

import torch

from lorax.safe_header import ELEMENT_BYTES, TensorEntry
from lorax.weight_file import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

Allocate = Callable[[int], "Tensor"]
"""Gives memory for that many bytes: uint8, one dimension, aligned for every element type."""

_SUMMED = frozenset({"F32", "F16", "BF16"})
_AT_A_TIME = 2**18
"""Numbers whose casts fit into a cache."""


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
        if self._askew(entry):
            begin = entry.begin - 8 - self.header_bytes
            content = self.body[begin : begin + entry.end - entry.begin].clone()
            return content.view(self.dtype(name)).reshape(entry.shape)
        return self._numbers(entry, prod(entry.shape)).view(entry.shape)

    def is_finite(self) -> bool:
        """Tells whether no number is NaN or infinite; False also where only a look at each tensor can tell.

        A sum is finite only if all of its numbers are. It may overflow, then nothing is known. Tensors of one element
        type that follow each other are looked at together: files have hundreds.
        """
        return all(entry.dtype in _SUMMED and not self._askew(entry) for entry in self.tensors.values()) and all(
            math.isfinite(float(part.sum(dtype=torch.float32)))
            for entries in self._stretches()
            for part in torch.split(self._numbers(entries[0], _count(entries)), _AT_A_TIME)
        )

    def _stretches(self) -> Iterator[list[TensorEntry]]:
        """Tensors of one element type that lie one after the other."""
        for _, entries in groupby(self.tensors.values(), key=lambda entry: entry.dtype):
            yield list(entries)

    def _askew(self, entry: TensorEntry) -> bool:
        return (entry.begin - 8 - self.header_bytes) % ELEMENT_BYTES[entry.dtype] > 0

    def _numbers(self, entry: TensorEntry, count: int) -> Tensor:
        """So many numbers from where a tensor lies."""
        begin = entry.begin - 8 - self.header_bytes
        return torch.frombuffer(self.body.numpy(), dtype=self.dtype(entry.name), count=count, offset=begin)

    def weights_sha256(self) -> str:
        """Gives the sha256 of the bytes after the header, from memory."""
        return hashlib.sha256(self.body.numpy().data).hexdigest()


def _count(entries: Iterable[TensorEntry]) -> int:
    return sum(prod(entry.shape) for entry in entries)


def fresh_memory(size: int) -> Tensor:
    """Gives memory that nobody has used before."""
    return torch.empty(size, dtype=torch.uint8)
