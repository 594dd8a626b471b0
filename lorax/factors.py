"""The numbers of a file: are they finite, and how do factors and alpha fit its element type, strength unchanged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorax.adapter import LowRank


def count_non_finite(tensor: Tensor) -> int:
    """Counts the values of a float32 tensor that are NaN or infinite."""
    # Where all is well, one pass: a sum is finite only if its numbers are. It may overflow, so then they are counted.
    return 0 if math.isfinite(float(tensor.sum())) else int((~torch.isfinite(tensor)).sum())


def factors_for_file(update: LowRank, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Gives (up, down) in the shapes that files use and in the element type asked for.

    Linear: (out, rank) and (rank, in); convolution: (out, rank, 1, 1) and (rank, in, kh, kw). Where half precision
    would overflow or lose small values, a power of two moves from one factor to the other, which is exact.
    """
    up, down = _balanced(update.up, update.down, dtype)
    up, down = up.to(dtype).contiguous(), down.to(dtype).contiguous()
    if update.kernel is None:
        return up, down
    return up.reshape(*up.shape, 1, 1), down.reshape(update.rank, -1, *update.kernel)


def with_alpha_in(update: LowRank, *, dtype: torch.dtype) -> tuple[LowRank, Tensor]:
    """Gives the update and its alpha = scale * rank as a tensor without dimensions, of the element type asked for.

    What rounding alpha to that type takes away goes into the up factor, so that alpha / rank times the factors is the
    update. A scale of zero would be read back as "not given": it is written as an up factor of zeros.
    """
    if update.scale == 0:
        return LowRank(update.up * 0, update.down, 1.0, update.kernel), torch.tensor(float(update.rank), dtype=dtype)
    wanted = update.scale * update.rank
    alpha = torch.tensor(wanted, dtype=torch.float64).to(dtype)
    rounded = float(alpha)
    if rounded in {wanted, 0.0} or not math.isfinite(rounded):
        return update, alpha
    return LowRank(update.up * (wanted / rounded), update.down, rounded / update.rank, update.kernel), alpha


def _balanced(up: Tensor, down: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if dtype != torch.float16:
        return up, down
    largest = [float(factor.abs().max()) for factor in (up, down)]
    if not all(0 < size < math.inf for size in largest):
        return up, down
    # Values below 2^-14 lose digits in half precision; keep 2^-7 of room under the largest value of each factor.
    if all(2**-7 < size < 2**15 for size in largest):
        return up, down
    shift = round((math.log2(largest[1]) - math.log2(largest[0])) / 2)
    return up * 2.0**shift, down * 2.0**-shift
