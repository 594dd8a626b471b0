"""The few matrix operations that methods and reports share. All in float32 or, where sums are long, float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorax.subspaces import Bases, Subspaces, leading_bases, leading_subspaces

__all__ = [
    "EXACT_SVD_LIMIT",
    "Bases",
    "Subspaces",
    "leading_bases",
    "leading_subspaces",
    "overlap_above_chance",
    "polar_factor",
    "product_norms",
    "ridge",
]

# Above this a decomposition that is exact costs minutes per site on a CPU and a randomised one serves.
EXACT_SVD_LIMIT = 1536


def polar_factor(matrix: Tensor) -> Tensor:
    """Returns the (partial) isometry nearest to `matrix`: U V^T of its SVD, float64.

    For matrix = X^T Y it is the isometry with the largest <X Q, Y>; unless it is taller than wide, also the one with
    the least ||X Q - Y|| (where it is, ||X Q|| depends on Q, and there is no closed form for that). Directions below
    1e-12 of the largest singular value are noise and are left out.
    """
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = values > 1e-12 * values[0]
    factor: Tensor = left[:, kept] @ right[kept]
    return factor


def overlap_above_chance(first: Tensor, second: Tensor) -> float:
    """Returns how far two subspaces agree: 1 the same, 0 what two random ones would.

    Both are orthonormal columns in one space, (dimension, rank). The plain overlap ||first^T second||^2 / rank (LoRA-X,
    arXiv 2501.16559, eq. 4) grows with rank / dimension whatever the two are, so the chance level is taken out.
    """
    dimension, rank = first.shape[0], min(first.shape[1], second.shape[1])
    chance = max(first.shape[1], second.shape[1]) / dimension
    if chance >= 1.0:
        return 1.0
    plain = float((first.T.double() @ second.double()).square().sum()) / rank
    return (plain - chance) / (1 - chance)


def ridge(gram: Tensor, cross: Tensor, *, strength: float, prior: Tensor | None = None) -> Tensor:
    """Solves argmin_M ||X M - Y||^2 + strength·d·||M - prior||^2, gram = X^T X (n, n), cross = X^T Y (n, m).

    d is the mean of gram's diagonal, which makes `strength` free of units. Returns M (n, m), float32, solved in
    float64.
    """
    gram, cross = gram.double(), cross.double()
    weight = strength * float(gram.diagonal().mean().clamp_min(1e-30))
    right = cross if prior is None else cross + weight * prior.double()
    regular = gram + weight * torch.eye(gram.shape[0], dtype=torch.float64, device=gram.device)
    solved: Tensor = torch.linalg.solve(regular, right)
    return solved.float()


def product_norms(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Returns ||up·down||_F of each pair (out, rank), (rank, columns) from (rank, rank) Gram matrices, float32.

    Pairs of equal shapes go through one batched product: thousands of small ones cost more in calls than in arithmetic.
    """
    alike: dict[tuple[torch.Size, torch.Size], list[int]] = {}
    for index, (up, down) in enumerate(pairs):
        alike.setdefault((up.shape, down.shape), []).append(index)
    found = [0.0] * len(pairs)
    for indices in alike.values():
        ups = torch.stack([pairs[index][0] for index in indices])
        downs = torch.stack([pairs[index][1] for index in indices])
        squares = ((ups.mT @ ups) * (downs @ downs.mT)).sum((1, 2)).clamp_min(0)
        for index, norm in zip(indices, squares.sqrt().tolist(), strict=True):
            found[index] = norm
    return found
