"""The leading singular subspaces of a weight: the largest part of what compiling a plan costs.

What methods need is the two projectors onto the leading directions, rarely the directions one by one. `leading_bases`
gives that and computes nothing for a side that is taken whole; `leading_subspaces` gives singular vectors and values.

The error of a subspace of rank r is the energy (squared norm) outside it beyond the least that any subspace of rank r
leaves out. It exists whatever the spectrum, which an angle to the true subspace does not: that is of the order of
(rounding or residual) / (gap after value r), and trained weights have next to no gap. Promised, of either side:

- a Gram matrix of the shorter side and its eigenvectors (up to EXACT_LIMIT, or where a good part of the directions is
  wanted): at most 2·rank·||E||, E the rounding of the Gram matrix, some 1e-7 of its largest eigenvalue in float32. So
  directions are what a float32 SVD gives down to GRAM_FLOOR of the largest value. Where one below it is wanted, the
  same in float64, where that is not enough, an SVD.
- above, `subspace_iteration`: at most 1 % of the energy left out, by a bound that is computed for each weight; where
  it does not hold, the first way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lorax.subspace_iteration import leading_eigenvectors, working_width

EXACT_LIMIT = 1536
"""The shorter side up to which all eigenvectors of a Gram matrix cost no more than iterating on some of them."""

GRAM_FLOOR = {torch.float32: 1e-2, torch.float64: 1e-5}
"""Least value, over the largest, whose direction is taken from a Gram matrix of this precision.

The root of the rounding, 3e-4 and 1e-8 of the largest, lies well below; and a float32 SVD resolves no better than that
of a float64 Gram matrix, as long as the value is above 1e-9 of the largest.
"""

_FIRST_GUESS = 512
_BANDS = 4
_ORTHONORMAL, _STRAIGHT_ENOUGH = 1e-6, 0.5


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


@dataclass(frozen=True, slots=True, eq=False)
class Bases:
    """Orthonormal bases of the leading singular subspaces: left (out, rank), right (columns, rank), in no order.

    A basis as wide as its side is long is the identity.
    """

    left: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """Number of directions kept."""
        return int(self.left.shape[1])


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How many directions are asked for: the fewest that hold `energy` of the whole, at most `cap`."""

    energy: float
    cap: int

    @property
    def all_of_it(self) -> bool:
        return self.energy >= 1.0

    def rank(self, squares: Tensor, total: float) -> int:
        """Returns it for falling `squares` of a whole of `total`; all of them where they never reach `energy`."""
        held = squares.double().clamp_min(0).cumsum(0)
        enough = (held >= self.energy * total) & (not self.all_of_it)
        return min(int(enough.nonzero()[0]) + 1 if bool(enough.any()) else int(squares.numel()), self.cap)


def leading_subspaces(weight: Tensor, *, energy: float, most: int | None = None) -> Subspaces:
    """Returns the fewest singular directions of `weight` (out, columns) that hold `energy` of its squared norm.

    `energy` in (0, 1]; `most` caps the rank. float32, orthonormal to 1e-5, values falling; the error is told at the
    head of this module. The same weight gives the same bytes on one machine with one number of threads.
    """
    matrix = weight.to(torch.float32)
    tall = matrix.shape[0] > matrix.shape[1]
    short = min(matrix.shape)
    scale = _power_of_two(matrix)
    sized = matrix / scale if scale != 1.0 else matrix
    found = _factored(sized.T if tall else sized, _Wanted(energy, min(most or short, short)))
    left, right = (found.right, found.left) if tall else (found.left, found.right)
    return Subspaces(left.contiguous(), found.values * scale, right.contiguous())


def leading_bases(weight: Tensor, *, energy: float, most: int | None = None) -> Bases:
    """Returns bases of what `leading_subspaces` gives; where every direction is wanted, without looking for them."""
    rows, columns = weight.shape
    short = min(rows, columns)
    if energy >= 1.0 and (most or short) >= short:
        matrix = weight.to(torch.float32)
        return Bases(_whole_side(matrix), _whole_side(matrix.T))
    found = leading_subspaces(weight, energy=energy, most=most)
    return Bases(_unless_whole(found.left), _unless_whole(found.right))


def _whole_side(matrix: Tensor) -> Tensor:
    """Returns a basis of a matrix's column space, or of everything where it has as many columns as rows or more."""
    if matrix.shape[1] >= matrix.shape[0]:
        return torch.eye(matrix.shape[0], device=matrix.device)
    return _orthonormal(matrix)


