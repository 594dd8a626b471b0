"""A weight file that notes the health of every tensor while others read it, so that no byte has to be read for that."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Self

from lorax.factors import count_non_finite
from lorax.weight_file import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class WatchedFile(WeightFile):
    """Is a weight file that remembers its hashes, and which of the tensors that were read hold NaN or infinity.

    spoilt: the count of such values by tensor, 0 for a sound one; numbers: the tensors that are a single number;
    digests: "file" and "weights", once they were asked for.
    """

    spoilt: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, file: WeightFile) -> Self:
        """Gives the same file, watched."""
        return cls(**{each.name: getattr(file, each.name) for each in fields(WeightFile)})

    def read(self, name: str) -> Tensor:
        """Reads one tensor as any weight file does, and notes its health."""
        tensor = WeightFile.read(self, name)
        self.spoilt[name] = count_non_finite(tensor.float())
        if tensor.numel() == 1:
            self.numbers[name] = float(tensor)
        return tensor

    def read_the_rest(self) -> None:
        """Reads the tensors that nobody has asked for, one after the other, keeping none."""
        for name in self.tensors:
            if name not in self.spoilt:
                self.read(name)

    def sha256(self) -> str:
        """Gives the sha256 of the whole file."""
        return self._hashed()["file"]

    def weights_sha256(self) -> str:
        """Gives the sha256 of the bytes after the header, without reading the file again."""
        return self._hashed()["weights"]

    def _hashed(self) -> dict[str, str]:
        if not self.digests:
            whole, body = hashlib.sha256(), hashlib.sha256()
            with self.path.open("rb") as file:
                self._expect_unchanged(file.fileno())
                whole.update(file.read(8 + self.header_bytes))
                while chunk := file.read(_CHUNK_BYTES):
                    whole.update(chunk)
                    body.update(chunk)
            self.digests.update(file=whole.hexdigest(), weights=body.hexdigest())
        return self.digests
