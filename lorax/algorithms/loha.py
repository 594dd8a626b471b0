"""LoHa: scale * (w1_a @ w1_b) * (w2_a @ w2_b), the elementwise product of two low-rank matrices (arXiv 2108.06098).

w*_a (out, rank), w*_b (rank, in * taps). The Tucker form for convolutions adds the cores t1, t2 (rank, rank, *kernel)
and then has the rank first: w*_a (rank, out), w*_b (rank, in). A product of matrices of rank r has rank r^2 at most,
and its factors are known: the products of all pairs of columns of the w*_a, and of all pairs of rows of the w*_b.
Spellings: LyCORIS and peft `hada_*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorax.adapter import LowRank, SiteShape
from lorax.algorithm import (
    Algorithm,
    Encoded,
    Layout,
    incomplete,
    misfit,
    require_floats,
    require_rank,
    require_scalar,
    working_type,
)
from lorax.matrix_fit import MatrixFit
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FACTORS = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
_CORES = frozenset({"hada_t1", "hada_t2"})


@dataclass(frozen=True, slots=True, eq=False)
class LoHa:
    """Holds the tensors of a LoHa module as the file has them; cores are None where it has none.

    shape: of the weight that is patched.
    """

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    scale: float
    shape: SiteShape
    t1: Tensor | None = None
    t2: Tensor | None = None

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        return "loha"

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
        """Gives the rank of each of the two matrices."""
        return int(self.w1_b.shape[0])

    def halves(self, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Gives (out, rank) and (rank, in * taps) of either matrix, its Tucker core folded into the second."""
        return (
            _half(self.w1_a.to(dtype), self.w1_b.to(dtype), self.t1),
            _half(self.w2_a.to(dtype), self.w2_b.to(dtype), self.t2),
        )

    @property
    def exact_rank(self) -> int:
        """Gives the rank of the factors that low_rank() gives."""
        return self.rank**2

    def norm(self) -> float:
        """Gives the Frobenius norm of the change, formed in full: factors of rank r^2 would take longer."""
        return float(self.dense().double().norm())

    def low_rank(self) -> LowRank | None:
        """Gives the factors of rank r^2, None where the weight is too small to gain by them."""
        if self.rank**2 > min(self.shape.out_features, self.shape.columns):
            return None
        (up1, down1), (up2, down2) = self.halves(self.w1_a.dtype)
        up = (up1[:, :, None] * up2[:, None, :]).flatten(1)
        down = (down1[:, None, :] * down2[None, :, :]).flatten(0, 1)
        return LowRank(up, down, self.scale, self.kernel)

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the change in the shape of the weight."""
        (up1, down1), (up2, down2) = self.halves(working_type(weight, self.w1_a))
        return (self.scale * (up1 @ down1) * (up2 @ down2)).reshape(self.shape.weight_shape)

    def rows(self, begin: int, end: int) -> LoHa:
        """Gives the change of rows [begin, end): those rows of both w*_a."""
        # With cores the rank comes first, and the rows of the weight are the columns of w*_a.
        part = (slice(None), slice(begin, end)) if self.t1 is not None else (slice(begin, end), slice(None))
        shape = SiteShape(end - begin, self.shape.in_features, self.shape.kernel)
        return LoHa(self.w1_a[part], self.w1_b, self.w2_a[part], self.w2_b, self.scale, shape, self.t1, self.t2)


def _half(first: Tensor, second: Tensor, core: Tensor | None) -> tuple[Tensor, Tensor]:
    if core is None:
        return first.flatten(1), second.flatten(1)
    # (rank, rank, *kernel) and (rank, in) -> (rank, in, *kernel), as columns of the weight seen as a matrix.
    return first.mT, (core.to(second.dtype).movedim(1, -1) @ second).movedim(-1, 1).flatten(1)


def layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    """Gives the weights that the tensors may patch. Raises BadFile when they do not fit each other or the limits."""
    if missing := _FACTORS - entries.keys():
        raise incomplete(entries, ", ".join(sorted(missing)))
    require_floats(entries, _FACTORS | _CORES)
    require_scalar(entries, "alpha")
    if _CORES & entries.keys():
        layout = _tucker_layout(entries)
        require_rank(layout, entries["hada_w1_b"], limits)
        return layout
    (out, columns), rank = _plain_size(entries)
    require_rank(Layout(SiteShape(out, columns), rank), entries["hada_w1_b"], limits)
    # The taps of a convolution are columns among others, so the kernel is open.
    return Layout(None, rank, MatrixFit(out, columns))


def _plain_size(entries: Mapping[str, TensorEntry]) -> tuple[tuple[int, int], int]:
    shapes = [entries[role].shape for role in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")]
    flat = [_as_matrix(shape) for shape in shapes]
    (out, rank), (inner, columns), (out2, rank2), (inner2, columns2) = flat
    if (out, columns) != (out2, columns2) or not rank == inner == rank2 == inner2 or any(len(s) < 2 for s in shapes):
        raise misfit(entries, "w*_a (out, rank) and w*_b (rank, in * taps) are expected, alike for both")
    return (out, columns), rank


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    columns = 1
    for size in shape[1:]:
        columns *= size
    return (shape[0] if shape else 0), columns


def _tucker_layout(entries: Mapping[str, TensorEntry]) -> Layout:
    if missing := _CORES - entries.keys():
        raise incomplete(entries, ", ".join(sorted(missing)))
    first, second = (_tucker_half(entries, number) for number in "12")
    if first != second:
        raise misfit(entries, "both halves are expected to be of the same shape")
    shape, rank = first
    return Layout(shape, rank)


def _tucker_half(entries: Mapping[str, TensorEntry], number: str) -> tuple[SiteShape, int]:
    first, second, core = (entries[f"hada_{part}"].shape for part in (f"w{number}_a", f"w{number}_b", f"t{number}"))
    ranks = {core[0], core[1], first[0], second[0]} if len(core) in {4, 5} and len(first) == len(second) == 2 else set()
    if len(ranks) != 1:
        raise misfit(entries, "beside a Tucker core (rank, rank, *kernel), w*_a (rank, out) and w*_b (rank, in) fit")
    return SiteShape(first[1], second[1], core[2:]), core[0]


def decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> LoHa:
    """Gives the update that the tensors mean for a weight of this shape, in their element type."""
    w1_a, w1_b, w2_a, w2_b = (tensors[role] for role in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"))
    return LoHa(w1_a, w1_b, w2_a, w2_b, scale, shape, tensors.get("hada_t1"), tensors.get("hada_t2"))


def encode(update: LoHa) -> Encoded:
    """Gives the tensors back as they were."""
    own = {role: getattr(update, role.removeprefix("hada_")) for role in sorted(_FACTORS | _CORES)}
    tensors = {role: tensor.contiguous() for role, tensor in own.items() if tensor is not None}
    return Encoded(tensors, update.rank, update.scale)


ALGORITHM = Algorithm(
    name="loha",
    summary="the elementwise product of two low-rank matrices, with or without Tucker cores",
    required=_FACTORS,
    optional=_CORES | {"alpha"},
    layout=layout,
    decode=decode,
    encode=encode,
)
