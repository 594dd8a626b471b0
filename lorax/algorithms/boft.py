"""BOFT as peft writes it: stages of rotated blocks of inputs, and a factor for every output (arXiv 2311.06243).

boft_r (stages, blocks, size, size); boft_s (out, 1). With Q half the difference of a block and its transpose,
R = (1 - Q)(1 + Q)^-1; a stage shuffles the inputs by a butterfly, applies its blocks and shuffles back, later stages
after earlier ones. With M their product, the weight as a matrix becomes s * (W M^T). LyCORIS's BOFT is in oft.py.
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


@dataclass(frozen=True, slots=True, eq=False)
class BOFT:
    """Holds the blocks of all stages, and the factors of the outputs in the file's shape."""

    blocks: Tensor
    factors: Tensor
    kernel: tuple[int, ...] | None = None

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        return "boft"

    @property
    def needs_base(self) -> bool:
        """Tells that the change depends on the base weight."""
        return True

    def low_rank(self) -> None:
        """Gives nothing: the change has the rank of the base weight."""

    def rotations(self, dtype: torch.dtype) -> Tensor:
        """Gives the orthogonal blocks, in the shape of the file's."""
        blocks = self.blocks.to(dtype)
        skew = (blocks - blocks.mT) / 2
        unit = torch.eye(skew.shape[-1], dtype=dtype, device=skew.device).expand_as(skew)
        solved: Tensor = torch.linalg.solve(unit + skew, unit - skew, left=False)
        return solved

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the change in the shape of the weight. Raises ValueError without the weight."""
        weight = require_weight(weight, "BOFT")
        # W M^T is M applied to the inputs of every row: work on the inputs as rows.
        moved = weight.flatten(1).mT
        stages = self.rotations(weight.dtype)
        for stage, blocks in enumerate(stages):
            order = _shuffle(moved.shape[0], stage, blocks.shape[-1], len(stages)).to(moved.device)
            mixed = blocks @ moved[order].reshape(blocks.shape[0], blocks.shape[-1], -1)
            moved = torch.empty_like(moved).index_copy_(0, order, mixed.reshape(moved.shape))
        changed = moved.mT * self.factors.to(weight.dtype).reshape(-1, 1)
        return changed.reshape(weight.shape) - weight

    def rows(self, begin: int, end: int) -> BOFT:
        """Gives the change of rows [begin, end): their factors; inputs are rotated alike for all outputs."""
        return BOFT(self.blocks, self.factors.reshape(-1, 1)[begin:end], self.kernel)


def _shuffle(count: int, stage: int, size: int, stages: int) -> Tensor:
    """Gives peft's order of the inputs at a stage: in each group, half-blocks at even places before odd ones."""
    order = torch.arange(count)
    if stages == 1:
        return order
    halves = order.reshape(-1, 2 << stage, size // 2)
    back = torch.cat((halves[:, 0::2], halves[:, 1::2]), dim=1).flatten()
    # peft multiplies by P R P^T with P e_j at row i where order[i] = j: what R sees is shuffled by the inverse.
    return torch.argsort(back)


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    del limits
    require_floats(entries, {"boft_r", "boft_s"})
    shape, out = entries["boft_r"].shape, math.prod(entries["boft_s"].shape)
    if len(shape) != 4 or shape[2] != shape[3] or out not in entries["boft_s"].shape:
        raise misfit(entries, "boft_R (stages, blocks, size, size) and boft_s (out, 1) are expected")
    columns = shape[1] * shape[2]
    stages = shape[0]
    if stages > 1 and (shape[2] % 2 or stages > columns.bit_length() or columns % (shape[2] << (stages - 1))):
        raise misfit(entries, f"the stages of a butterfly over {columns} inputs halve them again and again")
    return Layout(None, 0, lambda wanted: (wanted.out_features, wanted.columns) == (out, columns))


def _decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> BOFT:
    del scale
    return BOFT(tensors["boft_r"], tensors["boft_s"], shape.kernel)


def _encode(update: BOFT) -> Encoded:
    return Encoded({"boft_r": update.blocks.contiguous(), "boft_s": update.factors.contiguous()}, rank=0, scale=None)


ALGORITHM = Algorithm(
    name="boft",
    summary="stages of rotated blocks of inputs, BOFT (peft)",
    required=frozenset({"boft_r", "boft_s"}),
    optional=frozenset({"alpha"}),
    layout=_layout,
    decode=_decode,
    encode=_encode,
)
