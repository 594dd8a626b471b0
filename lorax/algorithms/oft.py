"""OFT and BOFT as LyCORIS and kohya's scripts write them: blocks of outputs are rotated (2306.07280, 2311.06243).

oft_blocks (blocks, size, size) is OFT: with Q the block less its transpose, R = (1 + Q)(1 - Q)^-1, the rows of each
block become R^T times themselves. oft_blocks (stages, blocks, size, size) is BOFT: every stage shuffles the outputs by
a butterfly, applies R, and shuffles back. The module's alpha is no strength but a bound: Q of all blocks together is
shortened to alpha * out where it is longer and alpha is above 0. rescale (out, 1[, 1, 1]) multiplies the outputs last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lorax.adapter import SiteShape
from lorax.algorithm import Algorithm, Encoded, Layout, misfit, no_rows, require_floats, require_scalar, require_weight
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from typing import NoReturn

    from torch import Tensor

_TINY = 1e-8  # added to norms by both programs


@dataclass(frozen=True, slots=True, eq=False)
class OFT:
    """Holds the blocks of OFT (three dimensions) or BOFT (four), the bound on them, and the factors of the outputs."""

    blocks: Tensor
    bound: Tensor | None
    rescale: Tensor | None
    kernel: tuple[int, ...] | None = None

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        return "oft"

    @property
    def needs_base(self) -> bool:
        """Tells that the change depends on the base weight."""
        return True

    def low_rank(self) -> None:
        """Gives nothing: the change has the rank of the base weight."""

    def rotations(self, out_features: int, dtype: torch.dtype) -> Tensor:
        """Gives the orthogonal blocks, in the shape of the file's."""
        blocks = self.blocks.to(dtype)
        skew = blocks - blocks.mT
        limit = float(self.bound) * out_features if self.bound is not None else 0.0
        length = torch.linalg.vector_norm(skew) + _TINY
        if limit > 0 and float(length) > limit:
            skew = skew * (limit / length)
        unit = torch.eye(skew.shape[-1], dtype=dtype, device=skew.device)
        solved: Tensor = torch.linalg.solve(unit - skew, unit + skew, left=False)
        return solved

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the change in the shape of the weight. Raises ValueError without the weight."""
        weight = require_weight(weight, "OFT")
        matrix = weight.flatten(1)
        rotations = self.rotations(matrix.shape[0], weight.dtype)
        if rotations.ndim == 3:
            moved = (rotations.mT @ matrix.reshape(*rotations.shape[:2], -1)).reshape(matrix.shape)
        else:
            moved = _butterfly(rotations, matrix)
        if self.rescale is not None:
            moved = moved * self.rescale.to(weight.dtype).reshape(-1, 1)
        return (moved - matrix).reshape(weight.shape)

    def rows(self, begin: int, end: int) -> NoReturn:
        """Raises Unsupported: a bound and the blocks go over all rows."""
        raise no_rows("OFT", f"blocks of rotated rows need not end at rows {begin} and {end}")


def _butterfly(rotations: Tensor, matrix: Tensor) -> Tensor:
    """The stages of BOFT, each mixing outputs that lie twice as far apart as before."""
    size = rotations.shape[-1]
    for stage, blocks in enumerate(rotations):
        order = _shuffle(matrix.shape[0], (size // 2) << stage).to(matrix.device)
        mixed = blocks @ matrix[order].reshape(-1, size, matrix.shape[1])
        matrix = torch.empty_like(matrix).index_copy_(0, order, mixed.reshape(matrix.shape))
    return matrix


def _shuffle(count: int, half: int) -> Tensor:
    """Gives the order that brings outputs `half` apart next to each other."""
    return torch.arange(count).reshape(-1, 2, half).transpose(1, 2).flatten()


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    del limits
    require_floats(entries, {"oft_blocks", "rescale"})
    require_scalar(entries, "alpha")
    shape = entries["oft_blocks"].shape
    if len(shape) not in {3, 4} or shape[-1] != shape[-2]:
        raise misfit(entries, "(blocks, size, size), or (stages, blocks, size, size) for BOFT, is expected")
    out = shape[-3] * shape[-1]
    reach = shape[-1] << (shape[0] - 1) if len(shape) == 4 and shape[0] <= out.bit_length() else 0
    if len(shape) == 4 and (shape[-1] % 2 or not reach or out % reach):
        raise misfit(entries, f"the stages of a butterfly over {out} outputs halve them again and again")
    if "rescale" in entries and math.prod(entries["rescale"].shape) != out:
        raise misfit(entries, f"rescale holds one number for each of the {out} outputs")
    return Layout(None, 0, lambda wanted: wanted.out_features == out)


def _decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> OFT:
    del scale
    return OFT(tensors["oft_blocks"], tensors.get("alpha"), tensors.get("rescale"), shape.kernel)


def _encode(update: OFT) -> Encoded:
    found = {"oft_blocks": update.blocks, "alpha": update.bound, "rescale": update.rescale}
    return Encoded({role: tensor for role, tensor in found.items() if tensor is not None}, rank=0, scale=None)


ALGORITHM = Algorithm(
    name="oft",
    summary="rotations of blocks of outputs, OFT and BOFT (LyCORIS, kohya)",
    required=frozenset({"oft_blocks"}),
    optional=frozenset({"rescale", "alpha"}),
    layout=_layout,
    decode=_decode,
    encode=_encode,
)
