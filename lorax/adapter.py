"""The one in-memory form of an adapter: low-rank updates with one explicit scale each, by site."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """Names one weight of a base model that can be patched.

    component: "unet", "text_encoder", "text_encoder_2"; path: canonical dotted module path, in diffusers' names
    for U-Nets and with the `text_model.` level for CLIP text encoders.
    """

    component: str
    path: str

    def __str__(self) -> str:
        return f"{self.component}:{self.path}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Reads back what str(site) wrote. Raises ValueError for a text without component and path."""
        component, separator, path = text.partition(":")
        if not (component and separator and path):
            raise ValueError(f"a site is written component:path, this is {text!r}")
        return cls(component, path)


@dataclass(frozen=True, slots=True)
class SiteShape:
    """Tells the shape of a site's weight: (out, in) for a linear layer, (out, in, kh, kw) for a convolution.

    kernel: None for a linear layer, (kh, kw) for a convolution, (1, 1) included.
    """

    out_features: int
    in_features: int
    kernel: tuple[int, int] | None = None

    @property
    def columns(self) -> int:
        """Counts the columns of the weight seen as a matrix: in * kh * kw."""
        height, width = self.kernel or (1, 1)
        return self.in_features * height * width

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Gives the shape of the weight in a checkpoint."""
        return (self.out_features, self.in_features, *(self.kernel or ()))

    def __str__(self) -> str:
        return "x".join(map(str, self.weight_shape))


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """Holds the update scale * up @ down of one weight.

    up: (out, rank) float32; down: (rank, in*kh*kw) float32; kernel as in SiteShape.
    """

    up: Tensor
    down: Tensor
    scale: float
    kernel: tuple[int, int] | None = None

    @property
    def rank(self) -> int:
        """Gives the inner dimension of the two factors."""
        return int(self.down.shape[0])

    @property
    def out_features(self) -> int:
        """Counts the rows of the weight that is patched."""
        return int(self.up.shape[0])

    @property
    def columns(self) -> int:
        """Counts the columns of the weight seen as a matrix: in * kh * kw."""
        return int(self.down.shape[1])

    def norm(self) -> float:
        """Gives the Frobenius norm of the update, from two Gram matrices in float64, never forming the product."""
        up, down = self.up.double(), self.down.double()
        # ||U D||^2 = trace(U'U D D'), both factors (rank, rank) and symmetric.
        squared = float(((up.mT @ up) * (down @ down.mT)).sum())
        return abs(self.scale) * math.sqrt(max(squared, 0.0))

    def dense(self) -> Tensor:
        """Forms the update in the shape of the weight, float32. Meant for tests and small models."""
        product = self.scale * (self.up @ self.down)
        if self.kernel is None:
            return product
        return product.reshape(self.out_features, -1, *self.kernel)


Update = LowRank
"""What an adapter does at one site."""


@dataclass(frozen=True, slots=True)
class BaseVerdict:
    """Tells which base model an adapter was made for, and by which evidence.

    name: of the BaseModel that won; None when nobody asked.
    """

    name: str | None
    family: str
    version: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """Holds what an adapter file says, whatever its dialect.

    dtype: the most common element type of the file; metadata: what may be carried on, private paths left out;
    unmappable: (tensor name, why it has no effect here) for tensors that were left out knowingly;
    weights_sha256: sha256 of the bytes after the header, the file's identity.
    """

    updates: Mapping[Site, LowRank]
    dialect: str
    algorithms: tuple[str, ...]
    dtype: torch.dtype
    metadata: Mapping[str, str]
    trigger_words: tuple[str, ...]
    base: BaseVerdict
    weights_sha256: str
    unmappable: tuple[tuple[str, str], ...] = ()

    def ranks(self) -> tuple[int, ...]:
        """Lists the ranks that occur, sorted, each once."""
        return tuple(sorted({update.rank for update in self.updates.values()}))

    def norm(self) -> float:
        """Gives the Frobenius norm over all updates together."""
        return math.sqrt(sum(update.norm() ** 2 for update in self.updates.values()))
