"""OFT as peft (since 0.16) and OneTrainer write it: blocks of inputs are rotated (arXiv 2306.07280, 2506.19847).

oft_r (blocks, size * (size - 1) / 2) holds the upper triangle of the skew matrices Q, row by row; one row serves all
blocks where there are more (block_share). By default R is the Neumann series of five terms of (1 + Q)(1 - Q)^-1, that
is 1 + 2Q + 2Q^2 + 2Q^3 + Q^4; peft's use_cayley_neumann=False takes (1 - Q)(1 + Q)^-1 instead, whose Q has the other
sign. The weight as a matrix (out, in * taps) becomes W R^T, R the block-diagonal matrix of all blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lorax.adapter import SiteShape
from lorax.algorithm import Algorithm, Encoded, Layout, misfit, require_floats, require_weight
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor

TERMS = 5
"""Terms of the Neumann series, the default of both programs."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedOFT:
    """Holds the packed skew matrices.

    terms: of the Neumann series; 0 for the exact transform, which a configuration with use_cayley_neumann false means.
    """

    packed: Tensor
    kernel: tuple[int, ...] | None = None
    terms: int = TERMS

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        return "oft_packed"

    @property
    def needs_base(self) -> bool:
        """Tells that the change depends on the base weight."""
        return True

    def low_rank(self) -> None:
        """Gives nothing: the change has the rank of the base weight."""

    def rotations(self, dtype: torch.dtype) -> Tensor:
        """Gives the blocks R, (blocks, size, size)."""
        size = _block_size(self.packed.shape[1])
        skew = torch.zeros(self.packed.shape[0], size, size, dtype=dtype, device=self.packed.device)
        row, column = torch.triu_indices(size, size, 1)
        skew[:, row, column] = self.packed.to(dtype)
        skew = skew - skew.mT
        unit = torch.eye(size, dtype=dtype, device=skew.device).expand_as(skew)
        if self.terms:
            return _neumann(skew, unit, self.terms)
        solved: Tensor = torch.linalg.solve(unit + skew, unit - skew, left=False)
        return solved

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the change in the shape of the weight. Raises ValueError without the weight."""
        weight = require_weight(weight, "OFT")
        rotations = self.rotations(weight.dtype)
        blocks = weight.reshape(weight.shape[0], -1, rotations.shape[-1]).movedim(1, 0)
        return (blocks @ rotations.mT - blocks).movedim(0, 1).reshape(weight.shape)

    def rows(self, begin: int, end: int) -> PackedOFT:
        """Gives the change of rows [begin, end): inputs are rotated alike for all outputs."""
        del begin, end
        return self


def _neumann(skew: Tensor, unit: Tensor, terms: int) -> Tensor:
    """As peft sums it: all powers twice but the first and the last; three terms are counted as four."""
    if terms < 3:
        return unit + 2 * skew if terms == 2 else unit.clone()
    power, total = skew, unit + 2 * skew
    for _ in range(max(terms, 4) - 3):
        power = power @ skew
        total = total + 2 * power
    return total + power @ skew


def _block_size(elements: int) -> int:
    """Gives the size of a skew matrix with so many independent elements, 0 where there is none."""
    size = (1 + math.isqrt(1 + 8 * elements)) // 2
    return size if size * (size - 1) // 2 == elements else 0


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    del limits
    require_floats(entries, {"oft_r"})
    shape = entries["oft_r"].shape
    size = _block_size(shape[1]) if len(shape) == 2 else 0
    if not size:
        raise misfit(entries, "(blocks, size * (size - 1) / 2) is expected; peft below 0.16 wrote other matrices")
    blocks = shape[0]
    return Layout(
        None, 0, lambda wanted: wanted.columns == blocks * size or (blocks == 1 and wanted.columns % size == 0)
    )


def _decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> PackedOFT:
    del scale
    return PackedOFT(tensors["oft_r"], shape.kernel)


def _encode(update: PackedOFT) -> Encoded:
    return Encoded({"oft_r": update.packed.contiguous()}, rank=0, scale=None)


ALGORITHM = Algorithm(
    name="oft_packed",
    summary="rotations of blocks of inputs, OFT (peft, OneTrainer)",
    required=frozenset({"oft_r"}),
    optional=frozenset({"alpha"}),
    layout=_layout,
    decode=_decode,
    encode=_encode,
)
