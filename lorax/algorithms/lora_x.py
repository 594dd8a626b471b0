"""LoRA-X: changes of the leading singular values of the base weight, U_k diag(s) V_k^T (arXiv 2501.16559, eq. 2).

U_k and V_k are the leading k singular vectors of the base weight as a matrix and are not stored. There is no public
code and no public file format of this method; lora_x_sigma (k) is the name that lorax gives to the trained numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lorax.adapter import LowRank, SiteShape
from lorax.algorithm import Algorithm, Encoded, Layout, misfit, no_rows, require_floats, require_scalar, require_weight
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from typing import NoReturn

    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LoRAX:
    """Holds the numbers that are added to the k leading singular values, and their strength."""

    sigma: Tensor
    scale: float
    kernel: tuple[int, ...] | None = None

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        return "lora_x"

    @property
    def needs_base(self) -> bool:
        """Tells that the change depends on the base weight."""
        return True

    def low_rank(self) -> None:
        """Gives nothing: the factors are known only with the base weight, see `low_rank_on`."""

    def low_rank_on(self, weight: Tensor) -> LowRank:
        """Gives the exact factors of rank k, for the weight of the base."""
        left, _, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        kept = self.sigma.numel()
        up = left[:, :kept] * self.sigma.to(weight.dtype)
        return LowRank(up, right[:kept].contiguous(), self.scale, self.kernel)

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the change in the shape of the weight. Raises ValueError without the weight."""
        weight = require_weight(weight, "LoRA-X")
        return self.low_rank_on(weight).dense().reshape(weight.shape)

    def rows(self, begin: int, end: int) -> NoReturn:
        """Raises Unsupported: the singular vectors are those of all rows together."""
        raise no_rows("LoRA-X", f"its singular vectors go over more rows than {begin} to {end}")


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    del limits
    require_floats(entries, {"lora_x_sigma"})
    require_scalar(entries, "alpha")
    shape = entries["lora_x_sigma"].shape
    if len(shape) != 1:
        raise misfit(entries, "one number for each of the leading singular values is expected")
    return Layout(None, shape[0], lambda wanted: shape[0] <= min(wanted.out_features, wanted.columns))


def _decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> LoRAX:
    return LoRAX(tensors["lora_x_sigma"], scale, shape.kernel)


def _encode(update: LoRAX) -> Encoded:
    return Encoded({"lora_x_sigma": update.sigma.contiguous()}, int(update.sigma.numel()), update.scale)


ALGORITHM = Algorithm(
    name="lora_x",
    summary="changes of the leading singular values of the base weight (LoRA-X)",
    required=frozenset({"lora_x_sigma"}),
    optional=frozenset({"alpha"}),
    layout=_layout,
    decode=_decode,
    encode=_encode,
)