def _unless_whole(basis: Tensor) -> Tensor:
    return basis if basis.shape[1] < basis.shape[0] else torch.eye(basis.shape[0], device=basis.device)


def _power_of_two(matrix: Tensor) -> float:
    """Returns what to divide by so that squares of entries are normal numbers; 1 for weights of any usual size."""
    largest = max(abs(float(end)) for end in torch.aminmax(matrix))
    return 1.0 if largest == 0.0 or 1e-6 < largest < 1e6 else math.ldexp(1.0, math.frexp(largest)[1])


def _factored(wide: Tensor, wanted: _Wanted) -> Subspaces:
    """Returns the directions of a matrix that is no taller than wide, by the cheapest way that resolves them."""
    found = None
    if not (wanted.all_of_it and wanted.cap == wide.shape[0]):
        if wide.shape[0] > EXACT_LIMIT:
            found = _iterated(wide, wanted, torch.float32) or _iterated(wide, wanted, torch.float64)
        found = found or _from_gram(wide, wanted, torch.float32) or _from_gram(wide, wanted, torch.float64)
    return found or _by_svd(wide, wanted)


def _by_svd(wide: Tensor, wanted: _Wanted) -> Subspaces:
    # LAPACK is up to six times slower on a matrix that is wider than tall.
    right, values, left = torch.linalg.svd(wide.T, full_matrices=False)
    rank = wanted.rank(values.square(), float(values.double().square().sum()))
    return Subspaces(left[:rank].T, values[:rank].contiguous(), right[:, :rank])


def _iterated(wide: Tensor, wanted: _Wanted, dtype: torch.dtype) -> Subspaces | None:
    """Returns directions by iteration; None where it proves nothing, or where so many are wanted that it saves nothing.

    Without a cap, _FIRST_GUESS directions are looked for, and None is returned where they hold too little.
    """
    most = min(wanted.cap, _FIRST_GUESS) if wanted.cap == wide.shape[0] else wanted.cap
    if 4 * working_width(most) > wide.shape[0]:
        return None
    gram = _gram(wide.to(dtype))
    total = _trace(gram)
    found = leading_eigenvectors(gram, lambda squares: min(wanted.rank(squares, total), most), most=most)
    if found is None or (most < wanted.cap and float(found[1].double().sum()) < wanted.energy * total):
        return None
    return _finished(wide, *found, floor=GRAM_FLOOR[dtype])


def _from_gram(wide: Tensor, wanted: _Wanted, dtype: torch.dtype) -> Subspaces | None:
    """Returns directions from all eigenvectors of the Gram matrix; None where it cannot resolve them."""
    gram = _gram(wide.to(dtype))
    squares, vectors = torch.linalg.eigh(gram)
    rank = wanted.rank(squares.flip(0), _trace(gram))
    return _finished(wide, vectors[:, -rank:].flip(1), squares[-rank:].flip(0), floor=GRAM_FLOOR[dtype])


def _trace(gram: Tensor) -> float:
    return float(gram.diagonal().double().sum())


def _finished(wide: Tensor, short: Tensor, squares: Tensor, *, floor: float) -> Subspaces | None:
    """Returns the directions with their other side; None where the smallest lies under `floor` of the largest."""
    if float(squares[-1]) <= floor**2 * float(squares[0]):
        return None
    leading = short.float()
    long = wide.T @ leading
    inner = _gram(long.T)
    values = inner.diagonal().sqrt()
    # Exact eigenvectors would make these columns orthogonal; rounding left them a little off, and Newton's iteration
    # for the nearest orthonormal ones takes products alone.
    inner = inner / values / values[:, None]
    unit = torch.eye(values.numel(), device=values.device)
    turn = unit / values
    off = float(torch.linalg.matrix_norm(inner - unit))
    if not off < _STRAIGHT_ENOUGH:
        return None
    while True:
        long = long @ (turn @ (1.5 * unit - 0.5 * inner))
        off = off**2  # three quarters of it are left
        if off <= _ORTHONORMAL:
            return Subspaces(leading, values, long)
        inner, turn = _gram(long.T), unit


def _gram(wide: Tensor) -> Tensor:
    """Returns wide @ wide^T; what lies under the diagonal is computed, the rest is its mirror image."""
    short = wide.shape[0]
    gram = wide.new_empty(short, short)
    step = -(-short // _BANDS)
    for begin in range(0, short, step):
        end = min(begin + step, short)
        gram[begin:, begin:end] = wide[begin:] @ wide[begin:end].T
        gram[begin:end, end:] = gram[end:, begin:end].T
    return gram


def _orthonormal(columns: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(columns)[0]
    return basis
