"""Does an operator of a plan leave channels where they are, so that a number per channel may stay with its channel?"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.operators import Blocks, Dense, Factored, Identity, IdentityPlus, Operator, Projector, Scaling

LEAST_SHARE = 0.5
"""Of the squared norm of an operator, that has to be along the identity."""


def stays_in_place(operator: Operator, size: int) -> bool:
    """Tells whether an operator of (size, size) is mostly a positive multiple of the identity.

    That is when its cosine with the identity, trace / (sqrt(size) * norm), is positive and its square at least .5: what
    leads away from the own channel, or makes channels unlike, has no more weight than what stays. An identity has 1, a
    projector onto half of all directions .5, a permutation or a rotation of unrelated bases about 0.
    """
    if isinstance(operator, Identity):
        return True
    if isinstance(operator, Scaling):
        return float(operator.factor) > 0
    along, square = _along_identity(operator, size)
    return along > 0 and along**2 >= LEAST_SHARE * size * square


def _along_identity(operator: Operator, size: int) -> tuple[float, float]:
    """The trace and the squared norm, without forming a factored matrix; (0, 1) of what is never meant to stay."""
    match operator:
        case Dense(matrix) if matrix.shape == (size, size):
            return float(matrix.trace()), float(matrix.square().sum())
        case Projector(basis) if len(basis) == size:
            return _of_product(basis, basis.mT)
        case Factored(left, right) if (len(left), right.shape[1]) == (size, size):
            return _of_product(left, right)
        case IdentityPlus(factor, left, right) if len(left) == size:
            times = float(factor)
            trace, square = _of_product(left, right)
            return times * size + trace, times**2 * size + 2 * times * trace + square
        case Blocks(blocks, rows, columns, _) if blocks.shape[1] == blocks.shape[2]:
            own = rows == columns
            return float(torch.einsum("nii->", blocks[own])), float(blocks.square().sum())
        case _:
            return 0.0, 1.0


def _of_product(left: Tensor, right: Tensor) -> tuple[float, float]:
    trace = float((left * right.mT).sum())
    return trace, max(float(((left.mT @ left) * (right @ right.mT)).sum()), 0.0)
