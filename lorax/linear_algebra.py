"""The few matrix operations that methods and reports share. All in float32 or, where sums are long, float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Above this, an exact SVD costs minutes per site on a CPU and a randomised one serves (Halko et al., arXiv 0909.4061).
EXACT_SVD_LIMIT = 1536


@dataclass(frozen=True, slots=True, eq=False)
class Subspaces:
    """The leading singular subspaces of one weight: left (out, rank), values (rank), right (columns, rank)."""

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """Number of singular directions kept."""
        return int(self.values.numel())


def leading_subspaces(weight: Tensor, *, energy: float, most: int | None = None) -> Subspaces:
    """Returns the fewest singular directions of `weight` (out, columns) that hold `energy` of its squared norm.

    `energy` in (0, 1]; `most` caps the rank. Above EXACT_SVD_LIMIT a randomised SVD with four power steps is used,
    whose rank is bounded by `most` (512 where none is given).
    """
    matrix = weight.to(torch.float32)
    if min(matrix.shape) <= EXACT_SVD_LIMIT:
        left, values, right_rows = torch.linalg.svd(matrix, full_matrices=False)
        right = right_rows.T
    else:
        left, values, right = torch.svd_lowrank(matrix, q=min(most or 512, *matrix.shape), niter=4)
    rank = _rank_for(values, float(matrix.square().sum()), energy=energy)
    if most is not None:
        rank = min(rank, most)
    return Subspaces(left[:, :rank].contiguous(), values[:rank].contiguous(), right[:, :rank].contiguous())


def _rank_for(values: Tensor, total: float, *, energy: float) -> int:
    """Returns how many leading `values` reach `energy` of `total`; all of them where they never do, or at energy 1."""
    held = values.double().square().cumsum(0)
    enough = (held >= energy * total) & (energy < 1.0)
    return int(enough.nonzero()[0]) + 1 if bool(enough.any()) else int(values.numel())


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
