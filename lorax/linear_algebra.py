"""The few matrix operations that methods and reports share. All in float32 or, where sums are long, float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Above this a decomposition that is exact costs minutes per site on a CPU and a randomised one serves.
EXACT_SVD_LIMIT = 1536
# Singular vectors from a Gram matrix lose orthogonality as eps / (value / largest)^2; float64 bears this much.
GRAM_FLOOR = 1e-4
OVERSAMPLING = 32
POWER_STEPS = 2


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

    `energy` in (0, 1]; `most` caps the rank; float32. The same weight gives the same bytes. How it is done:

    - the shorter side at most EXACT_SVD_LIMIT: an SVD in float32; where the other side is twice as long or more,
      eigenvectors of the Gram matrix of the shorter side in float64, several times faster and orthonormal to
      short * 2.2e-16 / GRAM_FLOOR^2 (4e-5 at the limit), unless every direction or one below GRAM_FLOOR of the largest
      value is asked for;
    - wider: `randomised_subspaces` of rank `most` (512 where none is given), which says its own error. An SVD again
      where `most` asks for every direction.
    """
    matrix = weight.to(torch.float32)
    short = min(matrix.shape)
    cap = min(most or short, short)
    total = float(matrix.double().square().sum())
    if short > EXACT_SVD_LIMIT and (most or 512) < short:
        found = randomised_subspaces(matrix, rank=most or 512)
    else:
        slim = max(matrix.shape) >= 2 * short and (energy < 1.0 or cap < short)
        gram = _gram_subspaces(matrix, total, energy=energy, cap=cap) if slim else None
        found = gram or _svd(matrix)
    return _first(found, min(_rank_for(found.values, total, energy=energy), cap))


def randomised_subspaces(matrix: Tensor, *, rank: int) -> Subspaces:
    """Returns `rank` leading singular directions of a float32 matrix by subspace iteration from a fixed random start.

    The range found, Q with k = rank + OVERSAMPLING columns after q = POWER_STEPS steps, leaves on average
    ||W - Q Q^T W||_2 <= `range_error_factor` * (singular value k+1 - OVERSAMPLING), Halko et al., arXiv 0909.4061,
    corollary 10.10. Values are never above the true ones.
    """
    width = min(rank + OVERSAMPLING, *matrix.shape)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], width, generator=generator).to(matrix.device)
    image = matrix @ start
    for _ in range(POWER_STEPS):
        # Orthonormal after each half step: powers of a spread spectrum would drown the small directions in rounding.
        image = matrix @ _orthonormal(matrix.T @ _orthonormal(image))
    basis = _orthonormal(image)
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return _first(Subspaces(basis @ left, values, right.T), rank)


def range_error_factor(rank: int, *, shorter_side: int) -> float:
    """Returns the factor c of E||W - Q Q^T W||_2 <= c * sigma_(rank+1) for `randomised_subspaces`."""
    spread = 1 + math.sqrt(rank / (OVERSAMPLING - 1))
    tail = math.e * math.sqrt(rank + OVERSAMPLING) / OVERSAMPLING * math.sqrt(shorter_side - rank)
    return float((spread + tail) ** (1 / (2 * POWER_STEPS + 1)))


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


def _gram_subspaces(matrix: Tensor, total: float, *, energy: float, cap: int) -> Subspaces | None:
    """Returns the directions asked for from the Gram matrix of the shorter side; None where it cannot resolve them."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    doubled = wide.double()
    squares, vectors = torch.linalg.eigh(doubled @ doubled.T)
    values = squares.flip(0).clamp_min(0).sqrt()
    rank = min(_rank_for(values, total, energy=energy), cap)
    if values[rank - 1] <= GRAM_FLOOR * values[0]:
        return None
    # float32 from here on: what is left is a product, as exact as its operands.
    short = vectors.flip(1)[:, :rank].float()
    long = (wide.T @ short) / values[:rank].float()
    left, right = (long, short) if tall else (short, long)
    return Subspaces(left, values[:rank].float(), right)


def _svd(matrix: Tensor) -> Subspaces:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return Subspaces(left, values, right.T)


def _orthonormal(columns: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(columns)[0]
    return basis


def _first(found: Subspaces, rank: int) -> Subspaces:
    return Subspaces(
        found.left[:, :rank].contiguous(), found.values[:rank].contiguous(), found.right[:, :rank].contiguous()
    )


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
