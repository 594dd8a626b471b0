"""The linear maps a plan is made of: what carries one factor of an update to the target base.

An operator takes columns of length `source` to columns of length `target`. A plan applies one to the rows of `up`
and, transposed into columns, one to `down`; so `up' = O·up` and `down' = down·I` never form `up·down`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Operator(Protocol):
    """A linear map from (source, n) to (target, n), float32."""

    def apply(self, columns: Tensor) -> Tensor:
        """Returns the map of `columns`, shape (source, n) -> (target, n)."""
        ...

    def apply_rows(self, rows: Tensor) -> Tensor:
        """Returns the map of `rows`, shape (n, source) -> (n, target): the same, and rows come out as rows lie."""
        ...

    def times(self, factor: float) -> Operator:
        """Returns the same map, `factor` times as strong, at the same cost."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Returns what has to be stored to rebuild the operator, by part name."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Leaves columns as they are."""

    def apply(self, columns: Tensor) -> Tensor:
        """Returns `columns` itself."""
        return columns

    def apply_rows(self, rows: Tensor) -> Tensor:
        """Returns `rows` itself."""
        return rows

    def times(self, factor: float) -> Operator:
        """Returns the same map, `factor` times as strong, at the same cost."""
        return Scaling(torch.tensor([factor]))

    def tensors(self) -> dict[str, Tensor]:
        """Returns nothing: an identity has no parts."""
        return {}


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A full matrix, shape (target, source)."""

    matrix: Tensor

    def apply(self, columns: Tensor) -> Tensor:
        """Returns `matrix @ columns`."""
        return self.matrix @ columns

    def apply_rows(self, rows: Tensor) -> Tensor:
        """Returns `rows @ matrix^T`."""
        return rows @ self.matrix.mT

    def times(self, factor: float) -> Operator:
        """Returns the same map, `factor` times as strong, at the same cost."""
        return Dense(self.matrix * factor)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the matrix."""
        return {"matrix": self.matrix}


@dataclass(frozen=True, slots=True, eq=False)
class Factored:
    """A product of two thin matrices: left (target, rank), right (rank, source)."""

    left: Tensor
    right: Tensor

    def apply(self, columns: Tensor) -> Tensor:
        """Returns `left @ (right @ columns)`, in that order: rank is small."""
        return self.left @ (self.right @ columns)

    def apply_rows(self, rows: Tensor) -> Tensor:
        """Returns `(rows @ right^T) @ left^T`."""
        return (rows @ self.right.mT) @ self.left.mT

    def times(self, factor: float) -> Operator:
        """Returns the same map, `factor` times as strong, at the same cost."""
        return Factored(self.left * factor, self.right)

    def tensors(self) -> dict[str, Tensor]:
        """Returns both factors."""
        return {"left": self.left, "right": self.right}


@dataclass(frozen=True, slots=True, eq=False)
class Projector:
    """A thin matrix times its own transpose: basis (size, rank); half of what a Factored would store."""

    basis: Tensor

    def apply(self, columns: Tensor) -> Tensor:
        """Returns `basis @ (basis^T @ columns)`."""
        return self.basis @ (self.basis.mT @ columns)

    def apply_rows(self, rows: Tensor) -> Tensor:
        """Returns `(rows @ basis) @ basis^T`."""
        return (rows @ self.basis) @ self.basis.mT

    def times(self, factor: float) -> Operator:
        """Returns the same map, `factor` times as strong, at the same cost."""
        return Factored(self.basis * factor, self.basis.mT.contiguous())

    def tensors(self) -> dict[str, Tensor]:
        """Returns the basis."""
        return {"basis": self.basis}


@dataclass(frozen=True, slots=True, eq=False)
class SignedPermutation:
    """Moves row `order[i]` to row i and multiplies it by `sign[i]`; keeps every norm and spectrum."""

    order: Tensor
    sign: Tensor

    def apply(self, columns: Tensor) -> Tensor:
        """Returns the shuffled rows."""
        return columns[self.order.long()] * self.sign.to(columns.dtype)[:, None]

    def apply_rows(self, rows: Tensor) -> Tensor:
        """Returns the same of the rows' entries."""
        return rows[:, self.order.long()] * self.sign.to(rows.dtype)

    def times(self, factor: float) -> Operator:
        """Returns the same map, `factor` times as strong, at the same cost."""
        return SignedPermutation(self.order, self.sign * factor)

    def tensors(self) -> dict[str, Tensor]:
        """Returns order (int32) and sign (float32)."""
        return {"order": self.order, "sign": self.sign}


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """Multiplies by one number: factor (1,), float32."""

    factor: Tensor

    def apply(self, columns: Tensor) -> Tensor:
        """Returns `factor * columns`."""
        return self.factor * columns

    def apply_rows(self, rows: Tensor) -> Tensor:
        """Returns `factor * rows`."""
        return self.factor * rows

    def times(self, factor: float) -> Operator:
        """Returns the same map, `factor` times as strong, at the same cost."""
        return Scaling(self.factor * factor)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the number, as a tensor."""
        return {"factor": self.factor}


@dataclass(frozen=True, slots=True, eq=False)
class IdentityPlus:
    """A multiple of the identity and a product of two thin matrices: left (size, rank), right (rank, size)."""

    factor: Tensor
    left: Tensor
    right: Tensor

    def apply(self, columns: Tensor) -> Tensor:
        """Returns `factor * columns + left @ (right @ columns)`."""
        return self.factor * columns + self.left @ (self.right @ columns)

    def apply_rows(self, rows: Tensor) -> Tensor:
        """Returns `factor * rows + (rows @ right^T) @ left^T`."""
        return self.factor * rows + (rows @ self.right.mT) @ self.left.mT

    def times(self, factor: float) -> Operator:
        """Returns the same map, `factor` times as strong, at the same cost."""
        return IdentityPlus(self.factor * factor, self.left * factor, self.right)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the number and both factors."""
        return {"factor": self.factor, "left": self.left, "right": self.right}


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A matrix of equal blocks of which few are not zero: block n maps part columns[n] of the source to part rows[n].

    blocks (count, target width, source width), rows and columns (count,) int32, parts: (target parts, source parts)
    int32. Costs count * target width * source width multiplications per column.
    """

    blocks: Tensor
    rows: Tensor
    columns: Tensor
    parts: Tensor

    def apply(self, columns: Tensor) -> Tensor:
        """Returns the sum of the blocks' products, by target part."""
        target, source = self.parts.tolist()
        width, count = self.blocks.shape[1], columns.shape[1]
        products = torch.bmm(self.blocks, columns.reshape(source, -1, count)[self.columns.long()])
        out = columns.new_zeros(target, width, count).index_add_(0, self.rows.long(), products)
        return out.reshape(target * width, count)

    def apply_rows(self, rows: Tensor) -> Tensor:
        """Returns the same of the rows' entries."""
        return self.apply(rows.mT).mT.contiguous()

    def times(self, factor: float) -> Operator:
        """Returns the same map, `factor` times as strong, at the same cost."""
        return Blocks(self.blocks * factor, self.rows, self.columns, self.parts)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the blocks, where they are, and how many there could be."""
        return {"blocks": self.blocks, "rows": self.rows, "columns": self.columns, "parts": self.parts}


_KINDS: dict[str, Callable[..., Operator]] = {
    "identity": Identity,
    "dense": Dense,
    "factored": Factored,
    "projector": Projector,
    "signed-permutation": SignedPermutation,
    "scaling": Scaling,
    "identity-plus": IdentityPlus,
    "blocks": Blocks,
}


def kind_of(operator: Operator) -> str:
    """Returns the name under which a plan file stores this operator's class."""
    return next(name for name, kind in _KINDS.items() if kind is type(operator))


