"""Cuts the rank of an update that came out larger than it went in, without ever forming the update.

up = Q_1 R_1 and down^T = Q_2 R_2; the singular values of up·down are those of the small R_1 R_2^T, so its SVD gives the
best approximation of any rank (Eckart and Young 1936). Costs 4·(out + columns)·rank^2 multiplications and one SVD of
(rank, rank).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lorax.adapter import LowRank


def added(parts: Sequence[LowRank]) -> LowRank:
    """Returns the sum of updates of one weight, which have the same scale, side by side: their ranks add up."""
    ups, downs = [part.up for part in parts], [part.down for part in parts]
    return replace(parts[0], up=torch.cat(ups, dim=1), down=torch.cat(downs))


def recompressed(update: LowRank, *, rank: int | None = None) -> tuple[LowRank, Tensor]:
    """Returns the best approximation of the rank given, and the share of the squared norm that it lacks, a scalar.

    rank: None keeps all that a matrix of this shape and these factors can have, and lacks nothing. The scale stays;
    both factors share the singular values, which keeps them in the range of half precision. Element type as it was.
    """
    left, small_left = torch.linalg.qr(update.up)
    right, small_right = torch.linalg.qr(update.down.mT)
    # On the CPU: it is small, and not every accelerator knows float64.
    inner = small_left.cpu().double() @ small_right.cpu().double().mT
    inner_left, values, inner_right = torch.linalg.svd(inner, full_matrices=False)
    kept = min(rank or values.numel(), values.numel())
    root = values[:kept].sqrt()
    up = left @ (inner_left[:, :kept] * root).to(left)
    down = (root[:, None] * inner_right[:kept]).to(right) @ right.mT
    squares = values.square()
    lost = squares[kept:].sum() / squares.sum().clamp_min(torch.finfo(squares.dtype).tiny)
    return replace(update, up=up, down=down), lost
