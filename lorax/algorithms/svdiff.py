"""SVDiff: the singular values of the base weight are shifted, W' = U relu(S + delta) V^T (arXiv 2303.11305, eq. 2).

delta holds min(out, in * taps) shifts, largest singular value first; U, S and V are those of the weight as a matrix,
found again from the base (svdiff-pytorch and its files, `spectral_shifts.safetensors`, every tensor ending in .delta).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lorax.adapter import LowRank, SiteShape
from lorax.algorithm import Algorithm, Encoded, Layout, misfit, no_rows, require_floats, require_weight
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from typing import NoReturn

    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SVDiff:
    """Holds the shifts of all singular values of a weight, and their strength."""

    delta: Tensor
    scale: float
    kernel: tuple[int, ...] | None = None

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        return "svdiff"

    @property
    def needs_base(self) -> bool:
        """Tells that the change depends on the base weight."""
        return True

    def low_rank(self) -> None:
        """Gives nothing: the singular vectors are known only with the base weight, see `low_rank_on`."""

    def low_rank_on(self, weight: Tensor) -> LowRank | None:
        """Gives the exact factors, of as many columns as values are shifted; None where no value is left alone."""
        if bool(self.delta.all()):
            return None
        left, shift, right = self._shifted(weight)
        moved = shift != 0
        moved[0] |= ~moved.any()  # factors have a rank of one at least
        up = (left[:, moved] * shift[moved]).contiguous()
        return LowRank(up, right[moved].contiguous(), 1.0, self.kernel)

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the change in the shape of the weight. Raises ValueError without the weight."""
        weight = require_weight(weight, "SVDiff")
        left, shift, right = self._shifted(weight)
        change: Tensor = ((left * shift) @ right).reshape(weight.shape)
        return change

    def rows(self, begin: int, end: int) -> NoReturn:
        """Raises Unsupported: the singular vectors are those of all rows together."""
        raise no_rows("SVDiff", f"its singular vectors go over more rows than {begin} to {end}")

    def _shifted(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The singular vectors of the weight, and what is added to its singular values."""
        left, values, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        return left, torch.relu(values + self.scale * self.delta.to(weight.dtype)) - values, right


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    del limits
    require_floats(entries, {"delta"})
    shape = entries["delta"].shape
    if len(shape) != 1:
        raise misfit(entries, "one shift for each singular value is expected")
    return Layout(None, 0, lambda wanted: min(wanted.out_features, wanted.columns) == shape[0])


def _decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> SVDiff:
    return SVDiff(tensors["delta"], scale, shape.kernel)


def _encode(update: SVDiff) -> Encoded:
    delta = update.delta if update.scale == 1.0 else update.delta * update.scale
    return Encoded({"delta": delta.contiguous()}, rank=0, scale=None)


ALGORITHM = Algorithm(
    name="svdiff",
    summary="shifts of the singular values of the base weight",
    required=frozenset({"delta"}),
    layout=_layout,
    decode=_decode,
    encode=_encode,
)
