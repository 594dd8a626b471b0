"""Where the numbers of one parameter of a base model lie, and how they are read: one parameter in memory at a time.

A parameter may be a tensor of a file, some rows of a fused one, a tensor that another program stores transposed, or
several tensors that together are a quantised weight. Whoever asks for its numbers gets float32 and need not know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from lorax.safe_header import TensorEntry
from lorax.weight_file import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

    from lorax.quantisation import Quantisation

Hashed = Callable[["Plain"], str]
"""Gives the sha256 of the bytes of a tensor, or of some of its rows."""


class Stored(Protocol):
    """Is a parameter wherever it lies; shape: of its numbers; dtype: their element type, or how they are quantised."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Gives the shape of what `read` gives."""

    @property
    def dtype(self) -> str:
        """Gives safetensors' name of the element type, or the name of the quantisation."""

    def read(self) -> Tensor:
        """Reads the numbers, float32."""

    def pieces(self) -> tuple[Plain, ...]:
        """Lists the tensors, or parts of tensors, that it is made of."""

    def content(self, hashed: Hashed) -> str:
        """Gives the sha256 of its bytes as a file of its own would hold them; of a quantised one, of all it is made of.

        A row of a fused weight has the content that it has in a file where nothing is fused.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """Is a tensor of a file, or some of its rows."""

    file: WeightFile
    entry: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """Gives the shape of the tensor."""
        return self.entry.shape

    @property
    def dtype(self) -> str:
        """Gives the element type."""
        return self.entry.dtype

    def raw(self) -> Tensor:
        """Reads the tensor in its own element type. Raises TryLater when the file changed since it was opened."""
        return replace(self.file, tensors={self.entry.name: self.entry}).read(self.entry.name)

    def read(self) -> Tensor:
        """Reads the tensor, float32."""
        return self.raw().float()

    def rows(self, begin: int, end: int) -> Plain:
        """Gives some of its rows, which lie together in the file."""
        entry = self.entry
        row = (entry.end - entry.begin) // entry.shape[0]
        first = entry.begin + begin * row
        shape = (end - begin, *entry.shape[1:])
        return Plain(self.file, replace(entry, shape=shape, begin=first, end=first + (end - begin) * row))

    def pieces(self) -> tuple[Plain, ...]:
        """Gives itself."""
        return (self,)

    def content(self, hashed: Hashed) -> str:
        """Gives the sha256 of its bytes."""
        return hashed(self)


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """Is a weight that a quantisation keeps in several tensors, by role; settings: of the quantisation."""

    quantisation: Quantisation
    tensors: Mapping[str, Plain]
    settings: Mapping[str, object]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """Gives the name of the quantisation."""
        return self.quantisation.name

    def read(self) -> Tensor:
        """Reads and dequantises the weight, float32."""
        raw = {role: tensor.raw() for role, tensor in self.tensors.items()}
        return self.quantisation.decode(raw, self.settings, self.shape)

    def pieces(self) -> tuple[Plain, ...]:
        """Gives all its tensors."""
        return tuple(self.tensors.values())

    def content(self, hashed: Hashed) -> str:
        """Gives the sha256 over its tensors and over the settings that change their meaning."""
        settings = {name: self.settings.get(name) for name in sorted(self.quantisation.heeds)}
        lines = [f"{role} {tensor.shape} {hashed(tensor)}" for role, tensor in sorted(self.tensors.items())]
        return digest([json.dumps(settings, default=str), *lines])


@dataclass(frozen=True, slots=True, eq=False)
class Changed:
    """Is a stored parameter that is brought into the canonical form after reading: transposed, rows in another order.

    what: says how, and belongs to the content of what cannot be changed before it is dequantised.
    """

    origin: Stored
    shape: tuple[int, ...]
    change: Callable[[Tensor], Tensor]
    what: str

    @property
    def dtype(self) -> str:
        """Gives the element type, or the quantisation, that it is stored in."""
        return self.origin.dtype

    def read(self) -> Tensor:
        """Reads the numbers in their canonical form, float32."""
        return self.change(self.origin.read()).contiguous()

    def pieces(self) -> tuple[Plain, ...]:
        """Gives the pieces of what is changed."""
        return self.origin.pieces()

    def content(self, hashed: Hashed) -> str:
        """Gives the sha256 of the bytes in canonical form; they are read once more for that."""
        if not isinstance(self.origin, Plain):
            return digest([self.what, self.origin.content(hashed)])
        return hashlib.sha256(_bytes(self.change(self.origin.raw()))).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Is several matrices of equal width, the rows of one below those of the other."""

    parts: tuple[Stored, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Gives the shape of all parts together."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> str:
        """Gives the element type of the parts, or their quantisation; several where they differ."""
        return " ".join(dict.fromkeys(part.dtype for part in self.parts))

    def read(self) -> Tensor:
        """Reads all parts, float32."""
        import torch

        return torch.cat([part.read() for part in self.parts])

    def pieces(self) -> tuple[Plain, ...]:
        """Gives the pieces of all parts."""
        return tuple(piece for part in self.parts for piece in part.pieces())

    def content(self, hashed: Hashed) -> str:
        """Gives the sha256 of the bytes one after the other; they are read once more for that."""
        found = hashlib.sha256()
        for part in self.parts:
            if not isinstance(part, Plain):
                return digest(["rows below rows", *(each.content(hashed) for each in self.parts)])
            found.update(_bytes(part.raw()))
        return found.hexdigest()


def rows_of(stored: Stored, begin: int, end: int) -> Stored:
    """Gives some rows of a parameter. A quantised one is dequantised whole, and these rows of it are kept."""
    if isinstance(stored, Plain):
        return stored.rows(begin, end)
    shape = (end - begin, *stored.shape[1:])
    return Changed(stored, shape, lambda weight: weight[begin:end], f"rows {begin} to {end}")


def swapped(stored: Stored) -> Stored:
    """Gives a parameter with the two halves of its rows exchanged."""
    import torch

    return Changed(stored, stored.shape, lambda weight: torch.cat(weight.chunk(2)[::-1]), "halves exchanged")


def transposed(stored: Stored) -> Stored:
    """Gives the transpose of a matrix."""
    return Changed(stored, stored.shape[::-1], lambda weight: weight.T, "transposed")


def digest(lines: Iterable[str]) -> str:
    """Gives the sha256 of some lines of text."""
    found = hashlib.sha256()
    for line in lines:
        found.update(line.encode() + b"\n")
    return found.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
