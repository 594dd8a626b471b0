"""LoKr: scale * kron(w1, w2), reshaped to the weight (LyCORIS, arXiv 2309.14859, section 3.2.2).

Each factor is whole (w1, w2) or itself low-rank (w*_a @ w*_b); w2 of a convolution may have a Tucker core t2
(rank, rank, *kernel), and then w2_a (rank, b) and w2_b (rank, d). w1 (a, c) and w2 (b, d * taps) patch a weight of
(a*b, c*d*taps). How writers split sizes into a*b and c*d changed over time, and writers of 2023 split in * taps as one
number, so the sizes are never computed here, only checked. With both factors whole LyCORIS knows no rank and applies
no alpha; peft divides by the rank of its configuration all the same, which the scale given to decode has to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lorax.adapter import LowRank, SiteShape
from lorax.algorithm import (
    Algorithm,
    Encoded,
    Layout,
    incomplete,
    misfit,
    no_rows,
    require_floats,
    require_rank,
    require_scalar,
    working_type,
)
from lorax.matrix_fit import MatrixFit
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from typing import NoReturn

    from torch import Tensor

_ROLES = frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"})


@dataclass(frozen=True, slots=True, eq=False)
class LoKr:
    """Holds the tensors of a LoKr module as the file has them, by role.

    shape: of the weight that is patched.
    """

    tensors: Mapping[str, Tensor]
    scale: float
    shape: SiteShape

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        return "lokr"

    @property
    def kernel(self) -> tuple[int, ...] | None:
        """Gives the kernel of the weight that is patched."""
        return self.shape.kernel

    @property
    def needs_base(self) -> bool:
        """Tells that the change is known without the base weight."""
        return False

    @property
    def rank(self) -> int:
        """Gives the rank of the factors that are low-rank themselves, 0 where both are whole."""
        found = [self.tensors[role].shape[0] for role in ("lokr_w1_b", "lokr_w2_b") if role in self.tensors]
        return int(found[0]) if found else 0

    @property
    def exact_rank(self) -> int:
        """Gives the rank of the factors that low_rank() gives, forming none of them."""
        return math.prod(_inner_size(factors) for factors in self._factors())

    def norm(self) -> float:
        """Gives the Frobenius norm of the change: those of the two factors multiplied."""
        own = [float(_multiplied(*factors).double().norm()) for factors in self._factors()]
        return abs(self.scale) * math.prod(own)

    def low_rank(self) -> LowRank:
        """Gives the factors whose rank is the product of the two factors' ranks.

        kron(A B, C D) = kron(A, C) @ kron(B, D); a whole factor is itself times the identity on its narrower side.
        """
        (up1, down1), (up2, down2) = map(_as_product, self._factors())
        up, down = torch.kron(up1, up2.contiguous()), torch.kron(down1, down2)
        return LowRank(up, down, self.scale, self.kernel)

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the change in the shape of the weight."""
        dtype = working_type(weight, next(iter(self.tensors.values())))
        first, second = (_multiplied(*factors) for factors in (self._first(dtype), self._second(dtype)))
        return (self.scale * torch.kron(first, second)).reshape(self.shape.weight_shape)

    def rows(self, begin: int, end: int) -> NoReturn:
        """Raises Unsupported: rows of a Kronecker product are none in general."""
        raise no_rows("LoKr", f"rows {begin} to {end} of a Kronecker product are no Kronecker product")

    def _own_type(self) -> torch.dtype:
        return next(iter(self.tensors.values())).dtype

    def _factors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return self._first(self._own_type()), self._second(self._own_type())

    def _first(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        if "lokr_w1" in self.tensors:
            return (self.tensors["lokr_w1"].to(dtype),)
        return self.tensors["lokr_w1_a"].to(dtype), self.tensors["lokr_w1_b"].to(dtype)

    def _second(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        if "lokr_w2" in self.tensors:
            return (self.tensors["lokr_w2"].to(dtype).flatten(1),)
        first, second = self.tensors["lokr_w2_a"].to(dtype), self.tensors["lokr_w2_b"].to(dtype)
        if (core := self.tensors.get("lokr_t2")) is None:
            return first, second.flatten(1)
        return first.mT, (core.to(dtype).movedim(1, -1) @ second).movedim(-1, 1).flatten(1)


def _multiplied(*factors: Tensor) -> Tensor:
    return factors[0] if len(factors) == 1 else factors[0] @ factors[1]


def _inner_size(factors: tuple[Tensor, ...]) -> int:
    """The smallest inner size of a product that equals a factor, as far as shapes tell."""
    return min(factors[0].shape[0], factors[-1].shape[1], *(factor.shape[0] for factor in factors[1:]))


def _as_product(factors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """A factor as a product with the smallest inner size that is known without computing anything."""
    narrow = min(factors[0].shape[0], factors[-1].shape[1])
    if len(factors) == 2 and factors[0].shape[1] <= narrow:
        return factors[0], factors[1]
    whole = _multiplied(*factors)
    unit = torch.eye(narrow, dtype=whole.dtype, device=whole.device)
    return (unit, whole) if whole.shape[0] == narrow else (whole, unit)


def _claims(roles: frozenset[str]) -> bool:
    return bool(roles & _ROLES) and roles <= _ROLES | {"alpha"}


def layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    """Gives the weights that the tensors may patch. Raises BadFile when they do not fit each other or the limits."""
    require_floats(entries, _ROLES)
    require_scalar(entries, "alpha")
    (rows1, columns1, rank1, kernel1), (rows2, columns2, rank2, kernel2) = (_factor(entries, n) for n in "12")
    if kernel1 or (rank1 and rank2 and rank1 != rank2):
        raise misfit(entries, "w1 has no taps, and both factors have one rank")
    out, columns = rows1 * rows2, columns1 * columns2
    # A second factor with taps of its own tells the kernel; a flat one leaves it open.
    shape = SiteShape(out, columns // math.prod(kernel2), kernel2) if kernel2 else None
    layout = Layout(shape, rank1 or rank2, MatrixFit(out, columns))
    for role in ("lokr_w1_b", "lokr_w2_b"):
        if role in entries:
            require_rank(Layout(SiteShape(out, columns), layout.rank), entries[role], limits)
    return layout


def _factor(entries: Mapping[str, TensorEntry], number: str) -> tuple[int, int, int, tuple[int, ...]]:
    """Rows, columns with taps, rank (0 for a whole factor) and taps of one of the two factors, from shapes."""
    whole, first, second, core = (f"lokr_{part}" for part in (f"w{number}", f"w{number}_a", f"w{number}_b", "t2"))
    if whole in entries:
        shape = entries[whole].shape
        if {first, second} & entries.keys() or len(shape) not in {2, 4, 5}:
            raise misfit(entries, f"{whole} has two dimensions or a kernel, and no {first} and {second} beside it")
        return shape[0], math.prod(shape[1:]), 0, shape[2:]
    if missing := {first, second} - entries.keys():
        raise incomplete(entries, f"{whole} or {', '.join(sorted(missing))}")
    left, right = entries[first].shape, entries[second].shape
    if number == "2" and core in entries:
        return _tucker_factor(entries)
    if len(left) != 2 or len(right) not in {2, 4, 5} or left[1] != right[0]:
        raise misfit(entries, f"{first} (rows, rank) and {second} (rank, columns) are expected")
    return left[0], math.prod(right[1:]), right[0], right[2:]


def _tucker_factor(entries: Mapping[str, TensorEntry]) -> tuple[int, int, int, tuple[int, ...]]:
    left, right, core = (entries[role].shape for role in ("lokr_w2_a", "lokr_w2_b", "lokr_t2"))
    if not (len(left) == len(right) == 2 and len(core) in {4, 5} and len({*core[:2], left[0], right[0]}) == 1):
        raise misfit(
            entries, "beside t2 (rank, rank, *kernel), w2_a (rank, rows) and w2_b (rank, columns) are expected"
        )
    return left[1], right[1] * math.prod(core[2:]), core[0], core[2:]


def decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> LoKr:
    """Gives the update that the tensors mean for a weight of this shape, in their element type."""
    return LoKr({role: tensor for role, tensor in tensors.items() if role in _ROLES}, scale, shape)


def encode(update: LoKr) -> Encoded:
    """Gives the tensors back as they were."""
    tensors = {role: tensor.contiguous() for role, tensor in update.tensors.items()}
    # Without a rank there is no alpha / rank; what the scale says goes into the smaller factor, unless it says nothing.
    if update.rank == 0 and update.scale != 1.0:
        tensors["lokr_w1"] = tensors["lokr_w1"] * update.scale
    return Encoded(tensors, update.rank, update.scale if update.rank else None)


ALGORITHM = Algorithm(
    name="lokr",
    summary="the Kronecker product of two matrices, each whole or low-rank, with or without a Tucker core",
    required=frozenset(),
    optional=_ROLES | {"alpha"},
    claims=_claims,
    layout=layout,
    decode=decode,
    encode=encode,
)
