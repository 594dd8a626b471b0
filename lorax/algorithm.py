"""What an algorithm, the tensor algebra of an update, has to declare."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorax.adapter import SiteShape, Update
from lorax.errors import BadFile, Unsupported
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Element types of factors."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Tells what the tensors of one module add up to, from their shapes alone.

    shape: of the weight they patch, None where the tensors leave it open; rank: of the update, 0 where it has none;
    fit: decides for an open shape whether a weight may be the one.
    """

    shape: SiteShape | None
    rank: int
    fit: Callable[[SiteShape], bool] | None = None

    def fits(self, wanted: SiteShape) -> bool:
        """Tells whether the module can patch a weight of this shape; a 1x1 convolution is a linear layer."""
        if self.fit is not None:
            return self.fit(wanted)
        return self.shape is not None and same_weight(self.shape, wanted)

    def __str__(self) -> str:
        return f"of shape {self.shape}" if self.shape is not None else "of another size"


def same_weight(found: SiteShape, wanted: SiteShape) -> bool:
    """Tells whether two shapes are of the same matrix: a 1x1 convolution is a linear layer."""
    taps = [shape.kernel if math.prod(shape.kernel or (1,)) > 1 else None for shape in (found, wanted)]
    sizes = (found.out_features, found.in_features) == (wanted.out_features, wanted.in_features)
    return sizes and taps[0] == taps[1]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Is an update ready to be written: its tensors by role, and what alpha = scale * rank is made of.

    scale: None for an algorithm whose files have no alpha.
    """

    tensors: Mapping[str, Tensor]
    rank: int
    scale: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Algorithm:
    """Describes one way of storing an update.

    required, optional: the roles of a module's tensors; claims(roles): whether a module with these roles, complete or
    not, is of this algorithm; where several claim one, the one that requires the most of its roles wins;
    refusal: why modules of this algorithm cannot be moved, "" when they can; the rest is not used then;
    layout(entries by role, limits): raises BadFile when shapes do not fit each other or the limits;
    decode(tensors by role, scale, shape of the site's or fused weight): the update; tensors are float32, or float64
    when a test asks for exactness, and the update keeps their element type;
    encode(update): the tensors by role, without alpha, in the shapes that files use; given only updates whose
    `algorithm` is this one's name; where alpha is no strength (the constraint of OFT) it is among the tensors and scale
    is None; None (no encode) for what nobody would want written.
    """

    name: str
    summary: str
    required: frozenset[str]
    optional: frozenset[str] = frozenset()
    refusal: str = ""
    claims: Callable[[frozenset[str]], bool] | None = None
    layout: Callable[[Mapping[str, TensorEntry], ReadLimits], Layout] | None = None
    decode: Callable[[Mapping[str, Tensor], float, SiteShape], Update] | None = None
    encode: Callable[[Any], Encoded] | None = None

    def claims_roles(self, roles: frozenset[str]) -> bool:
        """Tells whether a module with these roles is of this algorithm."""
        if self.claims is not None:
            return self.claims(roles)
        return roles <= self.required | self.optional


def require_floats(entries: Mapping[str, TensorEntry], roles: frozenset[str] | set[str]) -> None:
    """Raises BadFile when a tensor in one of these roles is not of floating-point numbers."""
    for role, entry in entries.items():
        if role in roles and entry.dtype not in FLOATS:
            raise BadFile("bad-dtype", f"tensor {entry.name!r} is {entry.dtype}; a floating-point tensor is expected")


def require_scalar(entries: Mapping[str, TensorEntry], role: str) -> None:
    """Raises BadFile when the tensor in this role is there and not a single number."""
    if (entry := entries.get(role)) is not None and math.prod(entry.shape) != 1:
        raise BadFile("bad-shape", f"tensor {entry.name!r} has shape {list(entry.shape)}; a single number is expected")


def require_rank(layout: Layout, entry: TensorEntry, limits: ReadLimits) -> None:
    """Raises BadFile when the rank is beyond the limits; legal files have ranks above the narrow side of a weight."""
    largest = limits.rank
    if layout.shape is not None:
        wide = max(layout.shape.out_features, layout.shape.columns)
        largest = min(largest, int(limits.rank_to_width * wide))
    if layout.rank > largest:
        rule = f"for a weight {layout} at most {largest} is read"
        raise BadFile("rank-too-large", f"{entry.name!r} has rank {layout.rank}; {rule}")


def misfit(entries: Mapping[str, TensorEntry], rule: str) -> BadFile:
    """Words that the tensors of one module do not fit each other."""
    seen = ", ".join(f"{entry.name!r} {list(entry.shape)}" for entry in entries.values())
    return BadFile("bad-shape", f"the tensors {seen} do not fit each other: {rule}")


def incomplete(entries: Mapping[str, TensorEntry], missing: str) -> BadFile:
    """Words that one module lacks a tensor that its update is made of."""
    seen = ", ".join(repr(entry.name) for entry in entries.values())
    return BadFile("incomplete-pair", f"beside {seen} there is no {missing}; fetch the adapter again")


def require_weight(weight: Tensor | None, algorithm: str) -> Tensor:
    """Gives the weight of the base that an update needs. Raises ValueError where there is none."""
    if weight is None:
        raise ValueError(f"the change that {algorithm} makes can only be formed with the weight of the base model")
    return weight


def working_type(weight: Tensor | None, own: Tensor) -> torch.dtype:
    """Gives the element type to compute in: that of the base weight, or the update's own where there is none."""
    return own.dtype if weight is None else weight.dtype


def no_rows(algorithm: str, why: str) -> Unsupported:
    """Words that a part of a fused weight cannot be taken out of an update exactly."""
    message = f"a {algorithm} update of a fused weight cannot be divided into its parts: {why}"
    return Unsupported("unsupported-algorithm", f"{message}; move it between models that both fuse the weight")