def rebuild(kind: str, parts: Mapping[str, Tensor]) -> Operator:
    """Makes the operator that `kind_of` and `tensors` describe; raises KeyError for an unknown kind."""
    return _KINDS[kind](**parts)


def cheaper(left: Tensor, right: Tensor) -> Operator:
    """Returns the product left·right as the operator with the fewest multiplications per column."""
    factored_cost = left.numel() + right.numel()
    if factored_cost < left.shape[0] * right.shape[1]:
        return Factored(left.contiguous(), right.contiguous())
    return Dense((left @ right).contiguous())


def projector(basis: Tensor) -> Operator:
    """Returns basis·basis^T of orthonormal columns, (size, rank), as the operator that multiplies least per column."""
    if basis.shape[1] >= basis.shape[0]:
        return Identity()
    if 2 * basis.shape[1] < basis.shape[0]:
        return Projector(basis.contiguous())
    return Dense((basis @ basis.mT).contiguous())


def identity_plus(left: Tensor, right: Tensor) -> Operator:
    """Returns 1 + left·right, (size, rank) and (rank, size), as the operator that costs less."""
    size = left.shape[0]
    if left.numel() + right.numel() < size * size:
        return IdentityPlus(torch.ones(1, device=left.device), left.contiguous(), right.contiguous())
    return Dense((torch.eye(size, device=left.device) + left @ right).contiguous())


def random_signed_permutation(size: int, generator: torch.Generator) -> SignedPermutation:
    """Draws a signed permutation of `size` rows, uniformly."""
    order = torch.randperm(size, generator=generator).to(torch.int32)
    sign = torch.randint(0, 2, (size,), generator=generator).to(torch.float32) * 2 - 1
    return SignedPermutation(order, sign)
