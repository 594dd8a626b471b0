"""The leading eigenvectors of a large Gram matrix by products alone, with a bound on what they miss.

Subspace iteration from a fixed random start (Halko et al., arXiv 0909.4061), each round through a Chebyshev polynomial
that stays within 1 on the eigenvalues to be damped and grows fastest above them (Zhou and Saad, 2007).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 0.01
"""The most that may be missed, as a share of the energy that the best subspace of its rank leaves out."""

OVERSAMPLING = 0.3
"""How many more directions than asked for are iterated on, as a share of them; WORKING_MARGIN at least."""

WORKING_MARGIN = 32

_ROUNDS = 6
# A polynomial may magnify the first direction by this much over the last one kept: Ritz vectors hold 1e-7 of the first
# direction by rounding, and what a column holds of it costs the column as many digits.
_GROWTH = 1e9
_MOST_DEGREE = 6
_PROBES, _PROBE_STEPS, _CEILING_MARGIN = 8, 5, 1.1


@dataclass(frozen=True, slots=True, eq=False)
class Ritz:
    """The best approximations of eigenvectors in a subspace: vectors (size, k), squares (k) the values, falling.

    image is the matrix times the vectors; what it has beside squares * vectors are the residuals.
    """

    vectors: Tensor
    squares: Tensor
    image: Tensor

    def residuals(self) -> Tensor:
        """Returns the squared norm of each vector's residual, float64."""
        return (self.image - self.vectors * self.squares).double().square().sum(0)


def working_width(rank: int) -> int:
    """Returns the number of directions to iterate on for `rank` leading ones."""
    return rank + max(WORKING_MARGIN, math.ceil(OVERSAMPLING * rank))


def leading_eigenvectors(gram: Tensor, rank_for: Callable[[Tensor], int], *, most: int) -> tuple[Tensor, Tensor] | None:
    """Returns leading eigenvectors (size, rank) of a Gram matrix and their values, falling; None where none are proven.

    rank_for: the rank to keep, given the values found so far; most: the most that it ever asks for. The energy of a
    subspace is the trace of the matrix in it. What is returned holds at most TOLERANCE of the energy left out less than
    the best subspace of its rank: `missed_energy` is held against that after each round. Every matrix of one size gets
    the same start.
    """
    total = float(gram.diagonal().double().sum())
    # Twice, as one product is too rough to place the end of the range that the first polynomial damps.
    basis = _orthonormal(gram @ _orthonormal(gram @ _gaussian(gram, working_width(most))))
    for _ in range(_ROUNDS):
        found = _ritz(gram, basis)
        rank = rank_for(found.squares)
        allowed = TOLERANCE * max(total - float(found.squares[:rank].double().sum()), 0.0)
        if missed_energy(gram, found, rank, enough=allowed) <= allowed:
            return found.vectors[:, :rank], found.squares[:rank]
        basis = _orthonormal(_filtered(gram, found))
    return None


def missed_energy(gram: Tensor, found: Ritz, rank: int, *, enough: float = 0.0) -> float:
    """Returns an upper bound on the energy by which the first `rank` Ritz vectors fall short of the best subspace.

    With Ritz values t_1 >= ... >= t_k, residuals r_i, and c above every eigenvalue on the complement of the Ritz
    vectors, the matrix is at most [T, B^T; B, c] with ||B e_i|| = ||r_i||, and no less when every t_i under some
    u > c is raised to u. D = T - c is positive then, and as [D, B^T; B, 0] <= F F^T with F = [D^1/2; B D^-1/2], the sum
    of the `rank` largest eigenvalues is at most (Ky Fan)

        sum_(i <= rank) max(t_i, u)  +  sum_(i <= k) ||r_i||^2 / (max(t_i, u) - c).

    The bound is the least of this over some u, beyond t_1 + ... + t_rank. c is not known: it is taken _CEILING_MARGIN
    times what power steps from random vectors find, and not looked for where the bound is above `enough` with c = 0.
    """
    squares, misses = found.squares.double(), found.residuals()
    if float((misses / squares.clamp_min(float(squares[rank - 1]))).sum()) > enough:
        return math.inf
    ceiling = _CEILING_MARGIN * _largest_outside(gram, found.vectors)
    above = ceiling * (1 + torch.logspace(-4, 0, 20, dtype=torch.float64, device=gram.device))
    raised = torch.cat([squares[squares > ceiling], above]).clamp_min(1e-300)[:, None]
    levels = squares.maximum(raised)
    short = (levels - squares)[:, :rank].sum(1) + (misses / (levels - ceiling)).sum(1)
    return float(short.min())


def _ritz(gram: Tensor, basis: Tensor) -> Ritz:
    image = gram @ basis
    squares, turn = torch.linalg.eigh(basis.T @ image)
    turn = turn.flip(1)
    return Ritz(basis @ turn, squares.flip(0), image @ turn)


def _filtered(gram: Tensor, found: Ritz) -> Tensor:
    """Returns p(gram) of the Ritz vectors, p the Chebyshev polynomial of the range from 0 to the least Ritz value."""
    half = max(float(found.squares[-1]), 1e-12 * float(found.squares[0])) / 2
    before, now = found.vectors, (found.image - half * found.vectors) / half
    for _ in range(_degree(float(found.squares[0]) / half - 1) - 1):
        after = torch.addmm(before, gram, now, beta=-1, alpha=2 / half).sub_(now, alpha=2)
        before, now = now, after
    return now


def _degree(reach: float) -> int:
    """Returns the largest degree whose polynomial grows by no more than _GROWTH at `reach` (1 the end of the range)."""
    return max(1, min(_MOST_DEGREE, int(math.log(2 * _GROWTH) / math.acosh(max(reach, 1.0 + 1e-9)))))


def _largest_outside(gram: Tensor, vectors: Tensor) -> float:
    """Returns about the largest eigenvalue on the complement of orthonormal vectors, from below."""
    probes, largest = _gaussian(gram, min(_PROBES, gram.shape[0])), 0.0
    for _ in range(_PROBE_STEPS):
        probes = _orthonormal(probes - vectors @ (vectors.T @ probes))
        image = gram @ probes
        image -= vectors @ (vectors.T @ image)
        largest = float(torch.linalg.eigvalsh(probes.T @ image)[-1])
        probes = image
    return max(largest, 0.0)


def _gaussian(like: Tensor, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(like.shape[0], min(width, like.shape[0]), generator=generator).to(like)


def _orthonormal(columns: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(columns)[0]
    return basis
